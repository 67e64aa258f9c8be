"""`cloud.audit`: the columns of every audit entry, and ids that rise."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.audit import SYSTEM, AuditEntries, AuditEntry
from cloud.tasks.current_request import enter, new_request
from protocol.ids import parse_id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class TextEntry(AuditEntry, frozen=True, kw_only=True):
    """The audit entry of a service with a column of its own."""

    detail: str = ""


def same_bytes(count: int) -> bytes:
    return b"\xff" * count


def test_an_entry_has_id_and_time_of_its_maker_and_the_columns_of_its_service() -> None:
    entry = AuditEntries(TextEntry, lambda: NOW, same_bytes).make(
        "operator/alice", "node.refuse", "node_1", tenant="ten_1", outcome="refused", detail="too late"
    )
    assert msgspec.structs.replace(entry, id="") == TextEntry(
        id="",
        at=NOW,
        actor="operator/alice",
        action="node.refuse",
        object="node_1",
        tenant="ten_1",
        outcome="refused",
        detail="too late",
    )
    assert parse_id("aud", entry.id) == entry.id


def test_what_is_not_said_is_empty_and_done() -> None:
    entry = AuditEntries(AuditEntry, lambda: NOW, same_bytes).make(SYSTEM, "record.purge")
    assert (entry.actor, entry.object, entry.tenant, entry.outcome) == ("system", "", "", "done")
    assert entry.request == ""


async def test_an_entry_names_the_request_that_makes_it() -> None:
    entries = AuditEntries(AuditEntry, lambda: NOW, same_bytes)
    request = new_request([], 1)
    enter(request)
    assert entries.make("operator/alice", "node.refuse").request == request.id
    assert entries.make(SYSTEM, "refusals.counted", request="").request == ""


def test_a_column_that_the_kind_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="detail"):
        AuditEntries(AuditEntry, lambda: NOW, same_bytes).make(SYSTEM, "record.purge", detail="seven")


@given(st.lists(st.binary(min_size=10, max_size=10), min_size=2, max_size=20), st.integers(-5, 5))
def test_ids_rise_whatever_is_drawn_and_wherever_the_clock_goes(draws: list[bytes], step_ms: int) -> None:
    drawn: Iterator[bytes] = iter(draws)
    times = iter(NOW + timedelta(milliseconds=step_ms * number) for number in range(len(draws)))
    entries = AuditEntries(AuditEntry, lambda: next(times), lambda count: next(drawn))
    made = [parse_id("aud", entries.make(SYSTEM, "x").id) for _ in draws]
    assert made == sorted(set(made))
