"""Pure functions: certificate profiles, which decide every field of a certificate (RFC 5280).

The `want_*` functions take names, key, serial and time and return a `Wanted`. `build` encodes a `Wanted` into
to-be-signed bytes. Rule: The profile decides every field and extension; only the public key comes from a request.
`lint.py` states the same rules a second time and was written independently; neither file uses the other's tables. Each
change to a profile's content is a new `PROFILE_VERSION`. Each record contains the version of its profile, and the
checker keeps the rules of all versions.
"""

from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from cloud.breakwater.pkix.csr import RequestedKey
from cloud.crypto.der import integer, octet_string, oid, sequence, tlv
from protocol.ids import EKU_DEVICE, NodeSpiffeId, ServiceSpiffeId
from protocol.limits import CLOCK_SKEW, SESSION_LIFE_MAX

ProfileName = Literal["root", "cross", "issuing", "device", "session", "service", "responder"]
CaName = Literal["root", "nodes", "services"]

PROFILE_VERSION = 3
"""New in version 3: device certificates have an extended key usage that every parser reads (docs/adr/0019). Issuing CAs and
cross-certificates can name the CRL of the root that signed them.
New in version 2: roots have path length 2, so that a cross-certificate fits below them. Issuing CAs have name
constraints. Device and service certificates contain CRL and OCSP addresses. Service certificates are valid for days."""
DEVICE_LIFE_MAX = timedelta(days=1095)
"""Three years: Fabric's longest lease (790 days), 30 days after its end, and 275 days in which a lease can be renewed.
A node can renew the certificate in any session."""
SERVICE_LIFE = timedelta(days=7)
"""Services renew at about half of this. Operators then have three days to notice a service that cannot renew."""
RESPONDER_LIFE = timedelta(days=2)
"""A responder certificate cannot be revoked (id-pkix-ocsp-nocheck), so its life is short. Renewed at half of this."""
ROOT_LIFE = timedelta(days=20 * 365)
ISSUING_LIFE = timedelta(days=10 * 365)
SERIAL_BYTES = 20
NO_REV_AVAIL = x509.ObjectIdentifier("2.5.29.56")
"""RFC 9608: no revocation information will ever be published for this certificate."""
_DER_NULL = b"\x05\x00"


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """A CA that signs: the parts of its certificate that the profiles and the lint need.

    `name` is the CA's class (`nodes`), `authority` its id (`nodes-2`). `certificate_der` is empty for a root that has
    not signed itself yet.
    """

    name: CaName
    authority: str
    subject: x509.Name
    key_id: bytes
    curve: str
    not_before: datetime
    not_after: datetime
    certificate_der: bytes


class Distribution(msgspec.Struct, frozen=True):
    """Public addresses about one certificate: its CRL, the OCSP responder, its issuer's certificate.

    They are absolute http URLs (RFC 5280 section 8). The fetched objects are signed, so http is safe. With https a
    verifier would have to check a certificate before it can fetch the data for checking certificates.
    """

    crl_url: str
    ocsp_url: str
    ca_url: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one certificate that its profile does not fix. Dates are whole seconds, UTC.

    Only an issuing CA has `ca` (its class) and `trust_domain` (its name constraint). `crl_url` is the address of the
    root's CRL in an issuing CA or a cross-certificate; if it is empty, the certificate names no CRL. `version` is an
    older version only when the checker reads a certificate that was issued under that version.
    """

    profile: ProfileName
    serial: int
    common_name: str
    key: RequestedKey
    not_before: datetime
    not_after: datetime
    generation: int = 0
    spiffe: NodeSpiffeId | ServiceSpiffeId | None = None
    dns_names: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    distribution: Distribution | None = None
    ca: CaName | None = None
    trust_domain: str = ""
    version: int = PROFILE_VERSION
    crl_url: str = ""


def make_serial(entropy: bytes) -> int:
    """Return a serial number with 158 random bits, made from 20 random bytes.

    The serial is positive and has always 20 bytes in DER, the most that RFC 5280 section 4.1.2.2 allows. Its top bit is
    clear, so that it is positive. The next bit is set, so that it has never fewer than 20 bytes.
    """
    if len(entropy) != SERIAL_BYTES:
        raise ValueError(f"a serial takes {SERIAL_BYTES} bytes of entropy")
    return int.from_bytes(entropy, "big") & (2**158 - 1) | 2**158


def _start(now: datetime, issuer: Issuer) -> datetime:
    """Return notBefore: `CLOCK_SKEW` before `now` for verifiers whose clocks are slow, but not before the CA's."""
    return max((now - CLOCK_SKEW).replace(microsecond=0), issuer.not_before)


def want_device(
    spiffe: NodeSpiffeId,
    generation: int,
    key: RequestedKey,
    serial: int,
    now: datetime,
    not_after: datetime,
    issuer: Issuer,
    distribution: Distribution,
) -> Wanted:
    """A device certificate that ends at `not_after`, after `DEVICE_LIFE_MAX`, or with its CA, whichever is first."""
    start = _start(now, issuer)
    return Wanted(
        profile="device",
        serial=serial,
        common_name=spiffe.node,
        key=key,
        not_before=start,
        not_after=min(not_after.replace(microsecond=0), start + DEVICE_LIFE_MAX, issuer.not_after),
        generation=generation,
        spiffe=spiffe,
        distribution=distribution,
    )


def want_session(
    spiffe: NodeSpiffeId,
    generation: int,
    key: RequestedKey,
    serial: int,
    now: datetime,
    device_not_after: datetime,
    issuer: Issuer,
) -> Wanted:
    """A session certificate: 12 hours from its notBefore. It ends earlier if the device certificate or the CA does."""
    start = _start(now, issuer)
    return Wanted(
        profile="session",
        serial=serial,
        common_name=spiffe.node,
        key=key,
        not_before=start,
        not_after=min(start + SESSION_LIFE_MAX, device_not_after.replace(microsecond=0), issuer.not_after),
        generation=generation,
        spiffe=spiffe,
    )


def want_service(
    spiffe: ServiceSpiffeId,
    dns_names: tuple[str, ...],
    addresses: tuple[IPv4Address | IPv6Address, ...],
    key: RequestedKey,
    serial: int,
    now: datetime,
    issuer: Issuer,
    distribution: Distribution,
) -> Wanted:
    """A service certificate for 7 days, with the host names that are recorded for the service."""
    start = _start(now, issuer)
    return Wanted(
        profile="service",
        serial=serial,
        common_name=spiffe.name,
        key=key,
        not_before=start,
        not_after=min(start + SERVICE_LIFE, issuer.not_after),
        spiffe=spiffe,
        dns_names=dns_names,
        addresses=addresses,
        distribution=distribution,
    )


def want_responder(key: RequestedKey, serial: int, now: datetime, issuer: Issuer) -> Wanted:
    """A certificate for a delegated OCSP responder, issued by the CA it answers for (RFC 6960 section 4.2.2.2)."""
    start = _start(now, issuer)
    return Wanted(
        profile="responder",
        serial=serial,
        common_name=f"{issuer.authority} OCSP responder",
        key=key,
        not_before=start,
        not_after=min(start + RESPONDER_LIFE, issuer.not_after),
    )


def authority_name(trust_domain: str, ca: CaName, number: int, mark: str = "") -> str:
    """Return the common name of a CA generation. The caller checks its length (at most 64, RFC 5280 appendix A.1)."""
    return f"{trust_domain} {ca} CA {number}{mark and ' '}{mark}"


def want_root(common_name: str, key: RequestedKey, serial: int, now: datetime) -> Wanted:
    """A self-signed root certificate."""
    start = (now - CLOCK_SKEW).replace(microsecond=0)
    return Wanted(
        profile="root",
        serial=serial,
        common_name=common_name,
        key=key,
        not_before=start,
        not_after=start + ROOT_LIFE,
    )


def want_cross(
    root: Issuer, key: RequestedKey, serial: int, now: datetime, issuer: Issuer, crl_url: str = ""
) -> Wanted:
    """A cross-certificate: the name and key of `root`, signed by the other root `issuer`.

    A verifier that trusts only `issuer` then accepts certificates below `root` too. `crl_url` is of `issuer`, or empty.

    Raises:
        ValueError: `key` is not the root's key, or the root's subject is not a single common name.
    """
    if key.key_id != root.key_id:
        raise ValueError("the key does not belong to the root to be cross-signed")
    start = _start(now, issuer)
    wanted = Wanted(
        profile="cross",
        serial=serial,
        common_name=common_name_of(root.subject),
        key=key,
        not_before=max(start, root.not_before),
        not_after=min(root.not_after, issuer.not_after),
        crl_url=crl_url,
    )
    if subject_name(wanted) != root.subject:
        raise ValueError("the root's subject contains more than a common name")
    return wanted


def want_issuing(
    common_name: str,
    key: RequestedKey,
    serial: int,
    now: datetime,
    root: Issuer,
    ca: CaName,
    trust_domain: str,
    crl_url: str = "",
) -> Wanted:
    """An issuing CA for leaf certificates of one trust domain. `crl_url` is the address of the root's CRL, or empty."""
    start = _start(now, root)
    return Wanted(
        profile="issuing",
        serial=serial,
        common_name=common_name,
        key=key,
        not_before=start,
        not_after=min(start + ISSUING_LIFE, root.not_after),
        ca=ca,
        trust_domain=trust_domain,
        crl_url=crl_url,
    )


def subject_name(wanted: Wanted) -> x509.Name:
    """Return the subject: the common name, and for a node its generation as serialNumber."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name)]
    if wanted.generation:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, str(wanted.generation)))
    return x509.Name(attributes)


def common_name_of(name: x509.Name) -> str:
    """Return the common name in a CA's subject. Raises ValueError unless there is exactly one."""
    (attribute,) = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


def self_issuer(wanted: Wanted, authority: str) -> Issuer:
    """Return the `Issuer` with which a root signs itself; it has no certificate yet."""
    return Issuer(
        name="root",
        authority=authority,
        subject=subject_name(wanted),
        key_id=wanted.key.key_id,
        curve=wanted.key.public_key.curve.name,
        not_before=wanted.not_before,
        not_after=wanted.not_after,
        certificate_der=b"",
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


_CA_USAGE = _usage(signs_certificates=True)


def _names(wanted: Wanted) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(str(wanted.spiffe)),
            *(x509.DNSName(name) for name in wanted.dns_names),
            *(x509.IPAddress(address) for address in wanted.addresses),
        ]
    )


def _extension(value: x509.ExtensionType, critical: bool = False) -> bytes:
    """Encode an extension (RFC 5280 section 4.1). DER omits `critical` when it is false."""
    return sequence(oid(value.oid.dotted_string), _TRUE if critical else b"", octet_string(value.public_bytes()))


def _constraints(wanted: Wanted) -> x509.NameConstraints:
    """Name constraints (RFC 5280 section 4.2.1.10) of an issuing CA.

    Only URIs of this trust domain are permitted. The CA for nodes excludes every DNS name and IP address too.
    """
    excluded: list[x509.GeneralName] = []
    if wanted.ca == "nodes":
        # An empty DNS name excludes all DNS names.
        networks = (ip_network("0.0.0.0/0"), ip_network("::/0"))
        excluded = [x509.DNSName(""), *(x509.IPAddress(network) for network in networks)]
    return x509.NameConstraints([x509.UniformResourceIdentifier(wanted.trust_domain)], excluded or None)


def _crl_point(url: str) -> bytes:
    name = x509.UniformResourceIdentifier(url)
    return _extension(x509.CRLDistributionPoints([x509.DistributionPoint([name], None, None, None)]))


def _distribution(where: Distribution) -> tuple[bytes, ...]:
    uri = x509.UniformResourceIdentifier
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri(where.ocsp_url)),
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, uri(where.ca_url)),
        ]
    )
    return _crl_point(where.crl_url), _extension(access)


_TRUE = bytes.fromhex("0101ff")
_LEAF = (
    _extension(x509.BasicConstraints(ca=False, path_length=None), True),
    _extension(_usage(signs_certificates=False), True),
)
_FIXED: dict[ProfileName, tuple[bytes, ...]] = {
    # Path length 2: below a root there can be a cross-certificate of the next root, and below that its issuing CAs.
    "root": (_extension(x509.BasicConstraints(ca=True, path_length=2), True), _extension(_CA_USAGE, True)),
    "cross": (_extension(x509.BasicConstraints(ca=True, path_length=1), True), _extension(_CA_USAGE, True)),
    "issuing": (_extension(x509.BasicConstraints(ca=True, path_length=0), True), _extension(_CA_USAGE, True)),
    "device": (*_LEAF, _extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(EKU_DEVICE)]))),
    "session": (
        *_LEAF,
        _extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
        _extension(x509.UnrecognizedExtension(NO_REV_AVAIL, _DER_NULL)),
    ),
    "service": (
        *_LEAF,
        _extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])),
    ),
    "responder": (
        *_LEAF,
        _extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])),
        _extension(x509.OCSPNoCheck()),
    ),
}
"""The extensions that are the same in every certificate of a profile, encoded once."""


def _extensions(wanted: Wanted, issuer: Issuer) -> list[bytes]:
    found = list(_FIXED[wanted.profile])
    if wanted.spiffe is not None:
        found.append(_extension(_names(wanted)))
    if wanted.profile == "issuing":
        found.append(_extension(_constraints(wanted), True))
    if wanted.distribution is not None:
        found.extend(_distribution(wanted.distribution))
    if wanted.crl_url:
        found.append(_crl_point(wanted.crl_url))
    found.append(_extension(x509.SubjectKeyIdentifier(wanted.key.key_id)))
    found.append(_extension(x509.AuthorityKeyIdentifier(issuer.key_id, None, None)))
    return found


SCRATCH_KEYS: dict[str, ec.EllipticCurvePrivateKey] = {
    "secp256r1": ec.derive_private_key(1, ec.SECP256R1()),
    "secp384r1": ec.derive_private_key(1, ec.SECP384R1()),
}
"""Well-known keys (the scalar 1) that protect nothing. The library's builder returns to-be-signed bytes only together
with a signature, so we sign with these keys and drop the signature."""


def hash_of(curve: str) -> hashes.SHA256 | hashes.SHA384:
    """Return the hash of an ECDSA signature by a key on this curve (RFC 5758 section 3.2)."""
    return hashes.SHA384() if curve == "secp384r1" else hashes.SHA256()


_VERSION_3 = bytes.fromhex("a003020102")
_ALGORITHM = {
    "secp256r1": sequence(oid("1.2.840.10045.4.3.2")),
    "secp384r1": sequence(oid("1.2.840.10045.4.3.3")),
}


def _time(when: datetime) -> bytes:
    """Encode a date (RFC 5280 section 4.1.2.5): UTCTime up to 2049, GeneralizedTime from 2050."""
    text = when.strftime("%Y%m%d%H%M%SZ").encode()
    return tlv(0x18, text) if when.year >= 2050 else tlv(0x17, text[2:])


def build(wanted: Wanted, issuer: Issuer) -> bytes:
    """Return the to-be-signed certificate (TBSCertificate, RFC 5280 section 4.1) in DER.

    The library encodes names and extensions. We encode the rest because the library's builder returns to-be-signed
    bytes only with a signature, which costs more time than all other steps. A test compares the result with the
    library's for every profile.
    """
    return sequence(
        _VERSION_3,
        integer(wanted.serial),
        _ALGORITHM[issuer.curve],
        issuer.subject.public_bytes(),
        sequence(_time(wanted.not_before), _time(wanted.not_after)),
        subject_name(wanted).public_bytes(),
        wanted.key.spki_der,
        tlv(0xA3, sequence(*_extensions(wanted, issuer))),
    )
