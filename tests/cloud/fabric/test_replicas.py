"""Two Fabrics on one PostgreSQL: races between them, a frozen one, and hints from one to the other.

`make drills PART=replicas` does the same with processes, under load.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.store.keys import node_key, tenant_key
from cloud.storage import Statement
from cloud.storage.errors import DatabaseBusy, DatabaseUnavailable, TransactionLost
from cloud.storage.waits import waits_of_request
from cloud.tasks.stopping import Stopping
from protocol.messages.sessions import Ask, StatementAnswer
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.support import ALICE, NONCE, Machine, World, change, waiting_polls, world_at
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


def kinds(results: Sequence[object]) -> list[type]:
    return sorted((type(result) for result in results), key=lambda kind: kind.__name__)


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
    with waits_of_request(IDLE_SECONDS / 2):
        await change(other, free, "suspend")
        await Machine(other, "new").join(code)
    with waits_of_request(0.05), pytest.raises(DatabaseBusy):
        await change(other, held, "suspend")
    with waits_of_request(10 * IDLE_SECONDS):
        await change(other, held, "suspend")
    thawed.set()
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
    stopping, room, connected = Stopping(), other.parts.shared.wake_room, asyncio.Event()

    async def wake_all() -> None:
        await room.wake_all()
        connected.set()

    listening = asyncio.create_task(other.stores.engine.listen(room.take_hint, wake_all, stopping))
    own = one.parts.shared.wake_room
    sending = asyncio.create_task(one.stores.engine.listen(own.take_hint, own.wake_all, stopping))
    await connected.wait()
    poll = asyncio.create_task(other.parts.nodes.statements.events(peer, cursor, 250))
    await until("the poll", lambda: waiting_polls(other) == 1)
    await change(one, machine, "revoke")
    async with asyncio.timeout(5):
        assert (await poll).cursor == cursor + 1
    stopping.request()
    await asyncio.gather(listening, sending)
