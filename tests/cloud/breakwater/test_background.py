"""`cloud.breakwater.background`: audits key use, deletes old records, follows authorities, survives errors."""

from datetime import timedelta

import pytest

from cloud.breakwater.background import RECORDS_KEPT, REFUSALS_KEPT, Background
from cloud.breakwater.errors import SignerUnavailable
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from tests.cloud.breakwater.support import FABRIC, Issuer, ask, load, new_key, opening


class Once(Stopping):
    """A `Stopping` whose first sleep ends at once."""

    async def sleep(self, seconds: float) -> bool:
        went_down = self.requested
        self.request()
        return went_down


@pytest.mark.parametrize("fault", [StorageError("no database"), SignerUnavailable("no token")])
async def test_tasks_continue_after_database_and_key_errors(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    async def away() -> None:
        raise fault

    monkeypatch.setattr(issuer.parts.executor, "sweep", away)
    background = Background(issuer.parts, issuer.clock)
    for method in ("refresh_authorities", "record_key_use", "purge"):
        monkeypatch.setattr(background, method, away)
    tasks = background.tasks()
    assert [task.__name__ for task in tasks] == ["authorities", "sweep", "usage", "purge", "root CRLs"]
    for task in tasks:
        await task(Once())


async def test_the_use_of_each_key_is_a_row_of_the_audit(issuer: Issuer) -> None:
    background = Background(issuer.parts, issuer.clock)
    await issuer.generations.open(FABRIC, opening())
    for request in ("a", "b"):
        await issuer.issuing.issue_device(FABRIC, ask(new_key(), request=request))
    for _ in range(2):
        await background.record_key_use()
    lines = [(row["object"], row["detail"]) for row in await issuer.audit() if row["action"] == "authority.use"]
    assert lines == [("nodes-1", "2 signatures")]


async def test_sessions_are_forgotten_long_after_their_end_and_nothing_else_is(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.breakwater.store.retention.ROWS_LOOKED_AT", 3)
    background = Background(issuer.parts, issuer.clock)
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
    await issuer.issuing.issue_device(FABRIC, ask(new_key(), request="device"))
    await issuer.issuing.issue_responder("nodes-1", new_key().public_key())
    for number in range(8):
        await issuer.issuing.issue_session(FABRIC, ask(new_key(), request=f"s{number}"))
    kept = {row["serial"] for row in await issuer.records() if row["profile"] not in ("session", "responder")}
    everything = len(await issuer.records())

    async def walk() -> None:
        for _ in range(everything):
            await background.purge()

    issuer.clock.forward(RECORDS_KEPT)
    await walk()
    assert len(await issuer.records()) == everything
    issuer.clock.forward(timedelta(days=3))
    late = await issuer.issuing.issue_session(FABRIC, ask(new_key(), request="late"))
    await walk()
    left = {row["serial"] for row in await issuer.records()}
    assert left == {*kept, f"{load(late.certificate_chain[0]).serial_number:040x}"}
    lines = [row["detail"] for row in await issuer.audit() if row["action"] == "record.purge"]
    assert sum(int(line.split()[0]) for line in lines) == 9
    again = await issuer.issuing.issue_session(FABRIC, ask(new_key(), request="s0"))
    assert load(again.certificate_chain[0]).not_valid_after_utc > issuer.clock()


async def test_refusals_leave_the_audit_after_months_and_decisions_stay(issuer: Issuer) -> None:
    background, entries = Background(issuer.parts, issuer.clock), issuer.parts.entries
    for outcome in ("refused", "done", "refused"):
        await issuer.parts.stores.audit.add(entries.make("anonymous", "request.refuse", "/", outcome=outcome))
    await background.purge()
    before = len(await issuer.audit())
    issuer.clock.forward(REFUSALS_KEPT + timedelta(seconds=1))
    await issuer.parts.stores.audit.add(entries.make("anonymous", "request.refuse", "/", outcome="refused"))
    for _ in range(2):
        await background.purge()
    rows = [row["outcome"] for row in await issuer.audit() if row["action"] == "request.refuse"]
    assert sorted(rows) == ["done", "refused"]
    assert len(await issuer.audit()) == before - 1


async def test_tasks_continue_without_a_database_and_the_metric_shows_it(issuer: Issuer) -> None:
    background = Background(issuer.parts, issuer.clock)
    await background.refresh_authorities()
    assert "database_up 1.0" in (await issuer.parts.metrics.registry.render()).decode()
    await issuer.engine.close()
    tasks = background.tasks()
    assert [getattr(task, "__name__", "") for task in tasks] == ["authorities", "sweep", "usage", "purge", "root CRLs"]
    await tasks[0](Once())
    assert "database_up 0.0" in (await issuer.parts.metrics.registry.render()).decode()
    await tasks[1](Once())
