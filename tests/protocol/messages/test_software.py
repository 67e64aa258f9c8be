"""Messages of the tier `software`: the proofs by a node key in a file."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.ids import ActivationId, NodeId, TenantId
from protocol.messages.software import (
    TYP_SOFTWARE_HELD,
    TYP_SOFTWARE_PROOF,
    TYP_SOFTWARE_RENEWAL,
    HeldGeneration,
    SoftwareProofClaims,
    SoftwareProofError,
    SoftwareRenewalClaims,
    open_software_proof,
    open_software_renewal,
    path_software_proof,
)
from protocol.signed.envelope import key_id, seal

KEY = ec.derive_private_key(1005, ec.SECP256R1())
CLAIMS = SoftwareProofClaims(
    activation=ActivationId("act_01jd7xq2vafw6b8tn4rz9k3mec"),
    nonce="n" * 43,
    csr_sha256=sha256_hex(b"request"),
    fingerprint={"board_serial": "ab" * 32},
)
RENEWAL = SoftwareRenewalClaims(
    tenant=TenantId("ten_01jd7xq2vafw6b8tn4rz9k3mec"),
    node=NodeId("node_01jd7xq2vbh5s0d2yq8wv6g7pe"),
    generation=2,
    nonce="n" * 43,
    url="https://fabric.example:8440/v1/node/software-renewals",
    csr_sha256=sha256_hex(b"request"),
    answer_nonce="a" * 32,
    fingerprint={"board_serial": "ab" * 32},
)


def token(typ: str, payload: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    return seal(typ, key_id(key.public_key()), payload, key)


def test_the_claims_of_an_activation_have_these_bytes() -> None:
    """A literal example: other implementations sign these bytes."""
    assert json_encode(CLAIMS) == (
        b'{"activation":"act_01jd7xq2vafw6b8tn4rz9k3mec","nonce":"' + b"n" * 43 + b'",'
        b'"csr_sha256":"' + sha256_hex(b"request").encode() + b'","fingerprint":{"board_serial":"' + b"ab" * 32 + b'"},'
        b'"unreadable":[],"held":null}'
    )


def test_a_proof_survives_and_names_the_held_generation() -> None:
    held = HeldGeneration(RENEWAL.tenant, RENEWAL.node, 3)
    claims = msgspec.structs.replace(CLAIMS, held=held, unreadable=("mac",))
    payload = json_encode(claims)
    assert open_software_proof(token(TYP_SOFTWARE_PROOF, payload), KEY.public_key()) == claims
    assert open_software_proof(token(TYP_SOFTWARE_HELD, payload), KEY.public_key(), held=True) == claims
    assert open_software_renewal(token(TYP_SOFTWARE_RENEWAL, json_encode(RENEWAL)), KEY.public_key()) == RENEWAL


@pytest.mark.parametrize("held", [False, True])
def test_a_proof_of_another_type_key_or_form_is_refused(held: bool) -> None:
    """The proof of one step is no proof of another: each has its own type."""
    payload = json_encode(CLAIMS)
    mine, other = (TYP_SOFTWARE_PROOF, TYP_SOFTWARE_HELD)[:: -1 if held else 1]
    strange = ec.derive_private_key(1006, ec.SECP256R1())
    wide = ec.derive_private_key(1007, ec.SECP384R1())
    for wrong in (token(other, payload), token(mine, payload[:-1] + b',"more":1}'), token(mine, payload, strange), "x"):
        with pytest.raises(SoftwareProofError):
            open_software_proof(wrong, KEY.public_key(), held=held)
    for key in (wide.public_key(), b"no key"):
        with pytest.raises(SoftwareProofError, match="not a P-256 key"):
            open_software_proof(token(mine, payload), key, held=held)
    with pytest.raises(SoftwareProofError):
        open_software_renewal(token(mine, json_encode(RENEWAL)), KEY.public_key())


def test_a_renewal_is_strict() -> None:
    for change in (b',"more":1}', b',"generation":"2"}'):
        with pytest.raises(SoftwareProofError):
            open_software_renewal(token(TYP_SOFTWARE_RENEWAL, json_encode(RENEWAL)[:-1] + change), KEY.public_key())
    assert json_decode(json_encode(RENEWAL), SoftwareRenewalClaims) == RENEWAL


def test_each_proof_has_a_path_of_its_activation() -> None:
    assert path_software_proof(CLAIMS.activation) == f"/v1/software-activations/{CLAIMS.activation}/proof"
