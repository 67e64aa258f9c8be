"""Helper: recovery codes and cases of a world with one node."""

from datetime import timedelta
from typing import Any

import msgspec

from cloud.fabric.bodies.recovery_codes import IssuedRecoveryCode, IssuedRecoveryCodes, IssueRecoveryCodes
from cloud.fabric.errors import RecoveryCodeRefused
from cloud.fabric.service.recovery.tries import Caller
from cloud.fabric.store.keys import node_key, recovery_code_key, tenant_key
from cloud.fabric.store.rows import NodeRow, RecoveryCaseRow
from protocol.ids import NodeId, RecoveryId, make_id
from tests.cloud.fabric.store import support as rows
from tests.cloud.fabric.support import ALICE, World

CALLER = Caller("192.0.2.1", "chip")
CASES = [RecoveryId(make_id("rcv", number, bytes(10))) for number in (1, 2)]


async def new_node(world: World, number: int = 1, **changes: Any) -> NodeRow:
    """A row of a node of the world's tenant, without a machine."""
    row = rows.node(number, tenant=world.tenant, **changes)
    async with world.stores.transaction(node_key(row.id)):
        await world.stores.nodes.insert(row, "activated")
    return row


async def new_case(world: World, node: NodeRow, **changes: Any) -> RecoveryCaseRow:
    """A row of a case of the node that waits for an operator, unless `changes` say otherwise."""
    row = rows.recovery_case(**{"id": CASES[0], "tenant": node.tenant, "node": node.id, **changes})
    await world.stores.recovery_cases.insert(row)
    return row


async def issue(world: World, days: float = 30, **scope: Any) -> IssuedRecoveryCodes:
    """Issue codes that expire `days` from now."""
    body = IssueRecoveryCodes(expires_at=world.clock() + timedelta(days=days), **scope)
    return await world.parts.operators.recovery_code_issues.issue(ALICE, body)


async def one_code(world: World, **scope: Any) -> IssuedRecoveryCode:
    return (await issue(world, **scope)).codes[0]


async def use(
    world: World,
    text: str,
    node: NodeRow,
    *,
    case: RecoveryId = CASES[0],
    matches: bool = True,
    caller: Caller = CALLER,
) -> None:
    """Present a code and use it in one go, as the start and the proof of a recovery do. Raises as they do."""
    codes = world.parts.shared.recovery_codes
    async with codes.attempt(caller):
        row = await codes.find(text)
    async with codes.attempt(caller):
        keys = (node_key(node.id), recovery_code_key(row.id))
        async with world.stores.transaction(*keys, reads=(tenant_key(node.tenant),)):
            await codes.use(row.id, node, case, fingerprint_matches=matches)


async def refusal_of(world: World, text: str, node: NodeRow, **options: Any) -> str:
    """The detail with which a code is refused; empty if it is accepted. The code's row must not have changed."""
    before = await all_codes(world)
    try:
        await use(world, text, node, **options)
    except RecoveryCodeRefused as error:
        assert await all_codes(world) == before
        return error.detail
    return ""


async def all_codes(world: World) -> list[msgspec.Struct]:
    return list(await world.stores.recovery_codes.page("", "", "", 100))


def of_nobody() -> NodeId:
    return NodeId(make_id("node", 99, bytes(10)))
