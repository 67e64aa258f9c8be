"""`cloud.fabric.entropy`: ids."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from cloud.fabric.entropy import Ids
from protocol.ids import parse_id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@given(st.lists(st.binary(min_size=10, max_size=10), min_size=2, max_size=20))
def test_audit_ids_rise_within_a_millisecond(draws: list[bytes]) -> None:
    source = iter(draws)
    ids = Ids(lambda count: next(source))
    made = [parse_id("aud", ids.make("aud", NOW)) for _ in draws]
    assert made == sorted(set(made))
