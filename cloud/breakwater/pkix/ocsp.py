"""Pure but for one field: OCSP requests are taken apart and responses put together (RFC 6960).

Rule: a request is bounded, asks about one certificate, and is either understood in full or refused with the standard's
status. A signature on a request is not verified (RFC 6960 section 4.1.2 leaves it to the responder); a signed request
gets no more. `producedAt` is read from the machine's clock by the library; no verifier decides by it.
"""

import hashlib
from datetime import datetime
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from cloud.breakwater.pkix.crl import REASONS, UNSPECIFIED
from cloud.breakwater.pkix.profiles import Issuer, hash_of

REQUEST_BYTES_MAX = 2048
"""A request for one certificate is 70 to 250 bytes; with a signature and its certificate below 2 kB."""
NONCE_BYTES_MAX = 128
"""RFC 9654 section 2.1."""

HashName = Literal["sha1", "sha256"]
Verdict = Literal["good", "revoked", "unknown"]
Trouble = Literal["malformed", "internal", "try_later", "unauthorized"]

_HASHES: dict[HashName, type[hashes.HashAlgorithm]] = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}
_TROUBLES = {
    "malformed": ocsp.OCSPResponseStatus.MALFORMED_REQUEST,
    "internal": ocsp.OCSPResponseStatus.INTERNAL_ERROR,
    "try_later": ocsp.OCSPResponseStatus.TRY_LATER,
    "unauthorized": ocsp.OCSPResponseStatus.UNAUTHORIZED,
}
_VERDICTS = {
    "good": ocsp.OCSPCertStatus.GOOD,
    "revoked": ocsp.OCSPCertStatus.REVOKED,
    "unknown": ocsp.OCSPCertStatus.UNKNOWN,
}


class OcspRefused(Exception):
    """The request gets an answer without a certificate's status. `trouble` is the status of the whole answer."""

    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(f"{trouble}: {detail}")
        self.trouble: Trouble = trouble
        self.detail = detail


class CertId(msgspec.Struct, frozen=True):
    """How a request names an issuer: hashes of its subject and of its key's bits (RFC 6960 section 4.1.1)."""

    algorithm: HashName
    name_hash: bytes
    key_hash: bytes


class Question(msgspec.Struct, frozen=True):
    """About which certificate somebody asks."""

    issuer: CertId
    serial: int
    nonce: bytes | None


class Status(msgspec.Struct, frozen=True):
    """What is known of a certificate. `reason` is the CRLReason."""

    verdict: Verdict
    revoked_at: datetime | None = None
    reason: int = UNSPECIFIED


def cert_ids(issuer: Issuer) -> tuple[CertId, ...]:
    """The names under which an issuer is asked for."""
    subject = issuer.subject.public_bytes()
    key = x509.load_der_x509_certificate(issuer.certificate_der).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("a CA's key is on an elliptic curve")
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    # SHA-1 is what every client asks with; it finds a row here and secures nothing.
    return (
        CertId("sha1", hashlib.sha1(subject).digest(), hashlib.sha1(point).digest()),  # noqa: S324
        CertId("sha256", hashlib.sha256(subject).digest(), hashlib.sha256(point).digest()),
    )


def parse_request(der: bytes) -> Question:
    """Take a request apart: size, one certificate, SHA-1 or SHA-256, no extension that is critical and not known.

    Raises OcspRefused: `malformed`, or `unauthorized` for a hash that we do not answer for.
    """
    if not 0 < len(der) <= REQUEST_BYTES_MAX:
        raise OcspRefused("malformed", f"a request has 1 to {REQUEST_BYTES_MAX} bytes")
    try:
        request = ocsp.load_der_ocsp_request(der)
        serial = request.serial_number
        nonce = _nonce(request.extensions)
        name_hash, key_hash = request.issuer_name_hash, request.issuer_key_hash
    except (ValueError, NotImplementedError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise OcspRefused("malformed", str(error)) from error
    try:
        algorithm = request.hash_algorithm
    except UnsupportedAlgorithm as error:
        raise OcspRefused("unauthorized", "a hash that is not known here") from error
    for name, kind in _HASHES.items():
        if isinstance(algorithm, kind):
            if len(name_hash) != algorithm.digest_size or len(key_hash) != algorithm.digest_size:
                raise OcspRefused("malformed", "a hash of the wrong size")
            return Question(CertId(name, name_hash, key_hash), serial, nonce)
    raise OcspRefused("unauthorized", f"no issuer is known here by its {algorithm.name}")


def _nonce(extensions: x509.Extensions) -> bytes | None:
    nonce = None
    for extension in extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonce = extension.value.nonce
            if not 1 <= len(nonce) <= NONCE_BYTES_MAX:
                raise OcspRefused("malformed", f"a nonce has 1 to {NONCE_BYTES_MAX} bytes")
        elif extension.critical:
            raise OcspRefused("malformed", f"the critical extension {extension.oid.dotted_string} is not known here")
    return nonce


def refusal(trouble: Trouble) -> bytes:
    """An answer without a status (RFC 6960 section 2.3), DER; it is not signed."""
    made = ocsp.OCSPResponseBuilder.build_unsuccessful(_TROUBLES[trouble])
    return made.public_bytes(serialization.Encoding.DER)


def answer(
    question: Question,
    status: Status,
    responder: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    this_update: datetime,
    next_update: datetime,
) -> bytes:
    """The signed answer, DER: by key, with the delegated responder's certificate in it, the nonce given back.

    Dates are aware UTC; whole seconds count.
    """
    revoked = status.verdict == "revoked"
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            question.issuer.name_hash,
            question.issuer.key_hash,
            question.serial,
            _HASHES[question.issuer.algorithm](),
            _VERDICTS[status.verdict],
            this_update.replace(microsecond=0),
            next_update.replace(microsecond=0),
            (status.revoked_at or this_update).replace(microsecond=0) if revoked else None,
            REASONS[status.reason] if revoked and status.reason != UNSPECIFIED else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder)
        .certificates([responder])
    )
    if question.nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(question.nonce), critical=False)
    return builder.sign(key, hash_of(key.curve.name)).public_bytes(serialization.Encoding.DER)
