"""`node.licensing.raising` at a rekey: the key on the disk has signed a copy of the record, whatever fails."""

import msgspec
import pytest

from node.hwbind import counter, keys
from node.hwbind.errors import TpmBusy, TpmError
from node.hwbind.tpm import Tpm
from tests.node.licensing import test_raising
from tests.node.licensing.samples import make_lease, verified
from tests.node.licensing.test_raising import Site, standing
from tests.off_loop import off_loop

site = test_raising.site


async def test_a_rekey_leaves_one_copy_for_each_key(site: Site) -> None:
    keeper = await site.first()
    new_key = off_loop(lambda: Tpm.call(site.tpm, keys.create_node_key))
    await keeper.sign_again(new_key, first=True)
    assert standing(site) == "current", "the identity on the disk still has the old key"
    site.identity = msgspec.structs.replace(site.identity, node_key=new_key)
    assert standing(site) == "current", "the identity on the disk has the new key"
    await keeper.sign_again(new_key, first=False)
    _, view = site.start()
    assert (view.judged.state, view.floor) == ("current", (1, 5))


@pytest.mark.parametrize("refuses", ["the signature", "the increment before"])
async def test_a_rekey_that_the_tpm_refuses_is_made_up_for(
    site: Site, refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record keeps the signature of a key that is gone. Without another one the next start would be `stale`."""
    keeper = await site.first()
    new_key = off_loop(lambda: Tpm.call(site.tpm, keys.create_node_key))
    if refuses == "the signature":
        site.tpm.fault = TpmBusy("another program")
        for first in (True, False):
            with pytest.raises(TpmError):
                await keeper.sign_again(new_key, first=first)
    else:
        monkeypatch.setattr(counter, "advance", lambda *_: (_ for _ in ()).throw(TpmBusy("the NV memory")))
        keeper.note(verified(make_lease(seq=6)))
        assert not await keeper.raise_now()
        for first in (True, False):
            await keeper.sign_again(new_key, first=first)
    site.identity = msgspec.structs.replace(site.identity, node_key=new_key)
    keeper.use(site.identity)
    site.tpm.fault = None
    monkeypatch.undo()
    before = site.value
    assert await keeper.raise_now()
    assert standing(site) == "current"
    raised = site.value
    assert raised > before
    assert await keeper.raise_now()
    assert site.value == raised
