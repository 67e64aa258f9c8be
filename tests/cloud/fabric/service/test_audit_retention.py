"""`cloud.fabric.service.audit_retention`: old refusals and challenges are deleted in steps; decisions stay."""

import pytest

from cloud.fabric.service.audit_log import ANONYMOUS
from cloud.fabric.service.audit_retention import REFUSALS_KEPT, AuditRetention
from cloud.fabric.store import audit
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.support import World

KINDS = (("activation.challenged", "done"), ("activation.answered", "refused"), ("activation.proved", "done"))


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_old_refusals_and_challenges_are_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ROWS_LOOKED_AT", 4)

    async def write(count: int, tenant: str) -> None:
        for _ in range(count):
            for action, outcome in KINDS:
                await world.parts.shared.audit.write(ANONYMOUS, action, "act_1", tenant, outcome)  # type: ignore[arg-type]  # one of two words

    async def actions(tenant: str) -> list[str]:
        return [row.action for row in await world.stores.audit.page(tenant, "", "", "~", 100)]

    await write(5, "ten_old")
    retention = AuditRetention(now=world.clock, store=world.stores.audit)
    for _ in range(10):
        await retention.step()
    assert len(await actions("ten_old")) == 15
    world.clock.forward(REFUSALS_KEPT)
    await write(2, "ten_new")
    world.clock.forward(REFUSALS_KEPT / 2)
    left = len(await actions(""))
    for _ in range(10):
        await retention.step()
        assert left - 4 <= len(await actions("")) <= left
        left = len(await actions(""))
    assert await actions("ten_old") == ["activation.proved"] * 5
    assert len(await actions("ten_new")) == 6
