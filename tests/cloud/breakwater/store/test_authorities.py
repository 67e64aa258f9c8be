"""`cloud.breakwater.store.authorities`: authorities, cross-certificates, and the allowed changes of state."""

import pytest
from msgspec.structs import replace

from cloud.breakwater.errors import Conflict
from cloud.breakwater.store import Stores
from cloud.breakwater.store.authorities import ALLOWED, AuthorityState, CrossRow
from cloud.breakwater.tables import Counter
from cloud.storage import Statement, compiled
from tests.cloud.breakwater.store.samples import HOUR, NODES_1, NOW, SERVICES_1, entry

NODES_2 = replace(NODES_1, id="nodes-2", number=2, state="prepared", key="file:nodes-2")
STATES: tuple[AuthorityState, ...] = ("prepared", "active", "old", "tainted", "revoked")


async def test_an_empty_table_is_filled_once(stores: Stores) -> None:
    assert await stores.authorities.revision() == 0
    await stores.authorities.make_counter()
    assert await stores.authorities.adopt([SERVICES_1, NODES_1], [entry(), entry()])
    assert not await stores.authorities.adopt([NODES_2], [entry()])
    assert await stores.authorities.rows() == (NODES_1, SERVICES_1)
    assert await stores.authorities.find("services-1") == SERVICES_1
    assert await stores.authorities.find("nodes-2") is None
    assert await stores.authorities.revision() == 1


async def test_the_revision_before_the_counters_are_made(stores: Stores) -> None:
    await stores.engine.fetch(compiled(Counter.delete(force=True)))
    assert await stores.authorities.revision() == -1


async def test_an_authority_is_prepared_once(stores: Stores) -> None:
    assert await stores.authorities.prepare(NODES_2, entry())
    assert not await stores.authorities.prepare(replace(NODES_2, reason="again"), entry())
    with pytest.raises(Conflict, match="nodes-2 belongs to another certificate"):
        await stores.authorities.prepare(replace(NODES_2, key="file:other"), entry())
    assert await stores.authorities.rows() == (NODES_2,)
    assert await stores.authorities.revision() == 1


async def test_a_cross_certificate_is_added_once(stores: Stores) -> None:
    row = CrossRow("root-2", "root-1", b"\x00cross")
    assert await stores.authorities.add_cross(row, entry())
    assert not await stores.authorities.add_cross(replace(row, certificate=b"other"), entry())
    assert await stores.authorities.add_cross(CrossRow("root-1", "root-2", b"back"), entry())
    assert await stores.authorities.crosses() == (CrossRow("root-1", "root-2", b"back"), row)
    assert await stores.authorities.revision() == 2


async def test_an_activation_retires_the_active_one_of_its_class(stores: Stores) -> None:
    await stores.authorities.adopt([NODES_1, NODES_2, SERVICES_1], [entry(), entry(), entry()])
    at = NOW + HOUR
    assert await stores.authorities.move("nodes-2", "active", "rotation", entry(at=at))
    assert await stores.authorities.rows() == (
        replace(NODES_1, state="old", changed_at=at, reason="replaced by nodes-2"),
        replace(NODES_2, state="active", changed_at=at, reason="rotation"),
        SERVICES_1,
    )
    assert not await stores.authorities.move("nodes-2", "active", "again", entry())
    refused: list[tuple[str, AuthorityState]] = [("nodes-3", "active"), ("nodes-2", "revoked"), ("nodes-1", "active")]
    for authority, state in refused:
        with pytest.raises(Conflict):
            await stores.authorities.move(authority, state, "", entry())
    assert await stores.authorities.revision() == 2


_FORCE = Statement("UPDATE authority SET state = {state} WHERE id = 'nodes-2'")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("goal", STATES)
async def test_states_move_forward_only(stores: Stores, state: AuthorityState, goal: AuthorityState) -> None:
    await stores.authorities.adopt([NODES_1], [entry()])
    await stores.authorities.prepare(NODES_2, entry())
    await stores.engine.fetch(_FORCE, state=state)
    revision = await stores.authorities.revision()
    if state == goal or goal in ALLOWED[state]:
        assert await stores.authorities.move("nodes-2", goal, "why", entry()) is (state != goal)
        found = await stores.authorities.find("nodes-2")
        assert found is not None
        assert found.state == goal
        assert await stores.authorities.revision() == revision + (state != goal)
    else:
        with pytest.raises(Conflict, match=f"is {state} and cannot become {goal}"):
            await stores.authorities.move("nodes-2", goal, "why", entry())
        assert await stores.authorities.revision() == revision
