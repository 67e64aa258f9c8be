"""`cloud.breakwater.store.retention`: deletes old records of sessions and responders, and no others."""

import pytest

from cloud.breakwater.store import Stores
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.retention import Step
from tests.cloud.breakwater.store.samples import DAY, HOUR, NOW, TBS, adopt, entry, issue, order, states


@pytest.fixture
async def stores(stores: Stores) -> Stores:
    """Records of every profile: 1 device, 2 and 3 sessions, 4 responder, 5 service, 6 a session that is recorded."""
    await adopt(stores)
    await stores.generations.open(entry())
    await issue(stores, order(1))
    await issue(stores, order(2, "session"))
    await issue(stores, order(3, "session"))
    await issue(stores, order(4, "responder"))
    await issue(stores, order(5, "service"))
    await stores.issuance.record(order(6, "session"), TBS, NOW)
    return stores


async def test_records_of_later_certificates_stay(stores: Stores) -> None:
    assert await stores.retention.step("", NOW + DAY) == Step("", 0)
    assert len(await states(stores)) == 6


async def test_ended_sessions_and_responders_are_deleted(stores: Stores) -> None:
    assert await stores.retention.step("", NOW + DAY + HOUR) == Step("", 3)
    assert await states(stores) == {1: "issued", 5: "issued", 6: "recorded"}
    assert await stores.retention.step("", NOW + DAY + HOUR) == Step("", 0)


async def test_a_walk_reads_pages(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.breakwater.store.retention.ROWS_LOOKED_AT", 2)
    before, cursor, deleted = NOW + DAY + HOUR, "", []
    for after in (2, 4, 6):
        step = await stores.retention.step(cursor, before)
        assert step.cursor == serial_text(after)
        cursor = step.cursor
        deleted.append(step.deleted)
    assert deleted == [1, 2, 0]
    assert await stores.retention.step(cursor, before) == Step("", 0)
