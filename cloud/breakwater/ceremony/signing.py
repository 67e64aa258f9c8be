"""Use cases of the root's key: sign a root, an issuing CA below it, a cross-certificate, or the root's CRL.

Keys, serials and times are arguments. These functions read and write no files. `cascade init` and every ceremony use
them. Rule: Every signature goes through the lint and the signer. Before a document is returned, other code than its
builder checks its bytes.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import CeremonyError, LintError
from cloud.breakwater.keys.signer import CaKey, Signer, issuer_of
from cloud.breakwater.pkix.crl import Entry, make_crl, want_crl
from cloud.breakwater.pkix.csr import RequestedKey, describe_key
from cloud.breakwater.pkix.lint import lint, relint
from cloud.breakwater.pkix.profiles import (
    CaName,
    Issuer,
    Wanted,
    authority_name,
    build,
    hash_of,
    self_issuer,
    want_cross,
    want_issuing,
    want_root,
)


class CaIdentity(msgspec.Struct, frozen=True):
    """A generation of a CA. `CaIdentity("cascade.test", "nodes", 2)` is `nodes-2`, named "cascade.test nodes CA 2".

    `mark` is appended to the name.
    """

    trust_domain: str
    ca: CaName
    number: int
    mark: str = ""

    @property
    def authority(self) -> str:
        return f"{self.ca}-{self.number}"

    @property
    def common_name(self) -> str:
        """The CA's name. Raises CeremonyError when it has more than 64 characters (RFC 5280 appendix A.1)."""
        name = authority_name(self.trust_domain, self.ca, self.number, self.mark)
        if len(name) > 64:
            raise CeremonyError(f"cannot name the CA {name!r}: more than 64 characters; choose a shorter trust domain")
        return name


async def make_root(identity: CaIdentity, key: CaKey, serial: int, now: datetime) -> Issuer:
    """Make a self-signed root. Raises LintError, SignerError or CeremonyError."""
    wanted = want_root(identity.common_name, describe_key(key.public_key), serial, now)
    der = await _signed(wanted, self_issuer(wanted, identity.authority), key, now)
    return issuer_of("root", identity.authority, x509.load_der_x509_certificate(der))


async def make_issuing(
    identity: CaIdentity,
    key: RequestedKey,
    root: Issuer,
    root_key: CaKey,
    serial: int,
    now: datetime,
    crl_url: str = "",
) -> Issuer:
    """Sign an issuing CA for `key`. The caller has verified the host's proof of possession.

    `crl_url` is the address of the root's CRL. If it is empty, the certificate names no CRL.

    Raises LintError, SignerError or CeremonyError.
    """
    wanted = want_issuing(identity.common_name, key, serial, now, root, identity.ca, identity.trust_domain, crl_url)
    der = await _signed(wanted, root, root_key, now)
    return issuer_of(identity.ca, identity.authority, x509.load_der_x509_certificate(der))


async def make_cross(
    subject: Issuer, root: Issuer, root_key: CaKey, serial: int, now: datetime, crl_url: str = ""
) -> bytes:
    """Sign the cross-certificate of the root `subject` and return it in DER. `crl_url` is as in `make_issuing`.

    Raises LintError, SignerError or CeremonyError.
    """
    if root.certificate_der:
        require_room(root)
    certificate = x509.load_der_x509_certificate(subject.certificate_der)
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or certificate.subject == root.subject:
        raise CeremonyError("cannot cross-sign: the subject has to be another root with an EC key")
    try:
        certificate.verify_directly_issued_by(certificate)
        wanted = want_cross(subject, describe_key(public_key), serial, now, root, crl_url)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CeremonyError(f"cannot cross-sign {subject.authority}: {error}") from error
    return await _signed(wanted, root, root_key, now)


def require_room(root: Issuer) -> None:
    """Refuse a root whose path length is below 2, as in profile version 1. Raises CeremonyError.

    With path length 1, a cross-certificate below the root leaves no room for issuing CAs. OpenSSL enforces this, though
    RFC 5280 section 6.1 does not require a verifier to check the path length of a trust anchor.
    """
    certificate = x509.load_der_x509_certificate(root.certificate_der)
    room = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if room is not None and room < 2:
        raise CeremonyError(
            f"cannot cross-sign with {root.authority}: its path length, {room}, leaves no room for another root's "
            "issuing CAs; put both roots into the trust bundle instead"
        )


async def make_root_crl(
    number: int, entries: Sequence[Entry], root: Issuer, root_key: CaKey, now: datetime, life: timedelta
) -> bytes:
    """Sign the root's CRL and return it in DER. Its entries are issuing CAs and cross-certificates.

    The CRL covers all certificates of the root and has no issuing distribution point. `life` is how long it is valid.

    Raises LintError, SignerError or CeremonyError.
    """
    signer = Signer()
    signer.add(root, root_key)
    wanted = want_crl(number, now, life, entries, None)
    if wanted.next_update > root.not_after:
        raise CeremonyError("cannot make the CRL: it would be valid for longer than the root; reduce `days`")
    der = await signer.sign(make_crl(wanted, root))
    crl = x509.load_der_x509_crl(der)
    numbered = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number
    listed = [entry.serial_number for entry in crl] == sorted(entry.serial for entry in entries)
    if not crl.is_signature_valid(root_key.public_key) or not numbered or not listed:
        raise CeremonyError("the signed CRL failed its check: signature, number or entries are wrong")
    return der


async def _signed(wanted: Wanted, issuer: Issuer, key: CaKey, now: datetime) -> bytes:
    signer = Signer()
    signer.add(issuer, key)
    der = await signer.sign(lint(build(wanted, issuer), wanted, issuer))
    _check(der, wanted, issuer, key.public_key, now)
    return der


def _check(der: bytes, wanted: Wanted, issuer: Issuer, signed_by: ec.EllipticCurvePublicKey, now: datetime) -> None:
    """Check a signed certificate from its bytes. Raises CeremonyError or LintError."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        algorithm = ec.ECDSA(hash_of(issuer.curve))
        signed_by.verify(certificate.signature, certificate.tbs_certificate_bytes, algorithm)
        if issuer.certificate_der:
            certificate.verify_directly_issued_by(x509.load_der_x509_certificate(issuer.certificate_der))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CeremonyError(
            f"the signed certificate failed its check: the signature is not that of {issuer.authority}"
        ) from error
    if certificate.public_key() != wanted.key.public_key:
        raise CeremonyError("the signed certificate failed its check: it is for another key")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc <= issuer.not_after:
        raise CeremonyError("the signed certificate failed its check: not valid now, or ends after its issuer")
    relint(certificate, issuer, wanted.profile, wanted.version, now)
    if wanted.profile == "issuing":
        _check_constraints(certificate, wanted)


def _check_constraints(certificate: x509.Certificate, wanted: Wanted) -> None:
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    permitted = [name.value for name in found.value.permitted_subtrees or []]
    kinds = {type(name) for name in found.value.excluded_subtrees or []}
    expected = {x509.DNSName, x509.IPAddress} if wanted.ca == "nodes" else set()
    if not found.critical or permitted != [wanted.trust_domain] or kinds != expected:
        raise LintError("name_constraints", "the signed certificate is not constrained to the trust domain")
