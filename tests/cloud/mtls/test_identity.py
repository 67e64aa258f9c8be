"""Key and chain on disk: the right one of two keys is loaded, and the time of renewal."""

from pathlib import Path

import pytest

from cloud.crypto.keyfile import write_key
from cloud.mtls.identity import KEY_FILE, NEXT_KEY_FILE, Identity, IdentityError, load_identity
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.support import PASSPHRASE, new_key
from tests.cloud.mtls.identities import folder, identity
from tests.cloud.pki import Pki


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot use the identity"):
        load_identity(tmp_path, tmp_path / "passphrase")


@pytest.mark.slow
async def test_neither_key_fits(live: Live) -> None:
    write_key(folder(live) / KEY_FILE, new_key(), PASSPHRASE)
    write_key(folder(live) / NEXT_KEY_FILE, new_key(), PASSPHRASE)
    with pytest.raises(IdentityError, match="do not belong together"):
        identity(live)


def test_renewals_are_spread_around_the_half() -> None:
    pki = Pki()
    spread = set()
    for _ in range(30):
        leaf = pki.service("fabric")
        it = Identity(leaf.key, leaf.chain_pem, leaf.certificate)
        start, end = it.leaf.not_valid_before_utc, it.leaf.not_valid_after_utc
        share = (it.renew_at - start) / (end - start)
        assert 0.45 <= share <= 0.55
        assert it.renew_at == Identity(leaf.key, leaf.chain_pem, leaf.certificate).renew_at
        spread.add(share)
    assert len(spread) > 20
