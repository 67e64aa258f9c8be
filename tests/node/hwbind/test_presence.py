"""The proofs that the chip is there: what the node key signed, and the endorsement key that the chip shows."""

from pathlib import Path

import msgspec
import pytest

from lab.tpm import SoftTpm
from node.hwbind import endorsement, keys, presence
from node.hwbind.keys import WrappedKey
from node.hwbind.presence import EndorsementRecord
from node.hwbind.tpm import Tpm
from protocol.endorsement import EkType
from tests.shared_chips import shared_chip


def record_of(tpm: Tpm, key: WrappedKey, ek_type: EkType = "rsa2048") -> EndorsementRecord:
    ek = tpm.call(lambda esys: endorsement.read_endorsement(esys, ek_type))
    return tpm.call(lambda esys: presence.record_endorsement(esys, key, ek.public))


def test_a_boot_is_signed_by_the_key_and_for_the_boot(tpm: Tpm) -> None:
    key, other = tpm.call(keys.create_node_key), tpm.call(keys.create_node_key)
    signature = tpm.call(lambda esys: presence.sign_boot(esys, key, "boot"))
    assert presence.signed_in_boot(key, "boot", signature)
    assert not presence.signed_in_boot(key, "another", signature)
    assert not presence.signed_in_boot(other, "boot", signature)
    assert not presence.signed_in_boot(key, "boot", b"")
    assert not presence.signed_in_boot(msgspec.structs.replace(key, public=b"damaged"), "boot", signature)


@pytest.mark.parametrize("ek_type", ["rsa2048", "ecc_p256", "ecc_p384"])
def test_the_chip_makes_its_endorsement_key_again(tpm: Tpm, ek_type: EkType) -> None:
    key = tpm.call(keys.create_node_key)
    assert presence.shows_endorsement(tpm, key, record_of(tpm, key, ek_type))


def test_a_persistent_endorsement_key_is_seen_behind_a_password(chip: SoftTpm, tpm: Tpm) -> None:
    chip.clear()  # the maker's persistent keys go away
    key = tpm.call(keys.create_node_key)
    record = record_of(tpm, key)
    chip.administer("tpm2_changeauth", "-c", "endorsement", "secret")
    try:
        assert not presence.shows_endorsement(tpm, key, record)
        chip.administer("tpm2_createek", "-P", "secret", "-G", "rsa", "-c", "0x81010001")
        assert presence.shows_endorsement(tpm, key, record)
    finally:
        chip.clear()


@pytest.mark.slow
def test_another_chip_shows_another_endorsement_key(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, tpm: Tpm
) -> None:
    key = tpm.call(keys.create_node_key)
    record = record_of(tpm, key)
    with shared_chip(tmp_path_factory, tmp_path / "other", 1) as other:
        port = Tpm(other.tcti)
        assert not presence.shows_endorsement(port, key, record)
        port.close()
