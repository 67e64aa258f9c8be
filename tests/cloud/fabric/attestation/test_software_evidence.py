"""`cloud.fabric.attestation.software_evidence`: the parts of the checks that no exchange reaches."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cloud.fabric.attestation.software_evidence import anchor_values, read_node_key, requested_key
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.mtls.identity import make_csr
from protocol.hardware import fingerprint

SALT = bytes(32)


def der(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_node_key_is_on_p256() -> None:
    key = ec.derive_private_key(1005, ec.SECP256R1())
    assert read_node_key(der(key))[1] == der(key)
    for wrong in (der(ec.derive_private_key(1005, ec.SECP384R1())), b"", b"\x30\x00", bytes(300)):
        with pytest.raises(EvidenceRefused) as caught:
            read_node_key(wrong)
        assert caught.value.step == 61


def test_a_request_names_its_key() -> None:
    key = ec.derive_private_key(1006, ec.SECP256R1())
    csr = make_csr(key)
    assert requested_key(csr) == der(key)
    for wrong in (b"", csr[:-1] + bytes([csr[-1] ^ 1]), make_csr(ec.derive_private_key(1, ec.SECP384R1()))):
        with pytest.raises(EvidenceRefused) as caught:
            requested_key(wrong)
        assert caught.value.code == "csr_refused"


def test_a_machine_is_found_by_its_disks_and_board_alone() -> None:
    serials = {"board_serial": "B1", "disk_serial": "D1", "disk_serial/2": "D2", "mac": "a4:bb:6d:01:02:03"}
    values = fingerprint(SALT, serials)
    assert set(anchor_values(values, SALT)) == {value for name, value in values.items() if name != "mac"}
