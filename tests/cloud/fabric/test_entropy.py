"""`cloud.fabric.entropy`: ids."""

from datetime import UTC, datetime, timedelta

from cloud.fabric.entropy import new_id, system_entropy
from protocol.ids import parse_id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_ids_differ_and_a_later_one_is_greater() -> None:
    ids = [parse_id("node", new_id("node", NOW, system_entropy)) for _ in range(20)]
    assert len(set(ids)) == 20
    assert new_id("node", NOW + timedelta(milliseconds=1), bytes) > max(ids)
