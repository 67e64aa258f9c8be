"""Use cases of the root's key: a root, an issuing CA below it, a cross-certificate, the root's revocation list.

Keys, serials and times are arguments; no file is read or written here. `cascade init` and every ceremony use these
functions. Rule: every signature goes through the lint and the signer, and every output is checked from its bytes, by
other code than made it, before it is returned.
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
    """Which generation of which CA: `CaIdentity("cascade.test", "nodes", 2)` is `nodes-2`, "cascade.test nodes CA 2"."""

    trust_domain: str
    ca: CaName
    number: int
    mark: str = ""

    @property
    def authority(self) -> str:
        return f"{self.ca}-{self.number}"

    @property
    def common_name(self) -> str:
        """Raises CeremonyError when no certificate has room for it."""
        name = authority_name(self.trust_domain, self.ca, self.number, self.mark)
        if len(name) > 64:
            raise CeremonyError(f"the name {name!r} has more than 64 letters; choose a shorter trust domain")
        return name


async def make_root(identity: CaIdentity, key: CaKey, serial: int, now: datetime) -> Issuer:
    """A root that signs itself. Raises LintError, SignerError, CeremonyError."""
    wanted = want_root(identity.common_name, describe_key(key.public_key), serial, now)
    der = await _signed(wanted, self_issuer(wanted, identity.authority), key, now)
    return issuer_of("root", identity.authority, x509.load_der_x509_certificate(der))


async def make_issuing(
    identity: CaIdentity, key: RequestedKey, root: Issuer, root_key: CaKey, serial: int, now: datetime
) -> Issuer:
    """An issuing CA whose host proved possession of `key`. Raises LintError, SignerError, CeremonyError."""
    wanted = want_issuing(identity.common_name, key, serial, now, root, identity.ca, identity.trust_domain)
    der = await _signed(wanted, root, root_key, now)
    return issuer_of(identity.ca, identity.authority, x509.load_der_x509_certificate(der))


async def make_cross(subject: Issuer, root: Issuer, root_key: CaKey, serial: int, now: datetime) -> bytes:
    """The root `subject` signed by another root, DER. Raises LintError, SignerError, CeremonyError."""
    if root.certificate_der:
        require_room(root)
    certificate = x509.load_der_x509_certificate(subject.certificate_der)
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or certificate.subject == root.subject:
        raise CeremonyError("cannot cross-sign: not another root")
    try:
        certificate.verify_directly_issued_by(certificate)
        wanted = want_cross(subject, describe_key(public_key), serial, now, root)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CeremonyError(f"cannot cross-sign {subject.authority}: {error}") from error
    return await _signed(wanted, root, root_key, now)


def require_room(root: Issuer) -> None:
    """Refuse a root of the first profiles, below which a cross-certificate leads nowhere. Raises CeremonyError.

    Its path length, 1, is used up by the issuing CAs; OpenSSL counts it though RFC 5280 section 6.1 need not.
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
    """The root's own list, of issuing CAs and cross-certificates, DER. Raises LintError, SignerError, CeremonyError.

    It is the whole list of this root and has no issuing distribution point.
    """
    signer = Signer()
    signer.add(root, root_key)
    wanted = want_crl(number, now, life, entries, None)
    if wanted.next_update > root.not_after:
        raise CeremonyError("cannot make the list: it would outlive the root")
    der = await signer.sign(make_crl(wanted, root))
    crl = x509.load_der_x509_crl(der)
    numbered = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number
    listed = [entry.serial_number for entry in crl] == sorted(entry.serial for entry in entries)
    if not crl.is_signature_valid(root_key.public_key) or not numbered or not listed:
        raise CeremonyError("the list that was made is not the one that was wanted")
    return der


async def _signed(wanted: Wanted, issuer: Issuer, key: CaKey, now: datetime) -> bytes:
    signer = Signer()
    signer.add(issuer, key)
    der = await signer.sign(lint(build(wanted, issuer), wanted, issuer))
    _check(der, wanted, issuer, key.public_key, now)
    return der


def _check(der: bytes, wanted: Wanted, issuer: Issuer, signed_by: ec.EllipticCurvePublicKey, now: datetime) -> None:
    """Every output once more, from its bytes alone. Raises CeremonyError, LintError."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        algorithm = ec.ECDSA(hash_of(issuer.curve))
        signed_by.verify(certificate.signature, certificate.tbs_certificate_bytes, algorithm)
        if issuer.certificate_der:
            certificate.verify_directly_issued_by(x509.load_der_x509_certificate(issuer.certificate_der))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CeremonyError(f"the certificate that was made is not signed by {issuer.authority}") from error
    if certificate.public_key() != wanted.key.public_key:
        raise CeremonyError("the certificate that was made is for another key")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc <= issuer.not_after:
        raise CeremonyError("the certificate that was made does not count now, or longer than its issuer")
    relint(certificate, issuer, wanted.profile, wanted.version, now)
    if wanted.profile == "issuing":
        _check_constraints(certificate, wanted)


def _check_constraints(certificate: x509.Certificate, wanted: Wanted) -> None:
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    permitted = [name.value for name in found.value.permitted_subtrees or []]
    kinds = {type(name) for name in found.value.excluded_subtrees or []}
    expected = {x509.DNSName, x509.IPAddress} if wanted.ca == "nodes" else set()
    if not found.critical or permitted != [wanted.trust_domain] or kinds != expected:
        raise LintError("name_constraints", "the certificate that was made is not constrained to the trust domain")
