"""Pure: the certificate profiles, what stands in a certificate of each kind, field by field (RFC 5280).

Takes names, key, serial and time; gives the to-be-signed bytes. Rule: the profile decides every field and extension;
only the public key comes out of a request. `lint.py` holds the same rules again, written apart from these; neither file
imports the other's tables. A change to what a profile gives is a new `PROFILE_VERSION`: every record names the version
it was made by, and the checker keeps the rules of all versions.
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

PROFILE_VERSION = 2
"""2: roots with room for a cross-certificate below them, name constraints in issuing CAs, CRL and OCSP addresses in
device and service certificates, services for days."""
DEVICE_LIFE_MAX = timedelta(days=1095)
"""A device certificate renews over any session; three years is the longest lease we would sign plus its tail."""
SERVICE_LIFE = timedelta(days=7)
"""Services renew at half of this: three and a half days are left to notice that a service cannot renew."""
RESPONDER_LIFE = timedelta(days=2)
"""Nothing revokes a responder certificate (id-pkix-ocsp-nocheck), so it lives shortly; renewed at half of this."""
ROOT_LIFE = timedelta(days=20 * 365)
ISSUING_LIFE = timedelta(days=10 * 365)
SERIAL_BYTES = 20
NO_REV_AVAIL = x509.ObjectIdentifier("2.5.29.56")
"""RFC 9608: no revocation information will ever be published for this certificate."""
_DER_NULL = b"\x05\x00"


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """The CA that will sign: its class and generation (`nodes`, `nodes-2`), and what of it stands in certificates."""

    name: CaName
    authority: str
    subject: x509.Name
    key_id: bytes
    curve: str
    not_before: datetime
    not_after: datetime
    certificate_der: bytes


class Distribution(msgspec.Struct, frozen=True):
    """Where the world asks about one certificate: its CRL, the OCSP responder, its issuer. Absolute http URLs.

    Plain http is right for these (RFC 5280 section 8): what is fetched is signed, and https would need what it checks.
    """

    crl_url: str
    ocsp_url: str
    ca_url: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """All that varies within a profile. Dates are whole seconds, UTC.

    `ca` and `trust_domain` are an issuing CA's: its class and the trust domain that it is constrained to. `version` is
    another than the newest only where the checker looks at what was issued before.
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


def make_serial(entropy: bytes) -> int:
    """A serial from 20 random bytes: 158 of its bits are random, it is positive and always 20 bytes long in DER.

    RFC 5280 section 4.1.2.2 allows 20 bytes; the top bit stays clear, the next is set so that none is short.
    """
    if len(entropy) != SERIAL_BYTES:
        raise ValueError(f"a serial takes {SERIAL_BYTES} bytes of entropy")
    return int.from_bytes(entropy, "big") & (2**158 - 1) | 2**158


def _start(now: datetime, issuer: Issuer) -> datetime:
    """A little before `now`, for clocks that run behind; never before the CA itself."""
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
    """A device certificate until `not_after`, bounded by `DEVICE_LIFE_MAX` and by the issuing CA."""
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
    """A session certificate: 12 hours from its notBefore, never past the device certificate."""
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
    """A service certificate: 7 days, for the names recorded for that service."""
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
    """A delegated OCSP responder of the very authority that it answers for (RFC 6960 section 4.2.2.2)."""
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
    """The common name of a CA; each generation has its own. At most 64 letters fit (RFC 5280 appendix A.1)."""
    return f"{trust_domain} {ca} CA {number}{mark and ' '}{mark}"


def want_root(common_name: str, key: RequestedKey, serial: int, now: datetime) -> Wanted:
    """The root, signed by itself."""
    start = (now - CLOCK_SKEW).replace(microsecond=0)
    return Wanted(
        profile="root",
        serial=serial,
        common_name=common_name,
        key=key,
        not_before=start,
        not_after=start + ROOT_LIFE,
    )


def want_cross(root: Issuer, key: RequestedKey, serial: int, now: datetime, issuer: Issuer) -> Wanted:
    """The name and key of `root` signed by another root, so that verifiers that trust only the other one trust both.

    Raises ValueError when the key is not the root's, or its name is not of our form.
    """
    if key.key_id != root.key_id:
        raise ValueError("the key is not the key of the root that is to be cross-signed")
    start = _start(now, issuer)
    wanted = Wanted(
        profile="cross",
        serial=serial,
        common_name=common_name_of(root.subject),
        key=key,
        not_before=max(start, root.not_before),
        not_after=min(root.not_after, issuer.not_after),
    )
    if subject_name(wanted) != root.subject:
        raise ValueError("the root's name has more in it than a common name")
    return wanted


def want_issuing(
    common_name: str,
    key: RequestedKey,
    serial: int,
    now: datetime,
    root: Issuer,
    ca: CaName,
    trust_domain: str,
) -> Wanted:
    """An issuing CA below the root, constrained to the trust domain; no CA below it."""
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
    )


def subject_name(wanted: Wanted) -> x509.Name:
    """CN, and for nodes the generation as serialNumber."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name)]
    if wanted.generation:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, str(wanted.generation)))
    return x509.Name(attributes)


def common_name_of(name: x509.Name) -> str:
    """The common name in a CA's subject. Raises ValueError when there is not exactly one."""
    (attribute,) = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


def self_issuer(wanted: Wanted, authority: str) -> Issuer:
    """The issuer of a root: itself, before it has a certificate."""
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
    """RFC 5280 section 4.1: DER leaves out `critical` where it is false."""
    return sequence(oid(value.oid.dotted_string), _TRUE if critical else b"", octet_string(value.public_bytes()))


def _constraints(wanted: Wanted) -> x509.NameConstraints:
    """RFC 5280 section 4.2.1.10: URIs of this trust domain only; below the nodes' CA, no host name at all."""
    excluded: list[x509.GeneralName] = []
    if wanted.ca == "nodes":
        # The empty DNS name is the root of all.
        networks = (ip_network("0.0.0.0/0"), ip_network("::/0"))
        excluded = [x509.DNSName(""), *(x509.IPAddress(network) for network in networks)]
    return x509.NameConstraints([x509.UniformResourceIdentifier(wanted.trust_domain)], excluded or None)


def _distribution(where: Distribution) -> tuple[bytes, ...]:
    uri = x509.UniformResourceIdentifier
    points = x509.CRLDistributionPoints([x509.DistributionPoint([uri(where.crl_url)], None, None, None)])
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri(where.ocsp_url)),
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, uri(where.ca_url)),
        ]
    )
    return _extension(points), _extension(access)


_TRUE = bytes.fromhex("0101ff")
_LEAF = (
    _extension(x509.BasicConstraints(ca=False, path_length=None), True),
    _extension(_usage(signs_certificates=False), True),
)
_FIXED: dict[ProfileName, tuple[bytes, ...]] = {
    # Room for a cross-certificate between a root and the issuing CAs of the next one.
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
"""What is the same in every certificate of a profile, encoded once."""


def _extensions(wanted: Wanted, issuer: Issuer) -> list[bytes]:
    found = list(_FIXED[wanted.profile])
    if wanted.spiffe is not None:
        found.append(_extension(_names(wanted)))
    if wanted.profile == "issuing":
        found.append(_extension(_constraints(wanted), True))
    if wanted.distribution is not None:
        found.extend(_distribution(wanted.distribution))
    found.append(_extension(x509.SubjectKeyIdentifier(wanted.key.key_id)))
    found.append(_extension(x509.AuthorityKeyIdentifier(issuer.key_id, None, None)))
    return found


SCRATCH_KEYS: dict[str, ec.EllipticCurvePrivateKey] = {
    "secp256r1": ec.derive_private_key(1, ec.SECP256R1()),
    "secp384r1": ec.derive_private_key(1, ec.SECP384R1()),
}
"""Keys that protect nothing (the scalar 1): the library's builder gives to-be-signed bytes only with a signature."""


def hash_of(curve: str) -> hashes.SHA256 | hashes.SHA384:
    """The hash that a CA on this curve signs with (RFC 5758 section 3.2)."""
    return hashes.SHA384() if curve == "secp384r1" else hashes.SHA256()


_VERSION_3 = bytes.fromhex("a003020102")
_ALGORITHM = {
    "secp256r1": sequence(oid("1.2.840.10045.4.3.2")),
    "secp384r1": sequence(oid("1.2.840.10045.4.3.3")),
}


def _time(when: datetime) -> bytes:
    """RFC 5280 section 4.1.2.5: two digits of the year to 2049, four from then on."""
    text = when.strftime("%Y%m%d%H%M%SZ").encode()
    return tlv(0x18, text) if when.year >= 2050 else tlv(0x17, text[2:])


def build(wanted: Wanted, issuer: Issuer) -> bytes:
    """The to-be-signed certificate (RFC 5280 section 4.1, TBSCertificate) in DER.

    The library writes names and extensions; the frame is put together here, because it gives to-be-signed bytes only
    with a signature, and that costs more than all the rest. A test compares the two for every profile.
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
