"""The chores of an issuer: they are done again and again, whatever fails once."""

from datetime import timedelta

import pytest

from cloud.breakwater.background import SESSIONS_KEPT, Chores
from cloud.breakwater.store.metrics_reads import MeasureStore
from tests.cloud.breakwater.support import FABRIC, Issuer, ask, load, new_key, opening


async def test_the_numbers_that_a_query_knows(issuer: Issuer) -> None:
    chores = Chores(issuer.assembly, MeasureStore(issuer.engine), issuer.clock, timedelta(hours=24))
    assert len(chores.tasks()) == 4
    await issuer.issuing.open_generation(FABRIC, opening())
    await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    await chores.refresh()
    text = (await issuer.assembly.metrics.registry.render()).decode()
    assert 'cascade_breakwater_records{state="issued"} 3.0' in text
    assert "cascade_breakwater_database_up 1.0" in text
    assert 'cascade_breakwater_authority_expires_seconds{authority="nodes-1"}' in text


async def test_a_database_that_is_away_is_a_number(issuer: Issuer) -> None:
    chores = Chores(issuer.assembly, MeasureStore(issuer.engine), issuer.clock, timedelta(hours=24))
    await chores.refresh()
    await issuer.engine.close()
    text = (await issuer.assembly.metrics.registry.render()).decode()
    assert "cascade_breakwater_database_up 0.0" in text


async def test_the_use_of_each_key_is_a_line_of_the_audit(issuer: Issuer) -> None:
    chores = Chores(issuer.assembly, MeasureStore(issuer.engine), issuer.clock, timedelta(hours=24))
    await issuer.issuing.open_generation(FABRIC, opening())
    for request in ("a", "b"):
        await issuer.issuing.issue_device(FABRIC, ask(new_key(), request=request))
    for _ in range(2):
        await chores.tell_usage()
    lines = [(row["object"], row["detail"]) for row in await issuer.audit() if row["action"] == "authority.use"]
    assert lines == [("nodes-1", "2 signatures")]


async def test_sessions_are_forgotten_long_after_their_end_and_nothing_else_is(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.breakwater.store.retention.ROWS_LOOKED_AT", 3)
    chores = Chores(issuer.assembly, MeasureStore(issuer.engine), issuer.clock, timedelta(hours=24))
    for generation in (1, 2):
        await issuer.issuing.open_generation(FABRIC, opening(generation))
    await issuer.issuing.issue_device(FABRIC, ask(new_key(), request="device"))
    await issuer.issuing.issue_responder("nodes-1", new_key().public_key())
    for number in range(8):
        await issuer.issuing.issue_session(FABRIC, ask(new_key(), request=f"s{number}"))
    kept = {row["serial"] for row in await issuer.records() if row["profile"] not in ("session", "responder")}
    everything = len(await issuer.records())

    async def walk() -> None:
        for _ in range(everything):
            await chores.purge()

    issuer.clock.forward(SESSIONS_KEPT)
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
