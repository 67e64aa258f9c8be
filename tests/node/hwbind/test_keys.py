"""The keys: made, loaded again and used; and refused by another chip and by a cleared chip."""

from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import TPM2_CAP, TPMA_OBJECT
from tpm2_pytss.types import TPMS_ATTEST, TPMT_PUBLIC

from lab.tpm import SoftTpm
from node.hwbind import endorsement, errors, keys
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from tests.node.hwbind.test_endorsement import challenge
from tests.shared_chips import shared_chip

pytestmark = pytest.mark.slow

OURS = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.SIGN_ENCRYPT
)


def loaded_objects(esys: ESAPI) -> list[int]:
    _, capability = esys.get_capability(TPM2_CAP.HANDLES, 0x80000000, 64)
    data = capability.data
    handles = data.handles
    return [int(handles[i]) for i in range(handles.count)]


def test_a_stored_key_signs_after_a_restart(chip: SoftTpm, tpm: Tpm) -> None:
    stored = msgspec.json.encode(tpm.call(keys.create_node_key))
    chip.reset()
    key = msgspec.json.decode(stored, type=WrappedKey)
    signature = tpm.call(lambda esys: keys.sign(esys, key, b"message"))
    key.public_key().verify(signature, b"message", ec.ECDSA(hashes.SHA256()))


def test_attributes_of_the_keys(tpm: Tpm) -> None:
    for make, attributes in ((keys.create_node_key, OURS), (keys.create_ak, OURS | TPMA_OBJECT.RESTRICTED)):
        key = tpm.call(make)
        public, used = TPMT_PUBLIC.unmarshal(key.public)
        assert used == len(key.public)
        assert public.objectAttributes == attributes
        assert bytes(public.get_name()) == key.name


def test_the_request_proves_possession_and_asks_for_nothing(tpm: Tpm) -> None:
    key = tpm.call(keys.create_node_key)
    request = x509.load_der_x509_csr(tpm.call(lambda esys: keys.certificate_request(esys, key)))
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert len(request.extensions) == 0
    assert request.subject.rdns == []


def test_certify_names_the_key_and_carries_the_nonce(tpm: Tpm) -> None:
    ak, key = tpm.call(keys.create_ak), tpm.call(keys.create_node_key)
    certification = tpm.call(lambda esys: keys.certify(esys, key, ak, b"n" * 32))
    attest, used = TPMS_ATTEST.unmarshal(certification.attestation)
    assert used == len(certification.attestation)
    assert bytes(attest.extraData) == b"n" * 32
    assert bytes(attest.attested.certify.name) == key.name


@pytest.mark.parametrize("size", [0, 65])
def test_a_nonce_the_tpm_would_not_take(tpm: Tpm, size: int) -> None:
    key = tpm.call(keys.create_node_key)
    with pytest.raises(ValueError, match="1 to 64"):
        tpm.call(lambda esys: keys.certify(esys, key, key, b"n" * size))


def test_nothing_stays_loaded(tpm: Tpm) -> None:
    ak, key = tpm.call(keys.create_ak), tpm.call(keys.create_node_key)
    ek = tpm.call(endorsement.read_endorsement)
    blob, secret = challenge(ek.public, ak.name)
    tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob, secret))
    tpm.call(lambda esys: keys.certify(esys, key, ak, b"n"))
    with pytest.raises(errors.TpmIntegrity):
        tpm.call(lambda esys: endorsement.activate_credential(esys, key, blob, secret))
    assert tpm.call(loaded_objects) == []


@pytest.mark.parametrize("field", ["public", "private"])
@pytest.mark.parametrize("change", ["cut", "longer", "flipped", "empty", "huge"])
def test_a_damaged_blob_is_refused(tpm: Tpm, field: str, change: str) -> None:
    key = tpm.call(keys.create_node_key)
    raw = getattr(key, field)
    changed = {
        "cut": raw[:-1],
        "longer": raw + b"\0",
        "flipped": raw[:-1] + bytes([raw[-1] ^ 1]),
        "empty": b"",
        "huge": raw * 100,
    }[change]
    damaged = msgspec.structs.replace(key, **{field: changed})
    with pytest.raises((errors.TpmIntegrity, errors.TpmNotOurs)):
        tpm.call(lambda esys: keys.sign(esys, damaged, b"message"))
    assert tpm.call(lambda esys: keys.sign(esys, key, b"message"))


def test_keys_of_another_chip_are_not_ours(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, tpm: Tpm) -> None:
    key = tpm.call(keys.create_node_key)
    with shared_chip(tmp_path_factory, tmp_path / "other", 1) as other:
        port = Tpm(other.tcti)
        own_parent = port.call(keys.create_node_key).parent
        edited = msgspec.structs.replace(key, parent=own_parent)
        for stored, kind in ((key, errors.TpmNotOurs), (edited, errors.TpmIntegrity)):
            with pytest.raises(kind):
                port.call(partial(keys.sign, key=stored, message=b"message"))
        port.close()


def test_a_copied_chip_is_the_same_chip(tmp_path: Path, chip: SoftTpm, tpm: Tpm) -> None:
    key, before = tpm.call(keys.create_node_key), tpm.call(endorsement.read_endorsement)
    tpm.close()
    chip.stop()
    try:
        with chip.copy_to(tmp_path / "copy") as copy:
            port = Tpm(copy.tcti)
            assert port.call(endorsement.read_endorsement) == before
            assert port.call(lambda esys: keys.sign(esys, key, b"message"))
            port.close()
    finally:
        chip.start()


_SRK_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt"


def provision_srk(chip: SoftTpm, algorithm: str, *options: str, attributes: str = f"{_SRK_ATTRIBUTES}|noda") -> None:
    """Make a storage key persistent at 0x81000001, as an installer does."""
    context = str(chip.directory / "srk")
    chip.administer("tpm2_createprimary", "-C", "o", "-G", algorithm, "-c", context, "-a", attributes, *options)
    chip.administer("tpm2_evictcontrol", "-C", "o", "-c", context, "0x81000001")


def test_a_storage_key_provisioned_later_does_not_orphan_ours(chip: SoftTpm, tpm: Tpm) -> None:
    old = tpm.call(keys.create_node_key)
    provision_srk(chip, "rsa2048")
    new = tpm.call(keys.create_node_key)
    assert new.parent != old.parent
    for key in (old, new):
        assert tpm.call(partial(keys.sign, key=key, message=b"message"))
    chip.clear()


def evict_srk(chip: SoftTpm) -> None:
    chip.administer("tpm2_evictcontrol", "-C", "o", "-c", "0x81000001")


@pytest.mark.parametrize("algorithm", ["rsa2048", "ecc384"])
def test_an_evicted_or_replaced_storage_key_is_made_again(chip: SoftTpm, tpm: Tpm, algorithm: str) -> None:
    provision_srk(chip, algorithm)
    key = tpm.call(keys.create_node_key)
    evict_srk(chip)
    assert tpm.call(partial(keys.sign, key=key, message=b"message"))
    provision_srk(chip, "ecc256")
    assert tpm.call(partial(keys.sign, key=key, message=b"message"))
    without = msgspec.structs.replace(key, parent_public=None)
    with pytest.raises(errors.TpmNotOurs):
        tpm.call(partial(keys.sign, key=without, message=b"message"))
    chip.clear()
    with pytest.raises(errors.TpmNotOurs):
        tpm.call(partial(keys.sign, key=key, message=b"message"))


def lockout_counter(esys: ESAPI) -> int:
    _, capability = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, 0x20E, 1)
    return int(capability.data.tpmProperties[0].value)


@pytest.mark.parametrize("attributes", [_SRK_ATTRIBUTES, f"{_SRK_ATTRIBUTES}|noda"])
def test_a_storage_key_with_a_password_is_not_used_and_not_attacked(chip: SoftTpm, tpm: Tpm, attributes: str) -> None:
    before = tpm.call(lockout_counter)
    provision_srk(chip, "rsa2048", "-p", "secret", attributes=attributes)
    key = tpm.call(keys.create_node_key)
    assert tpm.call(partial(keys.sign, key=key, message=b"message"))
    assert tpm.call(lockout_counter) == before
    chip.clear()


def test_a_key_under_a_protected_storage_key_loads_without_authorising_it(chip: SoftTpm, tpm: Tpm) -> None:
    """An older agent made the key. Since then the storage key, which has the same name, was given a password."""
    before = tpm.call(lockout_counter)
    provision_srk(chip, "ecc256", attributes=_SRK_ATTRIBUTES)

    def make(esys: ESAPI) -> WrappedKey:
        with keys.persistent_object(esys, 0x81000001) as found:
            assert found is not None
            private, public, *_ = esys.create(found[0], None, keys._template("sign"))
            return WrappedKey(bytes(public.publicArea.marshal()), bytes(private), found[2])

    key = tpm.call(make)
    evict_srk(chip)
    provision_srk(chip, "ecc256", "-p", "secret", attributes=_SRK_ATTRIBUTES)
    assert tpm.call(partial(keys.sign, key=key, message=b"message"))
    assert tpm.call(lockout_counter) == before
    evict_srk(chip)
    with pytest.raises(errors.TpmNotOurs):  # nothing is left to make the parent from
        tpm.call(partial(keys.sign, key=key, message=b"message"))


def test_keys_of_two_parents_are_used_together(chip: SoftTpm, tpm: Tpm) -> None:
    ak = tpm.call(keys.create_ak)
    provision_srk(chip, "rsa2048")
    key = tpm.call(keys.create_node_key)
    assert key.parent != ak.parent
    assert tpm.call(lambda esys: keys.certify(esys, key, ak, b"nonce")).signature
    assert tpm.call(loaded_objects) == []
    chip.clear()


def test_an_older_stored_key_has_no_public_part_of_its_parent(tpm: Tpm) -> None:
    key = tpm.call(keys.create_node_key)
    assert key.parent_public is not None
    assert keys.name_of(key.parent_public) == key.parent
    older = msgspec.structs.replace(key, parent_public=None)
    assert b"parent_public" not in msgspec.json.encode(older)
    assert msgspec.json.decode(msgspec.json.encode(older), type=WrappedKey) == older
    assert tpm.call(partial(keys.sign, key=older, message=b"message"))


def test_the_clock_counts_resets(chip: SoftTpm, tpm: Tpm) -> None:
    before = tpm.call(keys.read_clock)
    chip.reset()
    assert tpm.call(keys.read_clock).reset_count == before.reset_count + 1


def test_a_cleared_chip_keeps_its_endorsement_and_loses_our_keys(chip: SoftTpm, tpm: Tpm) -> None:
    key, before = tpm.call(keys.create_node_key), tpm.call(endorsement.read_endorsement)
    chip.clear()
    assert tpm.call(endorsement.read_endorsement) == before
    with pytest.raises(errors.TpmNotOurs):
        tpm.call(lambda esys: keys.sign(esys, key, b"message"))
    assert tpm.call(keys.create_node_key).parent != key.parent
