"""`cloud.breakwater.store.retention`: deletes old sessions, responders and replaced devices, and no others."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cloud.breakwater.errors import CsrRefused
from cloud.breakwater.store import Stores, retention
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.retention import Step
from cloud.contracts.breakwater import REASON_NUMBERS
from cloud.storage import Statement
from lab.postgres import database_location
from tests.cloud.breakwater.store.samples import DAY, HOUR, NODE, NOW, TBS, adopt, entry, issue, order, states


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


async def test_replaced_device_certificates_are_deleted_and_the_newest_of_each_key_stays(stores: Stores) -> None:
    await stores.generations.open(entry(2))
    # 1, 7 and 8 have one key. 9 has it too, and has no certificate yet. 10 has an earlier key. 11 is of another
    # generation.
    await issue(stores, order(10), NOW)
    await issue(stores, order(7, key=1), NOW + HOUR)
    await issue(stores, order(8, key=1), NOW + 2 * HOUR)
    await stores.issuance.record(order(9, key=1), TBS, NOW + 3 * HOUR)
    await issue(stores, order(11, generation=2), NOW + 3 * HOUR)
    assert await stores.retention.step("", NOW + DAY) == Step("", 0)
    assert await stores.retention.step("", NOW + DAY + HOUR) == Step("", 3 + 2)
    assert await states(stores) == {
        5: "issued",
        6: "recorded",
        8: "issued",
        9: "recorded",
        10: "issued",
        11: "issued",
    }
    device = await stores.issuance.device(NODE, 1)
    assert device is not None
    with pytest.raises(CsrRefused):
        await stores.issuance.record(order(12, generation=2, key=1), TBS, NOW + 4 * HOUR)


async def test_revoked_device_certificates_stay(stores: Stores) -> None:
    """They are in the CRL, and their key stays blocked."""
    await stores.generations.close_up_to(entry(), REASON_NUMBERS["superseded"])
    await stores.generations.open(entry(2))
    await issue(stores, order(7, generation=2), NOW + HOUR)
    assert (await stores.retention.step("", NOW + DAY + HOUR)).deleted == 3
    assert (await states(stores))[1] == "revoked"


@pytest.mark.parametrize("statement", [retention._DELETE, retention._DELETE_DEVICE])
def test_sqlite_deletes_by_the_serial_and_reads_no_other_records(statement: Statement, tmp_path: Path) -> None:
    """Without statistics, SQLite prefers any index with an equation to a range of the primary key."""
    location = database_location("sqlite", "breakwater", tmp_path)
    assert isinstance(location, Path)
    with closing(sqlite3.connect(location)) as database:
        text = statement.sqlite
        plan = database.execute(f"EXPLAIN QUERY PLAN {text}", ["x"] * text.count("?")).fetchall()
    assert ["serial" in step[3] and "INDEX sqlite_autoindex_certificate_1" in step[3] for step in plan] == [True]
