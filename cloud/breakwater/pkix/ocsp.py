"""Pure functions, except for one field: parse OCSP requests and build OCSP responses (RFC 6960).

Rule: A request has a bounded size and asks about one certificate. A request that we do not understand in full is
refused with a status of the standard. We do not verify a signature on a request (RFC 6960 section 4.1.2 leaves that to
the responder), and a signed request gets the same answer as an unsigned one. The exception: the library reads
`producedAt` from the machine's clock. No verifier bases a decision on `producedAt`.
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
"""A request for one certificate has 70 to 250 bytes; with a signature and the signer's certificate less than 2 kB."""
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
    """The request gets an error response. `trouble` is its OCSPResponseStatus, `detail` the reason for the log."""

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
    """A parsed request: the issuer and serial of the certificate, and the client's nonce if there was one."""

    issuer: CertId
    serial: int
    nonce: bytes | None


class Status(msgspec.Struct, frozen=True):
    """The status of one certificate. `reason` is the CRLReason (RFC 5280 section 5.3.1)."""

    verdict: Verdict
    revoked_at: datetime | None = None
    reason: int = UNSPECIFIED


def cert_ids(issuer: Issuer) -> tuple[CertId, ...]:
    """Return the issuer's CertIDs, one for each supported hash, to look up the issuer that a request names."""
    subject = issuer.subject.public_bytes()
    key = x509.load_der_x509_certificate(issuer.certificate_der).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("the key of a CA is not an EC key")
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    # Most clients use SHA-1 in a CertID. Here it is a lookup key; no security depends on it.
    return (
        CertId("sha1", hashlib.sha1(subject).digest(), hashlib.sha1(point).digest()),  # noqa: S324  (a look-up key)
        CertId("sha256", hashlib.sha256(subject).digest(), hashlib.sha256(point).digest()),
    )


def parse_request(der: bytes) -> Question:
    """Parse an OCSPRequest in DER.

    The request has 1 to `REQUEST_BYTES_MAX` bytes, asks about one certificate, uses SHA-1 or SHA-256 and contains no
    unknown critical extension. A nonce has 1 to `NONCE_BYTES_MAX` bytes.

    Raises:
        OcspRefused: with `malformed`, or with `unauthorized` for another hash.
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
        raise OcspRefused("unauthorized", "unknown hash algorithm") from error
    for name, kind in _HASHES.items():
        if isinstance(algorithm, kind):
            if len(name_hash) != algorithm.digest_size or len(key_hash) != algorithm.digest_size:
                raise OcspRefused("malformed", "a hash of the wrong size")
            return Question(CertId(name, name_hash, key_hash), serial, nonce)
    raise OcspRefused("unauthorized", f"the hash algorithm {algorithm.name} is not supported")


def _nonce(extensions: x509.Extensions) -> bytes | None:
    nonce = None
    for extension in extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonce = extension.value.nonce
            if not 1 <= len(nonce) <= NONCE_BYTES_MAX:
                raise OcspRefused("malformed", f"a nonce has 1 to {NONCE_BYTES_MAX} bytes")
        elif extension.critical:
            raise OcspRefused("malformed", f"unknown critical extension {extension.oid.dotted_string}")
    return nonce


def refusal(trouble: Trouble) -> bytes:
    """Return an unsigned error response in DER (RFC 6960 section 2.3)."""
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
    """Return a signed OCSP response in DER.

    The response identifies the responder by its key, contains the responder's certificate and repeats the nonce of the
    request. Dates are aware UTC and are cut to whole seconds.
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
