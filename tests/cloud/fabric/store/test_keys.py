"""`cloud.fabric.store.keys`: the code uses the table of keys, and the watcher of all tests finds lapses.

`tests/cloud/fabric/watched.py` checks each statement of each test that opens a Fabric.
"""

import re
from datetime import timedelta

import pytest

from cloud.fabric import schemas
from cloud.fabric.store import keys
from cloud.storage import TransactionMisuse
from tests.cloud.fabric.support import ALICE, Machine, World, change, run_once
from tests.cloud.fabric.watched import kinds

_ROW = re.compile(r"^\| ([^|`]+) \|([^|`]+)\|([^|`]*)\|$", re.MULTILINE)
_KINDS = {"code", "chip", "node", "tenant", "token", "trust", "order", "reports"}


def documented() -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The kinds of keys of each row of the table of use cases, held and shared."""
    rows = _ROW.findall(keys.__doc__ or "")
    return {(_kinds_in(held), _kinds_in(shared)) for what, held, shared in rows if what != "Use case"}


def _kinds_in(cell: str) -> tuple[str, ...]:
    return tuple(sorted(_KINDS & set(re.findall(r"\w+", cell))))


async def test_use_cases_take_the_keys_of_the_table(world: World) -> None:
    parts, code = world.parts, await world.code(seats=2)
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    await machine.prove(challenge, machine.proof(challenge))
    await machine.confirm()
    await machine.activate(code.secret)
    world.clock.forward(timedelta(days=2))
    await run_once(world)  # the second activation lapses
    await change(world, machine, "suspend")
    await change(world, machine, "revoke")
    await world.code(readmit=machine.node)
    await parts.operators.codes.revoke(ALICE, code.code.id)
    made = await parts.operators.tokens.create(ALICE, schemas.CreateToken("ci"))
    await parts.operators.tokens.revoke(ALICE, made.token.id)
    await parts.trust.renewal_orders.give(ALICE, schemas.RenewDevices())
    await parts.trust.online_roles.keep_fresh()
    seen = {pair for pair in world.keys.seen if not {"sessions", "refusal", "revoked"} & {*pair[0], *pair[1]}}
    assert seen <= documented()
    wanted = {(("node",), ("code", "tenant")), (("chip", "code", "node"), ("tenant",)), (("code",), ("node", "token"))}
    assert wanted <= seen


async def test_the_watcher_refuses_rows_without_their_key(world: World, machine: Machine) -> None:
    node = await world.node(machine.node)
    for held in (keys.code_key(node.code), keys.node_key("another"), keys.REPORTS):
        with pytest.raises(AssertionError, match="it needs"):
            async with world.stores.transaction(held):
                await world.stores.nodes.update(node, "changed")
    with pytest.raises(AssertionError, match="it needs"):
        async with world.stores.transaction(keys.chip_key("x"), reads=(keys.node_key(node.id),)):
            await world.stores.nodes.update(node, "changed")
    with pytest.raises(TransactionMisuse):
        async with world.stores.transaction(keys.node_key(node.id)), world.stores.transaction():
            pass


def test_parts_are_in_order_and_bounded() -> None:
    rows = {name: name.upper() for name in "dbeca"}
    assert list(keys.parts_of(rows, 2)) == [{"a": "A", "b": "B"}, {"c": "C", "d": "D"}, {"e": "E"}]
    assert list(keys.parts_of({}, 2)) == []


def test_keys_of_two_kinds_never_meet() -> None:
    makers = (keys.node_key, keys.chip_key, keys.code_key, keys.tenant_key, keys.token_key, keys.sessions_key)
    made = {make("x") for make in (*makers, keys.refusal_key)} | {keys.TRUST, keys.ORDER, keys.REVOKED, keys.REPORTS}
    assert len(made) == 11
    assert kinds(("node:a", "node:b", "code:c")) == ("code", "node")
