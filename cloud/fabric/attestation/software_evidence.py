"""Pure functions: check the proofs of a machine without a TPM (tier `software`; `protocol.messages.software`).

The proofs show that the caller has a key. They do not show which machine it is: the fingerprint in them is the machine's
own report. The use case compares the nonce, because wrong ones are counted.

Steps, with numbers that no step of `ek_trust` and `evidence` has:

    61  the node key is a SubjectPublicKeyInfo of a P-256 key, in DER (RFC 5480)
    62  the proof is a JWS of its type by that key, with claims of the right form
    63  the claims name this activation
    64  the claims name this certificate request
    65  the fingerprint can identify a machine (`protocol.fingerprint.enroll`)
    66  the held key signed the same claims

Certificate requests are checked by the steps 26 to 28 of `evidence`.
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric.attestation.evidence import check_request
from cloud.fabric.attestation.placeholders import placeholders, without_placeholders
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from protocol.encoding import sha256_hex
from protocol.fingerprint import ANCHORS, NotEnrollable, enroll, kind_of
from protocol.ids import ActivationId
from protocol.messages.software import SoftwareProofClaims, SoftwareProofError, open_software_proof

SPKI_BYTES_MAX = 256
"""A SubjectPublicKeyInfo of a P-256 key has 91 bytes."""


def read_node_key(spki: bytes) -> tuple[ec.EllipticCurvePublicKey, bytes]:
    """The node key, and its one encoding as SubjectPublicKeyInfo. Step 61. Raises EvidenceRefused."""
    try:
        key = serialization.load_der_public_key(spki) if len(spki) <= SPKI_BYTES_MAX else None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceRefused(61, "evidence_refused", "the node key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceRefused(61, "evidence_refused", "the node key is not a P-256 key")
    return key, _spki(key)


def read_proof(proof: str, key: ec.EllipticCurvePublicKey, activation: ActivationId) -> SoftwareProofClaims:
    """The claims of a proof by the node key of this activation. Steps 62 and 63. Raises EvidenceRefused."""
    try:
        claims = open_software_proof(proof, key)
    except SoftwareProofError as error:
        raise EvidenceRefused(62, "evidence_refused", f"the node key did not sign the proof: {error}") from error
    if claims.activation != activation:
        raise EvidenceRefused(63, "evidence_refused", "the proof is for another activation")
    return claims


def check_claims(claims: SoftwareProofClaims, csr: bytes, spki: bytes, salt: bytes) -> None:
    """Check request and fingerprint of a proof whose nonce was compared. Steps 64, 65 and 26 to 28.

    `salt` is the tenant's fingerprint salt. Raises EvidenceRefused.
    """
    if claims.csr_sha256 != sha256_hex(csr):
        raise EvidenceRefused(64, "evidence_refused", "the proof is for another certificate request")
    try:
        enroll(claims.fingerprint, placeholders(salt))
    except NotEnrollable as error:
        raise EvidenceRefused(65, "evidence_refused", f"the machine cannot be known without a TPM: {error}") from error
    check_request(csr, spki)
    require_plain(csr)


def check_held(token: str, key: object, claims: SoftwareProofClaims) -> None:
    """Check that the held key signed the same claims. Step 66. Raises EvidenceRefused."""
    try:
        held = open_software_proof(token, key, held=True)
    except SoftwareProofError as error:
        raise EvidenceRefused(66, "evidence_refused", f"the held key did not sign the proof: {error}") from error
    if held != claims:
        raise EvidenceRefused(66, "evidence_refused", "the held key signed another proof")


def requested_key(csr: bytes) -> bytes:
    """The key that a certificate request asks for (SubjectPublicKeyInfo), with its proof of possession.

    Steps 61 and 26 to 28. Raises EvidenceRefused.
    """
    try:
        requested = x509.load_der_x509_csr(csr).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise EvidenceRefused(26, "csr_refused", "the certificate request cannot be read") from error
    if not isinstance(requested, ec.EllipticCurvePublicKey) or not isinstance(requested.curve, ec.SECP256R1):
        raise EvidenceRefused(61, "csr_refused", "the node key is not a P-256 key")
    spki = _spki(requested)
    check_request(csr, spki)
    require_plain(csr)
    return spki


def require_plain(csr: bytes) -> None:
    """Check that a readable request asks for no extension or attribute. Raises EvidenceRefused.

    The issuer refuses such a request too, but only after a seat and a generation were used up.
    """
    if list(x509.load_der_x509_csr(csr).attributes):
        reason = "the certificate request asks for extensions or attributes. Send a request without them"
        raise EvidenceRefused(28, "csr_refused", reason)


def anchor_values(fingerprint: dict[str, str], salt: bytes) -> tuple[str, ...]:
    """The values of disks and boards, without placeholders: a machine is found by them."""
    found = without_placeholders(fingerprint, salt)
    return tuple(sorted({value for name, value in found.items() if kind_of(name) in ANCHORS}))


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
