"""The profiles, field by field, and what OpenSSL says of both chains."""

import ssl
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from cloud.breakwater import profiles
from cloud.breakwater.csr import describe_key
from cloud.breakwater.profiles import Issuer as Ca
from cloud.issuing import IssueServiceCertificate
from cloud.peer import load_key_pair
from cloud.service_identity import make_csr
from protocol.ids import EKU_DEVICE, parse_spiffe
from tests.cloud.breakwater.support import FABRIC, SPIFFE, START, Issuer, ask, load, new_key, opening, pem

CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


def openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def ca(**changes: object) -> Ca:
    key = describe_key(new_key().public_key())
    wanted = profiles.want_root("a CA", key, 2**158, START)
    fields = {
        "name": "nodes",
        "subject": profiles.subject_name(wanted),
        "key_id": key.key_id,
        "curve": "secp256r1",
        "not_before": wanted.not_before,
        "not_after": wanted.not_after,
        "certificate_der": b"",
    }
    return Ca(**(fields | changes))  # type: ignore[arg-type]  # fields of Ca by name


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def purposes(certificate: x509.Certificate) -> list[str]:
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return [purpose.dotted_string for purpose in usage]


async def issued(issuer: Issuer) -> tuple[bytes, bytes, bytes]:
    """A device, a session and a service certificate, in DER."""
    await issuer.issuing.open_generation(FABRIC, opening())
    device = await issuer.issuing.issue_device(FABRIC, ask(new_key(), request="d"))
    session = await issuer.issuing.issue_session(FABRIC, ask(new_key(), request="s"))
    service = await issuer.issuing.issue_service("fabric", IssueServiceCertificate("x", make_csr(new_key())))
    return device.certificate_chain[0], session.certificate_chain[0], service.certificate_chain[0]


async def test_names_uses_and_dates(issuer: Issuer) -> None:
    device, session, service = map(load, await issued(issuer))
    for node in (device, session):
        assert uris(node) == [str(SPIFFE)]
        assert [(a.oid, a.value) for a in node.subject] == [
            (NameOID.COMMON_NAME, SPIFFE.node),
            (NameOID.SERIAL_NUMBER, "1"),
        ]
    assert uris(service) == ["spiffe://cascade.test/service/fabric"]
    assert [purposes(c) for c in (device, session, service)] == [
        [EKU_DEVICE],
        [CLIENT_AUTH],
        [SERVER_AUTH, CLIENT_AUTH],
    ]
    assert device.not_valid_after_utc == START + timedelta(days=90)
    assert session.not_valid_after_utc - session.not_valid_before_utc == timedelta(hours=12)
    assert service.not_valid_after_utc - service.not_valid_before_utc == timedelta(days=30)


async def test_only_the_session_says_that_it_is_never_revoked(issuer: Issuer) -> None:
    device, session, service = map(load, await issued(issuer))
    no_rev_avail = x509.ObjectIdentifier("2.5.29.56")
    extension = session.extensions.get_extension_for_oid(no_rev_avail)
    assert (extension.critical, extension.value.public_bytes()) == (False, b"\x05\x00")
    for other in (device, service):
        assert no_rev_avail not in {e.oid for e in other.extensions}


@pytest.mark.parametrize(("which", "class_"), [(0, "nodes"), (1, "nodes"), (2, "services")])
async def test_openssl_accepts_both_chains_and_not_the_other_ca(
    issuer: Issuer, home: Path, tmp_path: Path, which: int, class_: str
) -> None:
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(pem((await issued(issuer))[which]))
    certs = home / "breakwater" / "certs"
    at = str(int(START.timestamp()))
    verify = ("verify", "-x509_strict", "-attime", at, "-CAfile", certs / "root.pem", "-untrusted")
    assert openssl(*verify, certs / f"{class_}-ca.pem", leaf).endswith(": OK\n")
    other = "services" if class_ == "nodes" else "nodes"
    assert "unable to get local issuer certificate" in openssl(*verify, certs / f"{other}-ca.pem", leaf)


async def test_openssl_reads_what_was_meant(issuer: Issuer) -> None:
    device, session, _ = await issued(issuer)
    text = openssl("x509", "-noout", "-text", stdin=pem(device))
    for line in ("Version: 3", "CA:FALSE", "Digital Signature", EKU_DEVICE, f"URI:{SPIFFE}", "ecdsa-with-SHA256"):
        assert line in text
    assert "X509v3 No Revocation Available" in (text := openssl("x509", "-noout", "-text", stdin=pem(session))) or (
        "2.5.29.56" in text
    )
    assert "SSL client : No" in openssl("x509", "-noout", "-purpose", stdin=pem(device))
    assert "SSL client : Yes" in openssl("x509", "-noout", "-purpose", stdin=pem(session))


async def test_openssl_refuses_a_device_certificate_as_tls_client(issuer: Issuer, home: Path) -> None:
    await issuer.issuing.open_generation(FABRIC, opening())
    chains = {}
    for kind, issue in (("device", issuer.issuing.issue_device), ("session", issuer.issuing.issue_session)):
        key = new_key()
        chains[kind] = (key, (await issue(FABRIC, ask(key, request=kind))).certificate_chain)
    service_key = new_key()
    service = await issuer.issuing.issue_service("fabric", IssueServiceCertificate("x", make_csr(service_key)))
    root = (home / "breakwater" / "certs" / "root.pem").read_text()

    def handshake(kind: str) -> None:
        sides = []
        for protocol, (key, chain) in (
            (ssl.PROTOCOL_TLS_SERVER, (service_key, service.certificate_chain)),
            (ssl.PROTOCOL_TLS_CLIENT, chains[kind]),
        ):
            context = ssl.SSLContext(protocol)
            context.verify_flags |= ssl.VerifyFlags(0x200000)  # NO_CHECK_TIME: the test's clock is its own
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=root)
            load_key_pair(context, b"".join(map(pem, chain)), key)
            sides.append((context, ssl.MemoryBIO(), ssl.MemoryBIO()))
        (server_context, to_server, to_client), (client_context, _, _) = sides
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue

    handshake("session")
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake("device")


def test_serials_are_positive_random_and_at_most_20_bytes() -> None:
    for entropy in (bytes(20), b"\xff" * 20):
        assert 2**158 <= profiles.make_serial(entropy) < 2**159
    drawn = {profiles.make_serial(bytes([i]) * 20) for i in range(64)}
    assert len(drawn) == 64
    with pytest.raises(ValueError, match="20 bytes"):
        profiles.make_serial(b"short")


def test_a_device_certificate_is_bounded() -> None:
    key = describe_key(new_key().public_key())
    asked = START + timedelta(days=90)
    assert profiles.want_device(SPIFFE, 1, key, 1, START, asked, ca()).not_after == asked
    for_ever = profiles.want_device(SPIFFE, 1, key, 1, START, START + timedelta(days=36500), ca())
    assert for_ever.not_after - for_ever.not_before == profiles.DEVICE_LIFE_MAX
    old_ca = ca(not_after=START + timedelta(days=10))
    assert profiles.want_device(SPIFFE, 1, key, 1, START, asked, old_ca).not_after == old_ca.not_after


def test_a_session_never_outlives_the_device_certificate() -> None:
    key = describe_key(new_key().public_key())
    soon = START + timedelta(minutes=7, microseconds=5)
    wanted = profiles.want_session(SPIFFE, 1, key, 1, START, soon, ca())
    assert wanted.not_after == START + timedelta(minutes=7)


def test_certificates_start_a_little_early_but_not_before_their_ca() -> None:
    key = describe_key(new_key().public_key())
    asked = START + timedelta(days=1)
    assert profiles.want_device(SPIFFE, 1, key, 1, START, asked, ca()).not_before == START - timedelta(minutes=5)
    young = ca(not_before=START - timedelta(minutes=1))
    assert profiles.want_device(SPIFFE, 1, key, 1, START, asked, young).not_before == young.not_before


async def test_the_cas(home: Path) -> None:
    certs = home / "breakwater" / "certs"
    root, nodes, services = (
        x509.load_pem_x509_certificate((certs / f"{name}.pem").read_bytes())
        for name in ("root", "nodes-ca", "services-ca")
    )
    assert openssl("verify", "-x509_strict", "-CAfile", certs / "root.pem", certs / "root.pem").endswith(": OK\n")
    for below in (nodes, services):
        below.verify_directly_issued_by(root)
        constraints = below.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert nodes.public_key() != services.public_key()
    spki = root.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert b"\x2b\x81\x04\x00\x22" in spki  # secp384r1


async def test_the_spiffe_id_of_every_leaf_reads_back(issuer: Issuer) -> None:
    for der in await issued(issuer):
        assert str(parse_spiffe(uris(load(der))[0])) == uris(load(der))[0]
