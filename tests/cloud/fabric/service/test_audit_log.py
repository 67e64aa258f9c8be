"""`cloud.fabric.service.audit_log`: entries are written in the caller's transaction, with values of limited length."""

import pytest

from cloud.fabric.service.audit_log import DETAIL_CHARS_MAX, operator_actor
from tests.cloud.fabric.support import ALICE, World


async def test_an_entry_names_who_did_what_to_which_object(world: World) -> None:
    audit = world.parts.shared.audit
    await audit.write(operator_actor(ALICE), "test.done", "an object", world.tenant, seats=0, reason="", code=None)
    await audit.write("anonymous", "test.refused", "an object", "", "refused", reason="x" * 1000)
    refused, done = await world.stores.audit.page("", "an object", "", "aud_8", 10)
    assert (done.actor, done.action, done.tenant, done.outcome) == (
        "operator:tok_alice",
        "test.done",
        world.tenant,
        "done",
    )
    assert (done.at, done.detail) == (world.clock(), {"seats": "0"})
    assert (refused.outcome, len(refused.detail["reason"])) == ("refused", DETAIL_CHARS_MAX)


async def test_an_entry_goes_with_its_transaction(world: World) -> None:
    with pytest.raises(RuntimeError, match="the deed failed"):
        async with world.stores.transaction():
            await world.parts.shared.audit.write("system", "test.done", "an object", "")
            raise RuntimeError("the deed failed")
    assert await world.actions("an object") == []
