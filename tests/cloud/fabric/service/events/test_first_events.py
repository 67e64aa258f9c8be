"""`cloud.fabric.service.events.first_events`: every object from before gets one event, also after a crash."""

import pytest

from cloud.fabric.service.events import first_events
from cloud.fabric.service.events.first_events import FirstEvents
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.published import events_of, forget_events
from tests.cloud.fabric.support import Machine, World

both_engines = pytest.mark.parametrize("databases", ENGINES, indirect=True)


def walk(world: World) -> FirstEvents:
    """The walk of another process."""
    return FirstEvents(world.stores.transaction, world.stores.first_events)


@both_engines
async def test_each_object_from_before_gets_one_event(
    world: World, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that fails leaves nothing, and the walk goes on there."""
    monkeypatch.setattr(first_events, "BATCH", 1)
    node = await world.node(machine.node)
    second = await world.code()
    await forget_events(world)
    await walk(world).step(1)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(OSError, match="away"):

        async def fails(_: str) -> None:
            raise OSError("the database is away")

        patched.setattr(world.stores.first_events, "set_place", fails)
        await walk(world).step()
    walks = walk(world), walk(world)  # two replicas take turns
    while not all(each.is_done for each in walks):
        for each in walks:
            await each.step(1)
    for noun, object_id in (
        ("tenant", world.tenant),
        ("code", node.code),
        ("code", second.code.id),
        ("node", node.id),
        ("statement", f"{node.id}-1"),
    ):
        assert await events_of(world, noun, object_id) == ["recorded"]


async def test_a_walk_that_is_done_reads_one_row(world: World) -> None:
    first = walk(world)
    await first.step()
    assert first.is_done
    third = await world.code()
    again = walk(world)
    await again.step()
    assert again.is_done
    assert await events_of(world, "code", third.code.id) == ["created"]
