"""After a restore: a new epoch, marks, and one token."""

from datetime import timedelta

from cloud.fabric.restored import mark_restored
from tests.cloud.fabric.support import ALICES_TOKEN, World


async def test_the_epoch_rises_and_old_tokens_are_revoked(world: World) -> None:
    now = world.clock()
    before = await world.stores.installation.read_all()
    text = await mark_restored(world.stores.engine, now, now - timedelta(hours=3), "whole")
    after = await world.stores.installation.read_all()
    assert int(after["epoch"]) == int(before["epoch"]) + 1
    assert (after["restored_at"], after["restored_parts"]) == (now.isoformat().encode(), b"whole")
    assert after["restored_from"] == (now - timedelta(hours=3)).isoformat().encode()
    assert {name: before[name] for name in ("ek_key", "nonce_key")} == {
        name: after[name] for name in ("ek_key", "nonce_key")
    }
    tokens = await world.stores.tokens.page("", 100)
    assert {row.id: row.revoked_at for row in tokens}[ALICES_TOKEN.id] == now
    assert [row.name for row in tokens if row.revoked_at is None] == ["restore"]
    assert text.startswith("cot")
    operator = await world.parts.operators.tokens.authenticate(text)
    assert operator is not None
    assert operator.name == "restore"
