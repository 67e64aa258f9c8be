"""`cloud.fabric.service.published_trust.follower`: the published trust becomes the current trust."""

import asyncio
import ssl
from functools import partial

from cloud.fabric.service.published_trust.follower import STEP_SECONDS
from cloud.fabric.tuf.offline import Changes
from cloud.tasks.stopping import Stopping
from tests.cloud.fabric.authorities import Generation
from tests.cloud.fabric.publishing import Holders
from tests.cloud.fabric.support import ALICE, World
from tests.waiting import until, waiters


async def test_fabric_follows_at_its_next_step(world: World, holders: Holders) -> None:
    second = Generation()
    before = world.parts.current_trust.trust
    await holders.publish(Changes(add_roots=(second.root.der,), add_nodes=(second.nodes.der,)))
    current_trust = world.parts.current_trust
    assert current_trust.version == 2
    assert current_trust.trust.node_issuers == (*before.node_issuers, second.nodes.certificate)
    assert world.parts.current_trust.trust.node_issuers == current_trust.trust.node_issuers
    assert second.root.pem in current_trust.ca_pem
    kept = current_trust.trust
    await world.follower.run_once()
    assert current_trust.trust is kept, (
        "the object must stay the same without a change, because connections cache checks for it"
    )


async def test_a_failed_replacement_of_the_tls_contexts_is_repeated(world: World, holders: Holders) -> None:
    """Otherwise the listeners would use the old trust until the next publication."""
    heard: list[int] = []
    current_trust = world.parts.current_trust

    async def changed() -> None:
        heard.append(current_trust.version)
        if len(heard) == 1:
            raise ssl.SSLError("no such curve")

    world.follower._trust_changed = changed
    await holders.publish(Changes(add_roots=(Generation().root.der,)))
    for _ in range(3):
        await world.follower.run_once()
    assert heard == [2, 2]


async def test_a_publication_of_this_process_is_followed_at_once(world: World, holders: Holders) -> None:
    current_trust, follower, stopping = world.parts.current_trust, world.follower, Stopping()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(follower.run(stopping))
    took = []

    def follows(version: int) -> bool:
        return current_trust.version == version

    for version in (2, 3, 4):
        await until("the follower's pause", lambda: waiters(follower._woken) == 1)
        signed = await holders.signed()
        begun = loop.time()
        await world.parts.trust.publishing.publish(ALICE, signed)
        await until("the new version", partial(follows, version))
        took.append(loop.time() - begun)
    stopping.request()
    await task
    assert min(took) < STEP_SECONDS / 2, took
