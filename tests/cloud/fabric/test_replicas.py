"""Two Fabrics on one PostgreSQL: races between them, a frozen one, and hints from one to the other.

`make drills PART=replicas` does the same with processes, under load.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cloud.fabric import errors, schemas
from cloud.fabric.store.keys import node_key, tenant_key
from cloud.storage import Statement
from cloud.storage.errors import DatabaseBusy, DatabaseUnavailable, TransactionLost
from cloud.storage.waits import waits_of_request
from cloud.tasks.stopping import Stopping
from lab.postgres import located
from protocol.encoding import json_encode, sha256_hex
from protocol.messages.renewal import ProveRenewal, Renewed, StartRenewal
from protocol.messages.sessions import Ask, Certificate, Session, StatementAnswer
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.breakwater.support import Clock, Issuer, issuer_at
from tests.cloud.fabric.copies import Box
from tests.cloud.fabric.support import (
    ALICE,
    NONCE,
    DirectIssuer,
    Machine,
    World,
    change,
    doorbell_of,
    run_once,
    waiting_polls,
    world_at,
)
from tests.simulators.forged_evidence import PaperChip
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("databases", ["postgresql"], indirect=True)]

WAITING = Statement("SELECT COUNT(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
ROUNDS = 3
IDLE_SECONDS = 1.0
"""Time after which the server ends the transaction of a frozen replica here. In production it is longer."""

Worlds = tuple[World, World]


@pytest.fixture
async def worlds(home: Path, databases: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worlds]:
    """Two replicas."""
    monkeypatch.setattr("cloud.storage.postgres.IDLE_SECONDS", IDLE_SECONDS)
    clock = Clock()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(world_at(home, databases, clock))
        yield one, await stack.enter_async_context(world_at(home, databases, clock, first=False))


async def stored(world: World) -> None:
    """Store what sessions reported. The rows of the other replica may be locked, so repeat it as the background task."""
    while True:
        try:
            return await world.parts.nodes.seen.store()
        except DatabaseBusy:
            await asyncio.sleep(0)


def kinds(results: Sequence[object]) -> list[type]:
    return sorted((type(result) for result in results), key=lambda kind: kind.__name__)


async def test_a_copy_that_asks_another_replica_is_caught(worlds: Worlds) -> None:
    """Neither replica has stored what its machine spent when the other one asks. The compare-and-set decides.

    The replica that stores second judges the copy again. In the other order its sessions are the earlier ones, and count
    as overtaken; later sessions then show the copy.
    """
    one, other = worlds
    machine = Machine(one, "copied")
    await machine.join((await one.code()).secret)
    box = Box(one, machine)
    await box.session()
    await one.parts.nodes.seen.store()
    twin = Box(other, machine)
    twin.token, twin.clock = box.token, box.clock
    for each in (box, twin, box, twin):
        await each.session()
    assert (await one.node(machine.node)).clone_cause == ""
    await stored(one)
    await stored(other)
    assert (await one.node(machine.node)).clone_cause == "renewal-token"
    actions = await one.actions(machine.node)
    assert actions.count("node.clone_suspected") == 1


async def test_one_machine_that_asks_two_replicas_is_no_clone(worlds: Worlds) -> None:
    one, other = worlds
    machine = Machine(one, "roaming")
    await machine.join((await one.code()).secret)
    box, elsewhere = Box(one, machine), Box(other, machine)
    for lost in (False, True, False, False):
        await box.session(lost=lost)
        elsewhere.token, elsewhere.clock = box.token, box.clock
        await elsewhere.session(lost=lost)
        box.token, box.clock = elsewhere.token, elsewhere.clock
        await asyncio.gather(stored(one), stored(other))
    assert (await one.node(machine.node)).clone_cause == ""
    assert "node.restored" not in await one.actions(machine.node)


async def test_races(worlds: Worlds) -> None:
    """The last seat, one chip twice, a suspension against sessions, a revocation against a confirm."""
    one, other = worlds
    for number in range(ROUNDS):
        code = await one.code()
        machines = [Machine(world, f"{label} {number}") for world, label in ((one, "a"), (other, "b"))]
        proofs = [(machine, await machine.start(code.secret)) for machine in machines]
        proving = [machine.prove(challenge, machine.proof(challenge)) for machine, challenge in proofs]
        results = await asyncio.gather(*proving, return_exceptions=True)
        assert kinds(results)[1] is errors.SeatsExhausted, results
        assert await one.seats_taken(code) == 1

    for number in range(ROUNDS):
        code = await one.code(seats=2)
        machines = [Machine(world, f"twice {number}") for world in worlds]
        proofs = [(machine, await machine.start(code.secret)) for machine in machines]
        await asyncio.gather(*(machine.prove(challenge, machine.proof(challenge)) for machine, challenge in proofs))
        assert machines[0].node == machines[1].node
        made = [machine.activated.generation for machine in machines if machine.activated]
        assert sorted(made) == [1, 2]
        assert await one.seats_taken(code) == 1

    machine = Machine(one)
    await machine.join((await one.code()).secret)
    for number in range(ROUNDS):
        at_other = Machine(other, machine.label, machine.node_key, machine.activated)
        _, session = await asyncio.gather(change(one, machine, "suspend", f"reason {number}"), at_other.session())
        peer = await at_other.peer()
        final = await at_other.refresh(peer)
        assert isinstance(final, Suspension)
        before = other.verified(session.current, peer)
        assert isinstance(before, Lease | Suspension)
        assert before.seq <= final.seq
        await change(other, machine, "resume")

    peer = await machine.peer()
    second = Machine(other, machine.label)
    await second.activate((await one.code()).secret)
    confirming = other.parts.nodes.confirmations.confirm(await second.peer(), Ask(NONCE, ""))
    _, confirmed = await asyncio.gather(change(one, machine, "revoke"), confirming, return_exceptions=True)
    assert isinstance(confirmed, StatementAnswer | errors.GenerationClosed), confirmed
    node = await one.node(machine.node)
    assert (node.standing, node.closed_up_to) == ("revoked", 2)
    closed = [await one.generation(machine.node, number) for number in (1, 2)]
    assert {row.statement_type for row in closed} == {Revocation.__name__.lower()}


@dataclass
class Late(DirectIssuer):
    """Breakwater as one Fabric calls it. `meanwhile` runs during an issuance, before or after Breakwater's own part."""

    meanwhile: Callable[[], Awaitable[object]] = asyncio.Event().wait
    after_the_issuance: bool = False

    async def issue_device(self, *body: Any) -> Certificate:
        return await self._late(super().issue_device(*body))

    async def issue_session(self, *body: Any) -> Certificate:
        return await self._late(super().issue_session(*body))

    async def _late(self, issuance: Coroutine[Any, Any, Certificate]) -> Certificate:
        if not self.after_the_issuance:
            await self.meanwhile()
        made = await issuance
        if self.after_the_issuance:
            await self.meanwhile()
        return made


async def renewal(machine: Machine, world: World) -> Callable[[], Coroutine[Any, Any, Renewed]]:
    """Start a renewal with a new key at a replica. Returns the function that proves it there."""
    assert machine.activated is not None
    renewals = world.parts.nodes.renewals
    challenge = await renewals.start(StartRenewal(machine.activated.certificate_chain[0], machine.evidence(), "1.0"))
    secret = world.entropy.last[32]
    machine = Machine(world, machine.label)  # for its new key
    chip = PaperChip(ak=machine.ak, node_key=machine.node_key, nonce_secret=secret, nonce_activation=challenge.renewal)
    made = chip.prove()
    body = ProveRenewal(secret, made.csr, made.key, NONCE)
    return lambda: renewals.prove(challenge.renewal, body, sha256_hex(json_encode(body)))


async def require_nothing_left(reader: Issuer, machine: Machine) -> None:
    """Each device certificate of the node is revoked and on its CRL, and no certificate is admitted any more."""
    assert machine.activated is not None
    assert not await reader.generations.is_open(machine.activated.tenant, machine.node, 1)
    rows = [row for row in await reader.records() if row["node"] == machine.node]
    assert {row["state"] for row in rows if row["profile"] == "device"} == {"revoked"}
    assert {row["state"] for row in rows if row["profile"] == "session"} <= {"issued", "revoked"}
    for shard in {row["shard"] for row in rows if row["shard"]}:
        published = await reader.parts.crl_publisher.ensure_fresh(shard)
        assert published is not None
        crl = x509.load_der_x509_crl(published.data)
        listed = {f"{entry.serial_number:040x}" for entry in crl}
        assert listed >= {row["serial"] for row in rows if row["shard"] == shard}


async def test_a_revocation_during_an_issuance_of_the_other(worlds: Worlds, home: Path, databases: Path) -> None:
    """The other Fabric has admitted the request, and Breakwater issues. Then the revocation commits."""
    one, other = worlds
    own = other.issuer
    async with issuer_at(home, located(databases, "breakwater"), one.clock) as reader:
        cases = itertools.product(("session", "renewal"), (False, True), (False, True))
        for number, (kind, closed_at_issuer, after_the_issuance) in enumerate(cases):
            machine = Machine(one, f"late {number}")
            await machine.join((await one.code()).secret)
            at_other = Machine(other, machine.label, machine.node_key, machine.activated)
            ask = at_other.session if kind == "session" else await renewal(machine, other)

            async def revoke(machine: Machine = machine, run: bool = closed_at_issuer) -> None:
                await change(one, machine, "revoke")
                if run:
                    await run_once(one)

            other.outside.issuer = Late(
                own.issuing, own.generations, meanwhile=revoke, after_the_issuance=after_the_issuance
            )
            before = await reader.records()
            with pytest.raises((errors.GenerationClosed, errors.ActivationClosed, errors.IssuerUnavailable)):
                await ask()
            other.outside.issuer = own
            made = len(await reader.records()) - len(before)
            assert made == (after_the_issuance or not closed_at_issuer)
            with pytest.raises(errors.GenerationClosed):
                await at_other.session()
            await run_once(one)
            await require_nothing_left(reader, machine)


async def test_a_revocation_raced_by_a_session_and_a_renewal(worlds: Worlds, home: Path, databases: Path) -> None:
    one, other = worlds
    async with issuer_at(home, located(databases, "breakwater"), one.clock) as reader:
        for number in range(ROUNDS):
            machine = Machine(one, f"raced {number}")
            await machine.join((await one.code()).secret)
            at_other = Machine(other, machine.label, machine.node_key, machine.activated)
            prove = await renewal(machine, other)
            _, *results = await asyncio.gather(
                change(one, machine, "revoke"), at_other.session(), prove(), run_once(one), return_exceptions=True
            )
            for result in results[:2]:
                # Breakwater answers `unavailable` if the generation closes during a signature. No certificate is issued.
                refusals = errors.GenerationClosed | errors.ActivationClosed | errors.IssuerUnavailable
                assert isinstance(result, Session | Renewed | refusals), result
            assert (await one.node(machine.node)).standing == "revoked"
            await run_once(one)
            await require_nothing_left(reader, machine)


async def test_a_token_is_not_revoked_while_it_commits(worlds: Worlds) -> None:
    one, other = worlds
    made = await one.parts.operators.tokens.create(ALICE, schemas.CreateToken("ci"))
    who = await other.parts.operators.tokens.authenticate(made.secret)
    assert who is not None
    async with other.parts.shared.acting.transaction(who, tenant_key("t")):
        revoking = asyncio.create_task(one.parts.operators.tokens.revoke(ALICE, made.token.id))

        async def waits() -> bool:
            return bool((await one.stores.engine.fetch(WAITING))[0]["n"])

        await until("the revocation to wait", waits)
        assert not revoking.done()
    await revoking
    with pytest.raises(errors.TokenRefused):
        await other.parts.operators.tenants.create(who, schemas.CreateTenant("too late"))


async def test_a_frozen_replica_costs_the_other_only_its_keys(worlds: Worlds) -> None:
    """The one holds a node's key and does nothing, as after SIGSTOP. The server ends its transaction."""
    one, other = worlds
    code = (await one.code(seats=3)).secret
    held, free = Machine(one, "held"), Machine(one, "free")
    for machine in (held, free):
        await machine.join(code)
    frozen, thawed = asyncio.Event(), asyncio.Event()

    async def freeze() -> None:
        async with one.stores.transaction(node_key(held.node)):
            frozen.set()
            await thawed.wait()

    task = asyncio.create_task(freeze())
    await frozen.wait()
    try:
        with waits_of_request(IDLE_SECONDS / 2):
            await change(other, free, "suspend")
            await Machine(other, "new").join(code)
        with waits_of_request(0.05), pytest.raises(DatabaseBusy):
            await change(other, held, "suspend")
        with waits_of_request(10 * IDLE_SECONDS):
            await change(other, held, "suspend")
    finally:
        thawed.set()  # or the close of the database waits for ever
    with pytest.raises((TransactionLost, DatabaseUnavailable)):
        await task
    assert (await one.node(held.node)).standing == "suspended"
    await change(one, held, "resume")


async def test_a_change_at_one_wakes_a_poll_at_the_other(worlds: Worlds) -> None:
    one, other = worlds
    machine = Machine(one)
    await machine.join((await one.code()).secret)
    peer = await machine.peer()
    cursor = (await other.parts.nodes.statements.events(peer, 0, 30)).cursor
    stopping, connected = Stopping(), asyncio.Event()

    async def missed() -> None:
        connected.set()

    hearing = doorbell_of(other)
    hearing.on_hint("connected", lambda _: None, missed)
    listening = asyncio.create_task(hearing.run(stopping))
    sending = asyncio.create_task(doorbell_of(one).run(stopping))
    await connected.wait()
    poll = asyncio.create_task(other.parts.nodes.statements.events(peer, cursor, 250))
    await until("the poll", lambda: waiting_polls(other) == 1)
    await change(one, machine, "revoke")
    async with asyncio.timeout(5):
        assert (await poll).cursor == cursor + 1
    stopping.request()
    await asyncio.gather(listening, sending)
