"""`cloud.fabric.service.operators.audit_lists`: the audit, the newest first."""

import pytest

from cloud.fabric.errors import Invalid
from tests.cloud.fabric.support import Machine, World, change


async def test_the_audit_is_paged_from_the_newest_and_filtered(world: World, machine: Machine) -> None:
    await change(world, machine, "revoke", "stolen")
    lists, seen, cursor = world.parts.operators.audit_lists, list[str](), ""
    while True:
        page = await lists.page("", machine.node, "", cursor, 2)
        seen += [entry.action for entry in page.items]
        if not (cursor := page.next_cursor):
            break
    assert seen == ["node.revoke", "activation.confirmed", "activation.issued", "activation.proved"]
    (entry,) = (await lists.page(world.tenant, machine.node, "node.revoke", "", 10)).items
    assert (entry.actor, entry.outcome, entry.detail["reason"]) == ("operator:tok_alice", "done", "stolen")
    for cursor, limit in (("!", 10), ("", 0)):
        with pytest.raises(Invalid):
            await lists.page("", "", "", cursor, limit)
