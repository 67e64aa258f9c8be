"""`cloud.breakwater.refusal_audit`: a row for each refusal up to a limit; further refusals are counted."""

from datetime import timedelta

import pytest

from cloud.breakwater.refusal_audit import PERIOD, ROWS_MAX, RefusalAudit
from cloud.storage import StorageError
from tests.cloud.breakwater.support import START, Issuer


@pytest.fixture
def refusals(issuer: Issuer) -> RefusalAudit:
    return RefusalAudit(issuer.parts.stores.audit, issuer.parts.entries, issuer.clock)


async def lines(issuer: Issuer) -> list[tuple[str, str]]:
    return [(row["caller"], row["detail"]) for row in await issuer.audit() if row["outcome"] == "refused"]


async def test_a_refusal_is_a_row(issuer: Issuer, refusals: RefusalAudit) -> None:
    await refusals.record("service/fabric", "csr_refused", "POST /v1/x", "the key is not an EC key")
    (row,) = await issuer.audit()
    assert (row["action"], row["caller"], row["object"], row["outcome"], row["detail"], row["at"]) == (
        "request.refuse",
        "service/fabric",
        "POST /v1/x",
        "refused",
        "csr_refused: the key is not an EC key",
        START,
    )


async def test_a_caller_gets_so_many_rows_an_hour_for_each_code_and_the_rest_are_counted(
    issuer: Issuer, refusals: RefusalAudit
) -> None:
    for _ in range(ROWS_MAX + 30):
        await refusals.record("anonymous", "not_found", "GET /x", "")
    await refusals.record("anonymous", "malformed", "GET /x", "")
    await refusals.record("service/fabric", "not_found", "GET /x", "")
    assert len(await lines(issuer)) == ROWS_MAX + 2
    issuer.clock.forward(PERIOD - timedelta(seconds=1))
    await refusals.flush()
    assert len(await lines(issuer)) == ROWS_MAX + 2
    issuer.clock.forward(timedelta(seconds=1))
    await refusals.record("anonymous", "not_found", "GET /x", "")
    assert ("anonymous", f"not_found: 30 more since {START.isoformat(timespec='seconds')}") in await lines(issuer)
    assert len(await lines(issuer)) == ROWS_MAX + 4


async def test_the_count_is_written_when_the_process_stops(issuer: Issuer, refusals: RefusalAudit) -> None:
    for _ in range(ROWS_MAX + 1):
        await refusals.record("anonymous", "not_found", "GET /x", "")
    await refusals.flush()
    assert len(await lines(issuer)) == ROWS_MAX
    for _ in range(2):
        await refusals.flush(everything=True)
        assert (await lines(issuer))[-1] == (
            "anonymous",
            f"not_found: 1 more since {START.isoformat(timespec='seconds')}",
        )
        assert len(await lines(issuer)) == ROWS_MAX + 1


async def test_callers_beyond_a_number_are_counted_together(
    issuer: Issuer,
) -> None:
    refusals = RefusalAudit(issuer.parts.stores.audit, issuer.parts.entries, issuer.clock, pairs_max=3)
    for number in range(ROWS_MAX + 10):
        await refusals.record(f"node/{number}", "conflict", "POST /x", "")
    assert len(await lines(issuer)) == 3 + ROWS_MAX
    await refusals.flush(everything=True)
    assert (await lines(issuer))[-1][0] == "others"


async def test_texts_of_callers_are_made_printable_and_short(issuer: Issuer, refusals: RefusalAudit) -> None:
    await refusals.record("anonymous", "not_found", "GET /\x00\x1b[2J" + "a" * 9000, "\x00" + "b" * 9000)
    (row,) = await issuer.audit()
    assert row["object"].startswith("GET /??[2Jaaa")
    assert len(row["object"]) == 128
    assert len(row["detail"]) == 1000
    assert row["detail"].isprintable()


async def test_a_database_error_does_not_change_the_refusal(
    refusals: RefusalAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise StorageError("away")

    monkeypatch.setattr(refusals._store, "add", away)
    await refusals.record("anonymous", "not_found", "GET /x", "")
