"""`cloud.breakwater.pkix.profiles`: each field, and that OpenSSL accepts good chains and refuses constrained ones."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.linted import assemble
from cloud.breakwater.pkix.profiles import Issuer
from cloud.mtls.key_pair import load_key_pair
from protocol.ids import EKU_DEVICE, parse_spiffe
from tests.cloud.breakwater.chains import (
    NOW,
    SPIFFE,
    TRUST_DOMAIN,
    cross,
    load,
    local,
    make_chain,
    pem,
    requested,
    specimens,
    where,
)

CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"
LEAVES = ("device", "session", "service", "responder", "services-responder")
KEY = requested(local(5))
NO_REV_AVAIL = x509.ObjectIdentifier("2.5.29.56")


def openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def verify(tmp_path: Path, leaf: bytes, root: bytes, *between: bytes, when: datetime = NOW) -> str:
    """The output of `openssl verify` with its strictest options."""
    files = {"leaf": pem(leaf), "root": pem(root), "between": b"".join(map(pem, between))}
    for name, content in files.items():
        (tmp_path / f"{name}.pem").write_bytes(content)
    arguments = ["verify", "-x509_strict", "-purpose", "any", "-policy_check", "-attime", str(int(when.timestamp()))]
    arguments += ["-no-CApath", "-no-CAstore", "-CAfile", str(tmp_path / "root.pem")]
    if between:
        arguments += ["-untrusted", str(tmp_path / "between.pem")]
    return openssl(*arguments, tmp_path / "leaf.pem")


def ca(**changes: object) -> Issuer:
    wanted = profiles.want_root("a CA", KEY, 2**158, NOW)
    fields = {
        "name": "nodes",
        "authority": "nodes-1",
        "subject": profiles.subject_name(wanted),
        "key_id": KEY.key_id,
        "curve": "secp256r1",
        "not_before": wanted.not_before,
        "not_after": wanted.not_after,
        "certificate_der": b"",
    }
    return Issuer(**(fields | changes))  # type: ignore[arg-type]  # fields of Issuer by name


WHERE = where(ca())


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def purposes(certificate: x509.Certificate) -> list[str]:
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return [purpose.dotted_string for purpose in usage]


async def leaves() -> dict[str, x509.Certificate]:
    return {name: load(der) for name, (der, _) in (await specimens()).items() if name in LEAVES}


async def test_names_uses_and_dates() -> None:
    found = await leaves()
    device, session, service, responder = (found[name] for name in LEAVES[:4])
    for node in (device, session):
        assert uris(node) == [str(SPIFFE)]
        assert [(a.oid, a.value) for a in node.subject] == [
            (NameOID.COMMON_NAME, SPIFFE.node),
            (NameOID.SERIAL_NUMBER, "3"),
        ]
    assert uris(service) == ["spiffe://cascade.test/service/fabric"]
    assert [purposes(c) for c in (device, session, service, responder)] == [
        [EKU_DEVICE],
        [CLIENT_AUTH],
        [SERVER_AUTH, CLIENT_AUTH],
        [OCSP_SIGNING],
    ]
    assert device.not_valid_after_utc == NOW + timedelta(days=90)
    assert session.not_valid_after_utc - session.not_valid_before_utc == timedelta(hours=12)
    assert service.not_valid_after_utc - service.not_valid_before_utc == timedelta(days=7)
    assert responder.not_valid_after_utc - responder.not_valid_before_utc == timedelta(days=2)
    assert [name.value for name in responder.subject] == ["nodes-1 OCSP responder"]
    for name in ("device", "session", "service"):
        assert str(parse_spiffe(uris(found[name])[0])) == uris(found[name])[0]


async def test_who_says_where_its_revocation_is_found_and_who_that_there_is_none() -> None:
    found = await leaves()
    chain = await make_chain()
    for name, issuer in (("device", chain.nodes), ("service", chain.services)):
        (point,) = found[name].extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        urls = [uri.value for uri in point.full_name or []]
        access = found[name].extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        assert urls == [where(issuer).crl_url]
        assert [(entry.access_method, entry.access_location.value) for entry in access] == [
            (AuthorityInformationAccessOID.OCSP, where(issuer).ocsp_url),
            (AuthorityInformationAccessOID.CA_ISSUERS, where(issuer).ca_url),
        ]
    extension = found["session"].extensions.get_extension_for_oid(NO_REV_AVAIL)
    assert (extension.critical, extension.value.public_bytes()) == (False, b"\x05\x00")
    kinds = {name: {type(e.value) for e in certificate.extensions} for name, certificate in found.items()}
    oids = {name: {e.oid for e in certificate.extensions} for name, certificate in found.items()}
    assert {name for name in LEAVES if NO_REV_AVAIL in oids[name]} == {"session"}
    assert {name for name in LEAVES if x509.CRLDistributionPoints in kinds[name]} == {"device", "service"}
    assert {name for name in LEAVES if x509.AuthorityInformationAccess in kinds[name]} == {"device", "service"}
    assert {name for name in LEAVES if x509.OCSPNoCheck in kinds[name]} == {"responder", "services-responder"}


async def test_the_cas() -> None:
    chain = await make_chain(2)
    root, nodes, services = (load(ca.certificate_der) for ca in (chain.root, chain.nodes, chain.services))
    names = [name.value for certificate in (root, nodes, services) for name in certificate.subject]
    assert names == ["cascade.test root CA 2", "cascade.test nodes CA 2", "cascade.test services CA 2"]
    for below in (nodes, services):
        below.verify_directly_issued_by(root)
        constraints = below.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
        limits = below.extensions.get_extension_for_class(x509.NameConstraints)
        assert limits.critical
        assert limits.value.permitted_subtrees == [x509.UniformResourceIdentifier(TRUST_DOMAIN)]
    assert nodes.public_key() != services.public_key()
    spki = root.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert b"\x2b\x81\x04\x00\x22" in spki  # secp384r1


async def test_the_bytes_are_those_that_the_librarys_own_builder_makes() -> None:
    found = {name: load(der) for name, (der, _) in (await specimens()).items()}
    assert {"root", "cross", "issuing", *LEAVES} <= {name.partition("-")[0] for name in found} | set(found)
    for name, made in found.items():
        builder = x509.CertificateBuilder(
            issuer_name=made.issuer,
            subject_name=made.subject,
            public_key=made.public_key(),
            serial_number=made.serial_number,
            not_valid_before=made.not_valid_before_utc.replace(tzinfo=None),
            not_valid_after=made.not_valid_after_utc.replace(tzinfo=None),
            extensions=list(made.extensions),
        )
        curve = "secp384r1" if isinstance(made.signature_hash_algorithm, hashes.SHA384) else "secp256r1"
        again = builder.sign(profiles.SCRATCH_KEYS[curve], profiles.hash_of(curve))
        assert again.tbs_certificate_bytes == made.tbs_certificate_bytes, name


@pytest.mark.parametrize("year", [2049, 2050])
def test_dates_have_four_digits_of_the_year_from_2050_on(year: int) -> None:
    start = datetime(year, 1, 1, tzinfo=UTC)
    wanted = msgspec.structs.replace(profiles.want_root("a CA", KEY, 2**158, NOW), not_before=start)
    tbs = profiles.build(wanted, ca())
    assert load(assemble(tbs, "secp256r1", b"\x00")).not_valid_before_utc == start
    assert (b"\x17\x0d490101000000Z" in tbs) == (year == 2049)
    assert (b"\x18\x0f20500101000000Z" in tbs) == (year == 2050)


async def test_generations_share_neither_name_nor_key() -> None:
    first, second = await make_chain(1), await make_chain(2)
    cas = [ca for chain in (first, second) for ca in (chain.root, chain.nodes, chain.services)]
    for values in ({ca.subject for ca in cas}, {ca.key_id for ca in cas}, {ca.authority for ca in cas}):
        assert len(values) == len(cas)


@pytest.mark.parametrize("name", LEAVES)
async def test_openssl_accepts_every_chain_and_not_the_other_ca(tmp_path: Path, name: str) -> None:
    chain = await make_chain()
    leaf, issuer = (await specimens())[name]
    root = chain.root.certificate_der
    assert verify(tmp_path, leaf, root, issuer.certificate_der).endswith(": OK\n")
    other = chain.services if issuer.name == "nodes" else chain.nodes
    assert "unable to get local issuer certificate" in verify(tmp_path, leaf, root, other.certificate_der)


async def test_openssl_accepts_the_cas_themselves(tmp_path: Path) -> None:
    chain = await make_chain()
    for authority in (chain.root, chain.nodes, chain.services):
        assert verify(tmp_path, authority.certificate_der, chain.root.certificate_der).endswith(": OK\n")


async def test_a_cross_certificate_connects_the_old_root_to_certificates_below_the_new_root(tmp_path: Path) -> None:
    old, new = await make_chain(1), await make_chain(2)
    bridge = await cross(new, old)
    for name, (wanted, issuer) in new.wanted().items():
        leaf = await new.sign(wanted, issuer)
        assert verify(tmp_path, leaf, old.root.certificate_der, issuer.certificate_der, bridge).endswith(": OK\n"), name
        assert verify(tmp_path, leaf, new.root.certificate_der, issuer.certificate_der).endswith(": OK\n"), name
        assert "unable to get" in verify(tmp_path, leaf, old.root.certificate_der, issuer.certificate_der), name
    certificate, own = load(bridge), load(new.root.certificate_der)
    assert (certificate.subject, certificate.public_key()) == (own.subject, own.public_key())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.path_length == 1
    assert certificate.not_valid_after_utc <= min(old.root.not_after, new.root.not_after)


def rogue(issuer: Issuer, by: LocalKey, *names: x509.GeneralName, ca: bool = False) -> bytes:
    """A certificate that a thief of the issuing key could sign without profiles, lint and signer."""
    builder = x509.CertificateBuilder(
        issuer.subject,
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rogue CA" if ca else "rogue")]),
        KEY.public_key,
        7,
        NOW.replace(tzinfo=None),
        (NOW + timedelta(days=1)).replace(tzinfo=None),
    )
    usage = profiles._usage(signs_certificates=ca)
    builder = builder.add_extension(x509.BasicConstraints(ca, None), True).add_extension(usage, True)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier(issuer.key_id, None, None), False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier(KEY.key_id), False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return builder.sign(by._private_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


URI = x509.UniformResourceIdentifier
OWN = URI(f"spiffe://{TRUST_DOMAIN}/service/fabric")
ROGUES: dict[str, tuple[str, tuple[x509.GeneralName, ...], str]] = {
    "another trust domain": ("nodes", (URI("spiffe://else.test/service/fabric"),), "permitted subtree violation"),
    "a domain below ours": ("nodes", (URI(f"spiffe://x.{TRUST_DOMAIN}/a"),), "permitted subtree violation"),
    "another beside ours": ("services", (OWN, URI("spiffe://else.test/a")), "permitted subtree violation"),
    "a DNS name under nodes": ("nodes", (OWN, x509.DNSName("fabric.test")), "excluded subtree violation"),
    "a short DNS name under nodes": ("nodes", (OWN, x509.DNSName("localhost")), "excluded subtree violation"),
    "IPv4 under nodes": ("nodes", (OWN, x509.IPAddress(ip_address("127.0.0.1"))), "excluded subtree violation"),
    "IPv6 under nodes": ("nodes", (OWN, x509.IPAddress(ip_address("2001:db8::1"))), "excluded subtree violation"),
    "DNS names under services are no matter": ("services", (OWN, x509.DNSName("fabric.test")), ": OK"),
    "our own name": ("nodes", (OWN,), ": OK"),
}


@pytest.mark.parametrize("name", ROGUES)
async def test_name_constraints_bind_even_a_stolen_key(tmp_path: Path, name: str) -> None:
    class_, names, answer = ROGUES[name]
    chain = await make_chain()
    issuer = chain.nodes if class_ == "nodes" else chain.services
    leaf = rogue(issuer, chain.key_of(issuer), *names)
    assert answer in verify(tmp_path, leaf, chain.root.certificate_der, issuer.certificate_der)


async def test_an_issuing_ca_makes_no_ca(tmp_path: Path) -> None:
    chain = await make_chain()
    between = rogue(chain.nodes, chain.nodes_key, OWN, ca=True)
    below = msgspec.structs.replace(chain.nodes, subject=load(between).subject, key_id=KEY.key_id)
    leaf = rogue(below, local(5), OWN)
    answer = verify(tmp_path, leaf, chain.root.certificate_der, chain.nodes.certificate_der, between)
    assert "path length constraint exceeded" in answer


@pytest.mark.slow
async def test_openssl_prints_the_expected_fields() -> None:
    found = await specimens()
    text = openssl("x509", "-noout", "-text", stdin=pem(found["device"][0]))
    for line in ("Version: 3", "CA:FALSE", "Digital Signature", EKU_DEVICE, f"URI:{SPIFFE}", "ecdsa-with-SHA256"):
        assert line in text
    for url in ("CRL Distribution Points", "/crl/nodes-1/0.crl", "OCSP - URI:http", "CA Issuers - URI:http"):
        assert url in text
    text = openssl("x509", "-noout", "-text", stdin=pem(found["session"][0]))
    assert "X509v3 No Revocation Available" in text or "2.5.29.56" in text
    text = openssl("x509", "-noout", "-text", stdin=pem(found["issuing-nodes"][0]))
    for line in ("X509v3 Name Constraints: critical", f"URI:{TRUST_DOMAIN}", "IP:0.0.0.0/0.0.0.0", "DNS:"):
        assert line in text
    text = openssl("x509", "-noout", "-text", stdin=pem(found["responder"][0]))
    assert "OCSP Signing" in text
    assert "OCSP No Check" in text
    purpose = {name: openssl("x509", "-noout", "-purpose", stdin=pem(found[name][0])) for name in LEAVES}
    assert {name for name in LEAVES if "SSL client : Yes" in purpose[name]} == {"session", "service"}
    assert {name for name in LEAVES if "SSL server : Yes" in purpose[name]} == {"service"}


async def test_openssl_refuses_a_device_certificate_as_tls_client() -> None:
    chain = await make_chain()
    sides = {}
    for name, (wanted, issuer) in chain.wanted().items():
        sides[name] = (local(21)._private_key, (await chain.sign(wanted, issuer), issuer.certificate_der))
    root = pem(chain.root.certificate_der).decode()

    def handshake(kind: str) -> None:
        made = []
        for protocol, (key, certificates) in (
            (ssl.PROTOCOL_TLS_SERVER, sides["service"]),
            (ssl.PROTOCOL_TLS_CLIENT, sides[kind]),
        ):
            context = ssl.SSLContext(protocol)
            context.verify_flags |= ssl.VerifyFlags(0x200000)  # NO_CHECK_TIME: these certificates have fixed dates
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=root)
            load_key_pair(context, b"".join(map(pem, certificates)), key)
            made.append((context, ssl.MemoryBIO(), ssl.MemoryBIO()))
        (server_context, to_server, to_client), (client_context, _, _) = made
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue

    handshake("session")
    for other in ("device", "responder"):
        with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
            handshake(other)


def test_serials_are_positive_random_and_at_most_20_bytes() -> None:
    for entropy in (bytes(20), b"\xff" * 20):
        assert 2**158 <= profiles.make_serial(entropy) < 2**159
    drawn = {profiles.make_serial(bytes([i]) * 20) for i in range(64)}
    assert len(drawn) == 64
    with pytest.raises(ValueError, match="20 bytes"):
        profiles.make_serial(b"short")


def test_a_device_certificate_is_bounded() -> None:
    asked = NOW + timedelta(days=90)
    assert profiles.want_device(SPIFFE, 1, KEY, 1, NOW, asked, ca(), WHERE).not_after == asked
    for_ever = profiles.want_device(SPIFFE, 1, KEY, 1, NOW, NOW + timedelta(days=36500), ca(), WHERE)
    assert for_ever.not_after - for_ever.not_before == profiles.DEVICE_LIFE_MAX
    old_ca = ca(not_after=NOW + timedelta(days=10))
    assert profiles.want_device(SPIFFE, 1, KEY, 1, NOW, asked, old_ca, WHERE).not_after == old_ca.not_after


def test_a_session_never_outlives_the_device_certificate() -> None:
    soon = NOW + timedelta(minutes=7, microseconds=5)
    wanted = profiles.want_session(SPIFFE, 1, KEY, 1, NOW, soon, ca())
    assert wanted.not_after == NOW + timedelta(minutes=7)


def test_certificates_start_a_little_early_but_not_before_their_ca() -> None:
    asked = NOW + timedelta(days=1)
    assert profiles.want_device(SPIFFE, 1, KEY, 1, NOW, asked, ca(), WHERE).not_before == NOW - timedelta(minutes=5)
    young = ca(not_before=NOW - timedelta(minutes=1))
    assert profiles.want_device(SPIFFE, 1, KEY, 1, NOW, asked, young, WHERE).not_before == young.not_before


def test_a_cross_certificate_is_for_the_roots_own_name_and_key() -> None:
    root = ca(name="root", authority="root-1")
    assert profiles.want_cross(root, KEY, 1, NOW, ca()).common_name == "a CA"
    with pytest.raises(ValueError, match="does not belong"):
        profiles.want_cross(root, requested(local(6)), 1, NOW, ca())
    more = x509.Name([*root.subject, x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x")])
    with pytest.raises(ValueError, match="more than a common name"):
        profiles.want_cross(ca(subject=more), KEY, 1, NOW, ca())
