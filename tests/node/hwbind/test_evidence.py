"""Evidence as it is sent: the TPM's own bytes, bound to the challenge and the request."""

import hashlib

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import ESAPI
from tpm2_pytss.types import TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE

from lab.tpm import SoftTpm
from node.hwbind import evidence, keys
from node.hwbind.tpm import Tpm
from protocol.evidence import PCR_SELECTION, PCRS_QUOTED, PcrQuote, pcr_digest, qualifying_data, quoted_data

pytestmark = pytest.mark.slow


def test_the_endorsement_certificate_chains_to_the_makers_root(chip: SoftTpm, tpm: Tpm) -> None:
    ak = tpm.call(keys.create_ak)
    sent = tpm.call(lambda esys: evidence.endorsement_evidence(esys, ak))
    assert sent.ak_public == ak.public
    assert sent.ek_certificate is not None
    certificate = x509.load_der_x509_certificate(sent.ek_certificate)
    intermediate = x509.load_pem_x509_certificate(chip.ek_intermediates_pem.read_bytes())
    root = x509.load_pem_x509_certificate(chip.ek_roots_pem.read_bytes())
    certificate.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)


def test_the_key_evidence_verifies_under_the_attestation_key(tpm: Tpm) -> None:
    ak, key = tpm.call(keys.create_ak), tpm.call(keys.create_node_key)
    csr = tpm.call(lambda esys: keys.certificate_request(esys, key))
    nonce = qualifying_data(b"s" * 32, "act_1", csr)
    sent = tpm.call(lambda esys: evidence.key_evidence(esys, key, ak, nonce))
    attest, _ = TPMS_ATTEST.unmarshal(sent.attestation)
    assert bytes(attest.marshal()) == sent.attestation
    assert int(attest.magic) == 0xFF544347
    assert bytes(attest.extraData) == nonce
    assert bytes(attest.attested.certify.name) == b"\x00\x0b" + hashlib.sha256(sent.public).digest()
    signature, used = TPMT_SIGNATURE.unmarshal(sent.signature)
    assert used == len(sent.signature)
    ecdsa = signature.signature.ecdsa
    der = encode_dss_signature(*(int.from_bytes(bytes(part), "big") for part in (ecdsa.signatureR, ecdsa.signatureS)))
    ak.public_key().verify(der, sent.attestation, ec.ECDSA(hashes.SHA256()))
    TPMT_PUBLIC.unmarshal(sent.public)


def test_a_quote_has_the_pcrs_and_verifies_under_the_attestation_key(tpm: Tpm) -> None:
    ak = tpm.call(keys.create_ak)
    sent = tpm.call(lambda esys: evidence.pcr_quote(esys, ak, b"a nonce"))
    attest, _ = TPMS_ATTEST.unmarshal(sent.attestation)
    assert (int(attest.type), bytes(attest.extraData)) == (0x8018, quoted_data(b"a nonce"))
    assert PCR_SELECTION in sent.attestation
    assert bytes(attest.attested.quote.pcrDigest) == pcr_digest(sent.values)
    assert (len(sent.values), sent.fault) == (PCRS_QUOTED, "")
    signature, _ = TPMT_SIGNATURE.unmarshal(sent.signature)
    ecdsa = signature.signature.ecdsa
    der = encode_dss_signature(*(int.from_bytes(bytes(part), "big") for part in (ecdsa.signatureR, ecdsa.signatureS)))
    ak.public_key().verify(der, sent.attestation, ec.ECDSA(hashes.SHA256()))


def test_a_quote_that_cannot_be_made_has_its_reason(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    ak = tpm.call(keys.create_ak)
    damaged = msgspec.structs.replace(ak, private=ak.private[:-1] + bytes([ak.private[-1] ^ 1]))
    sent = tpm.call(lambda esys: evidence.pcr_quote(esys, damaged, b"a nonce"))
    assert (sent.attestation, sent.values) == (b"", ())
    assert "did not wrap" in sent.fault
    monkeypatch.setattr(evidence, "_PCRS", "sha256:0")
    assert "no SHA-256 bank" in tpm.call(lambda esys: evidence.pcr_quote(esys, ak, b"a nonce")).fault


def test_both_keys_are_loaded_under_one_parent(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    ak, key = tpm.call(keys.create_ak), tpm.call(keys.create_node_key)
    made = 0
    real = keys.primary_key

    def counted(*arguments: object) -> object:
        nonlocal made
        made += 1
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keys, "primary_key", counted)

    def both(esys: ESAPI) -> tuple[PcrQuote, bytes]:
        with evidence.loaded_together(esys, ak, key) as (quoter, signer):
            return evidence.pcr_quote(esys, ak, b"a nonce", quoter), keys.sign(esys, key, b"claims", signer)

    quote, signature = tpm.call(both)
    key.public_key().verify(signature, b"claims", ec.ECDSA(hashes.SHA256()))
    assert (quote.fault, made) == ("", 1)


def test_a_damaged_ak_leaves_the_node_key_its_signature(tpm: Tpm) -> None:
    ak, key = tpm.call(keys.create_ak), tpm.call(keys.create_node_key)
    damaged = msgspec.structs.replace(ak, private=ak.private[:-1] + bytes([ak.private[-1] ^ 1]))

    def both(esys: ESAPI) -> tuple[PcrQuote, bytes]:
        with evidence.loaded_together(esys, damaged, key) as (quoter, signer):
            assert (quoter, signer) == (None, None)
            return evidence.pcr_quote(esys, damaged, b"a nonce", quoter), keys.sign(esys, key, b"claims", signer)

    quote, signature = tpm.call(both)
    key.public_key().verify(signature, b"claims", ec.ECDSA(hashes.SHA256()))
    assert "did not wrap" in quote.fault
