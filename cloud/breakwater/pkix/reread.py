"""Pure functions: parse an issued certificate into the `Wanted` it was built from, so that the lint can run again.

This module decides nothing. `lint.relint` encodes the parsed values and compares them with the certificate's bytes. The
checker compares them with the record.
"""

import re
from ipaddress import IPv4Address, IPv6Address

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID as Access
from cryptography.x509.oid import NameOID

from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.profiles import CaName, Distribution, ProfileName, Wanted
from protocol.ids import NodeSpiffeId, ServiceSpiffeId, parse_spiffe

_CA_NAME = re.compile(r"(?P<domain>\S+) (?P<ca>nodes|services) CA .*")


def reread(certificate: x509.Certificate, profile: str, version: int) -> Wanted:
    """Return the `Wanted` from which `profiles.build` makes this certificate.

    `profile` and `version` are the record's. Raises ValueError, TypeError or IdError when a field cannot be parsed.
    """
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    common_name = str(name.value)
    numbers = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    found = {type(extension.value): extension.value for extension in certificate.extensions}
    names = found.get(x509.SubjectAlternativeName)
    spiffe: NodeSpiffeId | ServiceSpiffeId | None = None
    hosts = x509.SubjectAlternativeName([])
    if isinstance(names, x509.SubjectAlternativeName):
        hosts = names
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        spiffe = parse_spiffe(uri)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the key is not an EC key")
    constrained = _CA_NAME.fullmatch(common_name) if profile == "issuing" and version > 1 else None
    addresses = [ip for ip in hosts.get_values_for_type(x509.IPAddress) if isinstance(ip, IPv4Address | IPv6Address)]
    return Wanted(
        profile=msgspec.convert(profile, ProfileName),
        serial=certificate.serial_number,
        common_name=common_name,
        key=describe_key(key),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        generation=int(numbers[0].value) if numbers else 0,
        spiffe=spiffe,
        dns_names=tuple(hosts.get_values_for_type(x509.DNSName)),
        addresses=tuple(addresses),
        distribution=_read_distribution(found),
        ca=msgspec.convert(constrained["ca"], CaName) if constrained else None,
        trust_domain=constrained["domain"] if constrained else "",
        version=version,
        crl_url=_read_crl_url(found) if profile in ("issuing", "cross") else "",
    )


def _read_crl_url(found: dict[type[x509.ExtensionType], x509.ExtensionType]) -> str:
    """Return the one address in the CRL distribution points; empty without the extension. Raises ValueError."""
    points = found.get(x509.CRLDistributionPoints)
    if not isinstance(points, x509.CRLDistributionPoints):
        return ""
    crl, *more = points[0].full_name or [None]
    if crl is None or more:
        raise ValueError("the CRL distribution point does not have exactly one name")
    return str(crl.value)


def _read_distribution(found: dict[type[x509.ExtensionType], x509.ExtensionType]) -> Distribution | None:
    access = found.get(x509.AuthorityInformationAccess)
    if x509.CRLDistributionPoints not in found or not isinstance(access, x509.AuthorityInformationAccess):
        return None
    by_method = {description.access_method: description.access_location.value for description in access}
    return Distribution(_read_crl_url(found), str(by_method.get(Access.OCSP)), str(by_method.get(Access.CA_ISSUERS)))
