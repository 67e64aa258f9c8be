"""Evidence as it is sent: the TPM's own bytes, bound to the challenge and the request."""

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss.types import TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE

from lab.tpm import SoftTpm
from node.hwbind import evidence, keys
from node.hwbind.tpm import Tpm
from protocol.evidence import qualifying_data

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
