"""The endorsement key: read, made again, and asked by challenges."""

from functools import partial

import pytest
from cryptography import x509
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.types import TPMT_PUBLIC
from tpm2_pytss.utils import make_credential

from node.hwbind import endorsement, errors, keys
from node.hwbind.endorsement import Endorsement
from node.hwbind.tpm import Tpm
from protocol.endorsement import TEMPLATES, EkType, name_of
from tests.simulators import chip_memory
from tests.simulators import forged_evidence as forged
from tests.simulators.chip_memory import memory
from tests.simulators.forged_evidence import maker

pytestmark = pytest.mark.slow

SECRET = b"s" * 32


def challenge(ek_public: bytes, name: bytes) -> tuple[bytes, bytes]:
    public, _ = TPMT_PUBLIC.unmarshal(ek_public)
    blob, secret = make_credential(public, SECRET, name)
    return bytes(blob.marshal()), bytes(secret.marshal())


@pytest.mark.parametrize("ek_type", endorsement.EK_TYPES)
def test_the_challenge_is_answered(tpm: Tpm, ek_type: EkType) -> None:
    ak = tpm.call(keys.create_ak)
    ek = tpm.call(lambda esys: endorsement.read_endorsement(esys, ek_type))
    assert ek.public.startswith(TEMPLATES[ek_type].head)
    blob, secret = challenge(ek.public, ak.name)
    assert tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob, secret, ek.name)) == SECRET


def test_a_challenge_for_another_key_is_refused(tpm: Tpm) -> None:
    ak, other = tpm.call(keys.create_ak), tpm.call(keys.create_ak)
    ek = tpm.call(endorsement.read_endorsement)
    blob, secret = challenge(ek.public, other.name)
    with pytest.raises(errors.TpmIntegrity):
        tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob, secret))
    with pytest.raises(errors.TpmIntegrity):
        tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob + b"\0", secret))
    for name in (b"\0\x0b" + bytes(32), b"\0\x0c" + bytes(48), b"\0\x0d"):
        with pytest.raises(errors.TpmIntegrity, match="another endorsement key"):
            tpm.call(
                partial(
                    endorsement.activate_credential, ak=ak, credential_blob=blob, encrypted_secret=secret, ek_name=name
                )
            )


def test_the_endorsement_key_is_the_certificates_own(tpm: Tpm) -> None:
    ek = tpm.call(endorsement.read_endorsement)
    assert ek.certificate is not None
    certificate = x509.load_der_x509_certificate(ek.certificate)
    public, _ = TPMT_PUBLIC.unmarshal(ek.public)
    assert int.from_bytes(bytes(public.unique.rsa), "big") == certificate.public_key().public_numbers().n  # type: ignore[union-attr]  # RSA


RSA, P256, P384 = (TEMPLATES[each] for each in endorsement.EK_TYPES)
CERTIFICATE = maker().certify(forged.p256("ek").public_key())


def offered(tpm: Tpm) -> list[tuple[EkType, bool]]:
    """The EKs that the chip offers, and whether each has a certificate."""
    found = tpm.call(endorsement.read_endorsements).keys
    return [(each.ek_type, each.certificate is not None) for each in found]


def test_a_chip_offers_its_rsa_key_and_each_key_with_a_certificate(tpm: Tpm) -> None:
    assert offered(tpm) == [("rsa2048", True), ("ecc_p384", True)]
    with memory(tpm, {RSA.certificate_index: None, P384.certificate_index: None, P256.certificate_index: CERTIFICATE}):
        assert offered(tpm) == [("rsa2048", False), ("ecc_p256", True)]
    with memory(tpm, {RSA.certificate_index: b"\xff" * 9, P384.certificate_index: b"not DER"}):
        assert offered(tpm) == [("rsa2048", False), ("ecc_p384", True)]


def test_padding_behind_a_certificate_stays_in_the_chip(tpm: Tpm) -> None:
    with memory(tpm, {P256.certificate_index: CERTIFICATE.ljust(1400, b"\xff")}):
        found = tpm.call(lambda esys: endorsement.read_endorsement(esys, "ecc_p256"))
    assert found.certificate == CERTIFICATE


def test_the_chips_own_ca_certificates_are_read_from_following_indices(tpm: Tpm) -> None:
    chain = maker().root.der + maker().intermediate.der + maker("Other").root.der
    first = 0x01C00100
    parts = {first: chain[:500], first + 1: chain[500:] + b"\xff" * 20, first + 3: maker("Third").root.der}
    with memory(tpm, parts):
        found = tpm.call(endorsement.read_endorsements).intermediates
    assert found == (maker().root.der, maker().intermediate.der, maker("Other").root.der)


def test_a_nonce_and_a_template_in_the_chip_make_its_key(tpm: Tpm) -> None:
    plain = tpm.call(lambda esys: endorsement.read_endorsement(esys, "ecc_p256"))
    assert plain.template == "default"
    assert P256.nonce_index is not None
    found: list[Endorsement] = []
    for contents in (
        {P256.nonce_index: b"n" * 20},
        {P256.nonce_index: b"n" * 20, P256.template_index: P256.head + P256.asked_unique},
        {P256.nonce_index: b"n" * 33},
        {P256.template_index: b"\0" * 20},
        {P256.template_index: RSA.head + RSA.asked_unique},
    ):
        with memory(tpm, contents):
            found.append(tpm.call(lambda esys: endorsement.read_endorsement(esys, "ecc_p256")))
    assert [each.template for each in found] == [
        "default, with the nonce at 0x01c0000b",
        "from 0x01c0000c, with the nonce at 0x01c0000b",
        "default",
        "default; the one at 0x01c0000c cannot be read",
        "default; the one at 0x01c0000c is for another kind of key",
    ]
    assert found[0].public == found[1].public != plain.public
    assert {each.public for each in found[2:]} == {plain.public}
    ak = tpm.call(keys.create_ak)
    with memory(tpm, {P256.nonce_index: b"n" * 20}):
        blob, secret = challenge(found[0].public, ak.name)
        assert tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob, secret, found[0].name)) == SECRET


def test_a_template_of_another_kind_of_key_beside_a_nonce_is_not_used(tpm: Tpm) -> None:
    """The nonce of an RSA key has no room in an ECC template."""
    assert RSA.nonce_index is not None
    contents = {RSA.template_index: P256.head + P256.asked_unique, RSA.nonce_index: b"n" * 256}
    with memory(tpm, {**contents, RSA.certificate_index: None}):
        found = tpm.call(endorsement.read_endorsement)
    assert found.template == ("default; the one at 0x01c00004 is for another kind of key, with the nonce at 0x01c00003")


def test_an_index_that_cannot_be_read_is_no_certificate(tpm: Tpm) -> None:
    with memory(tpm, {RSA.certificate_index: None}):
        tpm.call(lambda esys: chip_memory.define(esys, RSA.certificate_index, 100))
        assert offered(tpm)[0] == ("rsa2048", False)
        note = tpm.call(endorsement.read_store).contents[RSA.certificate_index].note
    assert note == "it is defined and was never written"


def test_a_chip_without_an_rsa_key_is_known_by_another(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rsa(ek_type: EkType, store: object) -> object:
        raise TSS2_Exception(0x2C4)  # TPM_RC_VALUE

    real = endorsement._template
    monkeypatch.setattr(
        endorsement, "_template", lambda kind, store: (no_rsa if kind != "ecc_p384" else real)(kind, store)
    )
    with memory(tpm, {RSA.certificate_index: None}):
        assert offered(tpm) == [("ecc_p384", True)]
        with memory(tpm, {P384.certificate_index: None}), pytest.raises(errors.TpmFailed):
            offered(tpm)


def test_the_name_of_an_endorsement_is_that_of_the_tpm(tpm: Tpm) -> None:
    for each in tpm.call(endorsement.read_endorsements).keys:
        assert bytes(TPMT_PUBLIC.unmarshal(each.public)[0].get_name()) == each.name == name_of(each.public)
