"""Two replicas of the issuer on one PostgreSQL: a decision of one is effective at the other at once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.breakwater.errors import GenerationClosed, IssuanceLost, StillRunning
from cloud.breakwater.issuance import executor
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.store.issuance import IN_FLIGHT
from cloud.contracts.breakwater import OpenGeneration
from cloud.crypto.validity import is_current
from cloud.mtls.identity import make_csr
from cloud.storage import Location
from lab.postgres import postgres_copy
from protocol.ids import NodeId, make_id
from tests.cloud.breakwater.support import (
    FABRIC,
    SPIFFE,
    START,
    TENANT,
    Clock,
    Issuer,
    ask,
    closing,
    issuer_at,
    load,
    new_key,
    opening,
)

pytestmark = pytest.mark.slow

Pair = tuple[Issuer, Issuer]


@pytest.fixture
def database(home: Path) -> Location:
    return postgres_copy("breakwater", home / "breakwater" / "database.sqlite")


@pytest.fixture
async def pair(home: Path, database: Location) -> AsyncIterator[Pair]:
    clock = Clock()
    async with issuer_at(home, database, clock) as one, issuer_at(home, database, clock) as other:
        yield one, other


class Held(Signer):
    """A signer that waits for `go_on` before it signs."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def sign(self, linted: Linted) -> bytes:
        self.reached.set()
        await self.go_on.wait()
        return await super().sign(linted)


async def test_the_same_request_at_both_at_once_gets_one_certificate(pair: Pair) -> None:
    one, other = pair
    for number in range(1, 11):
        await one.generations.open(FABRIC, opening(number))
        asked = ask(new_key(), request=f"r{number}", generation=number)
        answers = await asyncio.gather(*(each.issuing.issue_device(FABRIC, asked) for each in (one, other) * 3))
        assert len(set(answers)) == 1
    assert [row["state"] for row in await one.node_rows()] == ["issued"] * 10


async def test_many_requests_at_both_share_no_serial_and_overfill_no_shard(pair: Pair) -> None:
    one, other = pair
    await one.generations.open(FABRIC, opening())
    asked = [ask(new_key(), request=f"r{number}") for number in range(60)]
    answers = await asyncio.gather(
        *((one, other)[number % 2].issuing.issue_device(FABRIC, body) for number, body in enumerate(asked))
    )
    serials = {load(answer.certificate_chain[0]).serial_number for answer in answers}
    assert len(serials) == 60
    assert {row["shard"] for row in await one.node_rows()} == {"nodes-1.1"}
    (shard,) = [row for row in await one.shards() if row["authority"] == "nodes-1"]
    assert shard["reserved"] == 1000


async def test_a_close_at_one_refuses_at_the_other_at_once(pair: Pair) -> None:
    one, other = pair
    await one.generations.open(FABRIC, opening())
    assert await other.generations.is_open(TENANT, SPIFFE.node, 1)
    await other.issuing.issue_device(FABRIC, ask(new_key()))
    assert await one.generations.close_up_to(FABRIC, closing()) == 1
    assert not await other.generations.is_open(TENANT, SPIFFE.node, 1)
    with pytest.raises(GenerationClosed):
        await other.issuing.issue_session(FABRIC, ask(new_key(), request="s"))


async def test_issuance_and_close_raced_at_two_replicas(pair: Pair) -> None:
    """After the close every device certificate of the generation is revoked, whichever of the two was first."""
    one, other = pair

    async def race(number: int) -> None:
        node = NodeId(make_id("node", number, b"9876543210"))
        await one.generations.open(FABRIC, OpenGeneration(TENANT, node, 1))
        body = ask(new_key(), request=f"r{number}")
        issue = type(body)(body.request, TENANT, node, 1, body.csr, body.not_after)
        answer, _ = await asyncio.gather(
            one.issuing.issue_device(FABRIC, issue),
            other.generations.close_up_to(FABRIC, type(closing())(TENANT, node, 1)),
            return_exceptions=True,
        )
        if isinstance(answer, BaseException):
            assert isinstance(answer, GenerationClosed | IssuanceLost)
        else:
            assert await one.is_revoked(load(answer.certificate_chain[0]).serial_number)

    await asyncio.gather(*(race(number) for number in range(1, 41)))
    rows = [row for row in await one.records() if row["node"]]
    assert {row["state"] for row in rows} <= {"revoked", "orphaned"}
    moved = {row["id"]: row["revision"] for row in await one.shards()}
    assert all(moved[row["shard"]] > 0 for row in rows)


async def test_a_record_in_flight_is_no_orphan_of_another_start_until_it_is_old(home: Path, database: Location) -> None:
    held = Held()
    async with issuer_at(home, database, Clock(), held) as one, issuer_at(home, database, Clock()) as other:
        await one.generations.open(FABRIC, opening())
        running = asyncio.create_task(one.issuing.issue_device(FABRIC, ask(new_key())))
        await held.reached.wait()
        assert await other.executor.recover() == 0
        assert await other.executor.sweep() == 0
        held.go_on.set()
        answer = await running
        other.clock.forward(IN_FLIGHT)
        assert await other.executor.recover() == 0
        assert await other.executor.sweep() == 0
        assert not await other.is_revoked(load(answer.certificate_chain[0]).serial_number)


@pytest.mark.parametrize("ahead", [timedelta(minutes=6), timedelta(days=365)])
async def test_a_record_from_the_future_is_in_flight_for_nobody(
    home: Path, database: Location, ahead: timedelta
) -> None:
    """A replica died while its clock was ahead. The others do not wait until their clocks get there."""
    held = Held()
    async with issuer_at(home, database, Clock(), held) as one, issuer_at(home, database, Clock()) as other:
        await one.generations.open(FABRIC, opening())
        one.clock.forward(ahead)
        asked = ask(new_key(), not_after=START + timedelta(days=400))
        running = asyncio.create_task(one.issuing.issue_device(FABRIC, asked))
        await held.reached.wait()
        certificate = (await other.issuing.issue_device(FABRIC, asked)).certificate_chain[0]
        assert is_current(load(certificate), other.clock())
        held.go_on.set()
        with pytest.raises(IssuanceLost):
            await running


@pytest.mark.parametrize(("ahead", "swept"), [(timedelta(minutes=4), 0), (timedelta(minutes=6), 1)])
async def test_a_record_from_the_future_is_swept(home: Path, database: Location, ahead: timedelta, swept: int) -> None:
    held = Held()
    async with issuer_at(home, database, Clock(), held) as one, issuer_at(home, database, Clock()) as other:
        await one.generations.open(FABRIC, opening())
        one.clock.forward(ahead)
        running = asyncio.create_task(one.issuing.issue_device(FABRIC, ask(new_key())))
        await held.reached.wait()
        assert await other.executor.sweep() == swept
        held.go_on.set()
        (result,) = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(result, IssuanceLost) == bool(swept)


async def test_a_record_of_a_dead_replica_is_swept_and_never_signed(home: Path, database: Location) -> None:
    held = Held()
    async with issuer_at(home, database, Clock(), held) as one, issuer_at(home, database, Clock()) as other:
        await one.generations.open(FABRIC, opening())
        running = asyncio.create_task(one.issuing.issue_device(FABRIC, ask(new_key())))
        await held.reached.wait()
        other.clock.forward(IN_FLIGHT - timedelta(seconds=1))
        assert await other.executor.sweep() == 0
        other.clock.forward(timedelta(seconds=1))
        assert await other.executor.sweep() == 1
        held.go_on.set()
        with pytest.raises(IssuanceLost):
            await running
        (row,) = await one.node_rows()
        assert (row["state"], row["certificate"]) == ("orphaned", None)
        (shard,) = [each for each in await one.shards() if each["id"] == row["shard"]]
        assert shard["revision"] == 1


async def test_a_repeat_waits_for_the_replica_at_work_and_then_gives_up(
    home: Path, database: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with issuer_at(home, database, Clock(), held) as one, issuer_at(home, database, Clock()) as other:
        await one.generations.open(FABRIC, opening())
        asked = ask(new_key())
        running = asyncio.create_task(one.issuing.issue_device(FABRIC, asked))
        await held.reached.wait()
        monkeypatch.setattr(executor, "OTHER_REPLICA_SECONDS_MAX", 0.1)
        with pytest.raises(StillRunning):
            await other.issuing.issue_device(FABRIC, asked)
        monkeypatch.setattr(executor, "OTHER_REPLICA_SECONDS_MAX", 30.0)
        repeat = asyncio.create_task(other.issuing.issue_device(FABRIC, asked))
        held.go_on.set()
        assert await repeat == await running
        assert len(await one.node_rows()) == 1


async def test_each_revocation_at_either_is_one_event(pair: Pair) -> None:
    one, other = pair
    serials = []
    for number in range(10):
        issued = await one.issuing.issue_service("fabric", make_csr(new_key()), f"s{number}", FABRIC)
        serials.append(load(issued.certificate_chain[0]).serial_number)
    done = await asyncio.gather(
        *(each.service_certificates.revoke(FABRIC, serial, "keyCompromise") for serial in serials for each in pair)
    )
    assert sum(done) == 10
    rows = [row for row in await other.records() if row["state"] == "revoked"]
    await asyncio.gather(*(each.parts.events.sequencer.run_once() for each in pair))
    answer = await other.parts.events.change_feed.after("", 0)
    assert [event.position for event in answer.events] == list(range(1, len(answer.events) + 1))
    events = [event for event in answer.events if event.type.endswith("service_certificate.revoked.v1")]
    assert sorted(event.subject for event in events) == sorted(f"service_certificate/{row['serial']}" for row in rows)
    assert {row["reason"] for row in rows} == {1}
