"""`cloud.fabric.parts`: several Fabrics in one process, each with separate parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from litestar.exceptions import ImproperlyConfiguredException

from cloud.fabric import errors, schemas
from cloud.fabric.app import make_api, make_repository
from cloud.fabric.entropy import system_entropy
from cloud.fabric.parts import SERVICES
from cloud.fabric.secrets import read_secrets
from cloud.fabric.store import stores_over
from cloud.http.guard import Guard
from cloud.mtls.peer import PeerChecks
from cloud.storage import ServiceEngine, StorageError
from lab.postgres import sqlite_database
from protocol.messages.sessions import Ask
from tests.cloud.breakwater.support import START, Clock
from tests.cloud.fabric.publishing import Holders
from tests.cloud.fabric.support import ALICE, NONCE, Machine, World, change, copied, run_once, waiting_polls, world_at
from tests.waiting import until


@pytest.fixture
async def worlds(home: Path, tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    """Two installations in this process. The clock of the second is a day ahead."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
        copied(home, folder)
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(world_at(home, folder, Clock(START + timedelta(days=number))))
            for number, folder in enumerate(folders)
        ]
        yield one, other


async def test_two_fabrics_of_one_process_see_only_their_own_data(worlds: tuple[World, World]) -> None:
    one, other = worlds
    # The same chip activates in both at the same time.
    machines = [Machine(world) for world in worlds]
    codes = [await world.code(life=timedelta(hours=1)) for world in worlds]
    await asyncio.gather(*(machine.join(code.secret) for machine, code in zip(machines, codes, strict=True)))
    for world, machine in zip(worlds, machines, strict=True):
        nodes = await world.parts.operators.node_lists.page("", "", "", 10)
        assert [node.id for node in nodes.items] == [machine.node]
        tenants = await world.parts.operators.tenants.page("", 10)
        assert [tenant.id for tenant in tenants.items] == [world.tenant]
    assert machines[0].node != machines[1].node
    first, second = [
        (await world.node(machine.node)).confirmed_at for world, machine in zip(worlds, machines, strict=True)
    ]
    assert (first, second) == (one.clock(), other.clock()) == (START, START + timedelta(days=1))

    with pytest.raises(errors.CodeRefused):
        await Machine(other, "another ek").start(codes[0].secret)
    with pytest.raises(errors.NotFound):
        await one.parts.operators.node_lists.detail(machines[1].node)
    token = await one.parts.operators.tokens.create(ALICE, schemas.CreateToken("of one"))
    assert await one.parts.operators.tokens.authenticate(token.secret) is not None
    assert await other.parts.operators.tokens.authenticate(token.secret) is None


async def test_two_fabrics_share_no_memory(worlds: tuple[World, World]) -> None:
    one, other = worlds
    machine, bystander = Machine(one), Machine(other)
    await machine.join((await one.code()).secret)
    await bystander.join((await other.code()).secret)
    await asyncio.gather(*(run_once(world) for world in worlds))
    assert (len(one.parts.nodes.seen), len(other.parts.nodes.seen)) == (0, 0)
    peer, theirs = await machine.peer(), await bystander.peer()
    await run_once(other)
    assert (len(one.parts.nodes.seen), len(other.parts.nodes.seen)) == (1, 0)

    statements = [world.parts.nodes.statements for world in worlds]
    cursors = [(await each.events(who, 0, 0)).cursor for each, who in zip(statements, (peer, theirs), strict=True)]
    polls = [
        asyncio.create_task(each.events(who, cursor, 30))
        for each, who, cursor in zip(statements, (peer, theirs), cursors, strict=True)
    ]
    await until("both polls", lambda: all(waiting_polls(world) == 1 for world in worlds))
    one.parts.shared.woken.clear()
    other.parts.shared.woken.clear()
    await change(one, machine, "suspend")
    async with asyncio.timeout(1):
        await polls[0]
    assert not polls[1].done()
    assert (one.parts.shared.woken.is_set(), other.parts.shared.woken.is_set()) == (True, False)
    other.parts.shared.wake_room.close()
    await polls[1]


@pytest.mark.slow
@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
async def test_two_replicas_of_one_process_share_their_database(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as one, world_at(home, databases, clock, first=False) as other:
        assert one.tenant == other.tenant
        machine = Machine(one)
        await machine.join((await one.code()).secret)
        machine.world = other
        peer = await machine.peer()
        await change(other, machine, "revoke")
        with pytest.raises(errors.GenerationClosed):
            await one.parts.nodes.statements.statement(peer, Ask(NONCE))
        await run_once(one)
        assert not (await other.node(machine.node)).closing

        await Holders(one, home / "offline").publish()
        assert (one.parts.current_trust.version, other.parts.current_trust.version) == (2, 1)
        await other.follower.run_once()
        assert other.parts.current_trust.version == 2


async def test_a_database_that_init_did_not_make_is_refused(tmp_path: Path) -> None:
    engine = ServiceEngine("fabric")
    engine.configure(sqlite_database("fabric", tmp_path))
    await engine.open()
    try:
        with pytest.raises(StorageError, match="`cascade init` did not make it"):
            await read_secrets(stores_over(engine).installation, system_entropy)
    finally:
        await engine.close()


async def test_every_part_that_a_handler_takes_is_wired(worlds: tuple[World, World]) -> None:
    parts = worlds[0].parts.services()
    assert set(parts) == set(SERVICES)
    assert None not in parts.values()
    guard = Guard(trust=lambda: worlds[0].trust, checks=cast(PeerChecks, None), now=worlds[0].clock)
    assert make_api(guard, parts).routes
    assert make_repository(guard, parts).routes
    for name in ("sessions", "tenants", "readiness"):
        with pytest.raises(ImproperlyConfiguredException, match=name):
            make_api(guard, {other: part for other, part in parts.items() if other != name})


async def test_secrets_are_not_shown(worlds: tuple[World, World]) -> None:
    shown = repr(worlds[0].parts.nodes.sessions) + repr(worlds[0].parts.nodes.chip_challenges)
    assert "key=b" not in shown
