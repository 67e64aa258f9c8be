"""`cloud.breakwater.keys.signer`, with each adapter: which bytes it signs, and that OpenSSL verifies them."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.breakwater.errors import LintError, SignerError
from cloud.breakwater.keys.file import FileKeys, LocalKey
from cloud.breakwater.keys.pkcs11 import TokenSettings
from cloud.breakwater.keys.signer import (
    CaKey,
    Keys,
    Signer,
    certificate_request,
    is_for_development,
    issuer_of,
    open_keys,
)
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.crl import Entry, build_crl, lint_crl, want_crl
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.lint import lint
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.pkix.profiles import Issuer
from lab.softhsm import LABEL, MODULE, SoftHsm
from protocol.ids import NodeId, NodeSpiffeId, TenantId, make_id

pytestmark = pytest.mark.slow

TRUST_DOMAIN = "cascade.test"
PASSPHRASE = b"a passphrase for tests only"
START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SPIFFE = NodeSpiffeId(
    TRUST_DOMAIN, TenantId(make_id("ten", 1, b"0123456789")), NodeId(make_id("node", 1, b"0123456789"))
)
CRL_URL = "http://pki.cascade.test/crl/nodes-1/1.crl"


@pytest.fixture(params=["file", "pkcs11"])
def adapter(request: pytest.FixtureRequest) -> str:
    """The adapter that stores the keys."""
    return str(request.param)


@pytest.fixture
async def keys(adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keys]:
    """An empty store of keys."""
    if adapter == "file":
        found = open_keys(tmp_path, PASSPHRASE)
    else:
        hsm = SoftHsm(tmp_path / "hsm")
        for name, value in hsm.environment.items():
            monkeypatch.setenv(name, value)
        found = open_keys(
            tmp_path, PASSPHRASE, TokenSettings(module=str(MODULE), label=LABEL, pin_file="pin"), hsm.directory
        )
    yield found
    await found.aclose()


async def root_of(common_name: str = "cascade.test root CA") -> tuple[Signer, Issuer]:
    """A root, and a signer to which its key was added."""
    key = LocalKey(ec.generate_private_key(ec.SECP384R1()))
    wanted = profiles.want_root(common_name, describe_key(key.public_key), profiles.make_serial(b"\x01" * 20), START)
    unsigned = profiles.self_issuer(wanted, "root-1")
    signer = Signer()
    signer.add(unsigned, key)
    certificate = x509.load_der_x509_certificate(
        await signer.sign(lint(profiles.build(wanted, unsigned), wanted, unsigned))
    )
    root = issuer_of("root", "root-1", certificate)
    signer.add(root, key)
    return signer, root


async def nodes_ca(signer: Signer, root: Issuer, key: CaKey, authority: str = "nodes-1") -> Issuer:
    """An issuing CA below the root."""
    wanted = profiles.want_issuing(
        f"{TRUST_DOMAIN} nodes CA {authority.removeprefix('nodes-')}",
        describe_key(key.public_key),
        profiles.make_serial(authority.encode().ljust(20, b"\x03")),
        START,
        root,
        "nodes",
        TRUST_DOMAIN,
    )
    der = await signer.sign(lint(profiles.build(wanted, root), wanted, root))
    return issuer_of("nodes", authority, x509.load_der_x509_certificate(der))


def session(issuer: Issuer, number: int = 1) -> Linted:
    """A session certificate, ready to be signed."""
    key = describe_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    serial = profiles.make_serial(number.to_bytes(20, "big"))
    wanted = profiles.want_session(SPIFFE, 1, key, serial, START, START.replace(year=2027), issuer)
    return lint(profiles.build(wanted, issuer), wanted, issuer)


def crl(issuer: Issuer) -> Linted:
    """A CRL with one entry, ready to be signed."""
    wanted = want_crl(7, START, timedelta(days=3), [Entry(2**150, START, 1)], CRL_URL)
    return lint_crl(build_crl(wanted, issuer), wanted, issuer)


class Bench:
    """A signer with the authority `nodes-1`. The store `keys` holds the authority's key."""

    def __init__(self, signer: Signer, root: Issuer, issuer: Issuer, key: CaKey, reference: str) -> None:
        self.signer, self.root, self.issuer, self.key, self.reference = signer, root, issuer, key, reference


@pytest.fixture
async def bench(keys: Keys) -> Bench:
    reference = await keys.generate("nodes-1")
    key = await keys.open(reference)
    signer, root = await root_of()
    issuer = await nodes_ca(signer, root, key)
    signer.add(issuer, key)
    return Bench(signer, root, issuer, key, reference)


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Run openssl, require success, and return both of its outputs."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=False)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


async def test_openssl_verifies_certificate_and_crl(bench: Bench, tmp_path: Path) -> None:
    linted = session(bench.issuer)
    der = await bench.signer.sign(linted)
    assert x509.load_der_x509_certificate(der).tbs_certificate_bytes == linted.tbs
    for name, content in (("root", bench.root.certificate_der), ("ca", bench.issuer.certificate_der), ("leaf", der)):
        (tmp_path / f"{name}.pem").write_bytes(pem(content))
    at = str(int(START.timestamp()))
    chain = ("-CAfile", tmp_path / "root.pem", "-untrusted", tmp_path / "ca.pem")
    assert "OK" in openssl("verify", "-attime", at, "-x509_strict", *chain, tmp_path / "leaf.pem")
    to_sign = crl(bench.issuer)
    signed = await bench.signer.sign(to_sign)
    assert x509.load_der_x509_crl(signed).tbs_certlist_bytes == to_sign.tbs
    assert "verify OK" in openssl("crl", "-inform", "DER", "-noout", "-CAfile", tmp_path / "ca.pem", stdin=signed)


async def test_the_same_bytes_are_signed_only_once(bench: Bench) -> None:
    linted = session(bench.issuer)
    await bench.signer.sign(linted)
    with pytest.raises(LintError, match="redeemed"):
        await bench.signer.sign(linted)


async def test_it_signs_for_its_own_issuers_only(bench: Bench) -> None:
    other_signer, other_root = await root_of("cascade.test other root CA")
    twin = await nodes_ca(other_signer, other_root, bench.key)
    linted = session(twin)
    with pytest.raises(SignerError, match="linted for another certificate of the CA nodes-1"):
        await bench.signer.sign(linted)
    with pytest.raises(SignerError, match="the CA nodes-1 is not open"):
        await other_signer.sign(linted)
    other_signer.add(twin, bench.key)
    await other_signer.sign(linted)  # a refused `Linted` can still be signed
    bench.signer.remove("nodes-1")
    assert not bench.signer.holds("nodes-1")
    with pytest.raises(SignerError, match="is not open"):
        await bench.signer.sign(session(bench.issuer))


async def test_an_issuer_read_a_second_time_is_the_same(bench: Bench) -> None:
    certificate = x509.load_der_x509_certificate(bench.issuer.certificate_der)
    again = issuer_of("nodes", "nodes-1", certificate)
    assert again is not bench.issuer
    await bench.signer.sign(session(again))


async def test_a_key_and_a_certificate_that_do_not_belong_together(bench: Bench) -> None:
    other = LocalKey(ec.generate_private_key(ec.SECP256R1()))
    for key in (other, LocalKey(ec.generate_private_key(ec.SECP384R1()))):
        with pytest.raises(SignerError, match="does not belong to its certificate"):
            bench.signer.add(bench.issuer, key)
    unsigned = msgspec.structs.replace(bench.issuer, certificate_der=b"", authority="nodes-2")
    with pytest.raises(SignerError, match="does not belong"):
        bench.signer.add(unsigned, other)
    bench.signer.add(unsigned, bench.key)
    assert bench.signer.holds("nodes-2")


async def test_twenty_at_once(bench: Bench) -> None:
    all_linted = [session(bench.issuer, number) for number in range(20)]
    issuer = x509.load_der_x509_certificate(bench.issuer.certificate_der)
    for linted, der in zip(
        all_linted, await asyncio.gather(*(bench.signer.sign(linted) for linted in all_linted)), strict=True
    ):
        certificate = x509.load_der_x509_certificate(der)
        assert certificate.tbs_certificate_bytes == linted.tbs
        certificate.verify_directly_issued_by(issuer)


async def test_use_is_counted_for_each_authority(bench: Bench) -> None:
    second = await nodes_ca(bench.signer, bench.root, bench.key, "nodes-2")
    bench.signer.add(second, bench.key)
    before = bench.signer.usage()
    assert before["nodes-1"] == before["nodes-2"] == 0
    for issuer in (bench.issuer, second, second):
        await bench.signer.sign(session(issuer))
    linted = session(second)
    await bench.signer.sign(linted)
    with pytest.raises(LintError):
        await bench.signer.sign(linted)
    bench.signer.remove("nodes-2")
    assert bench.signer.usage() == {**before, "nodes-1": 1, "nodes-2": 3}


async def test_a_key_is_opened_again_and_never_made_again(keys: Keys, bench: Bench) -> None:
    again = await keys.open(bench.reference)
    assert again.public_key == bench.key.public_key
    assert again.public_key.curve.name == "secp256r1"
    bench.signer.add(bench.issuer, again)
    await bench.signer.sign(session(bench.issuer))
    with pytest.raises(SignerError, match="may have signed"):
        await keys.generate("nodes-1")


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "nodes-1",
        "file:",
        "file:absent.key.pem",
        "file:../ca",
        "file:/etc/passwd",
        "pkcs11:",
        "pkcs11:absent",
        "x:y",
    ],
)
async def test_references_that_name_no_key(keys: Keys, reference: str) -> None:
    with pytest.raises(SignerError, match="cannot"):
        await keys.open(reference)


@pytest.mark.parametrize("authority", ["", "../nodes-1", "nodes 1", "n" * 200])
async def test_authorities_whose_keys_have_no_name(keys: Keys, authority: str) -> None:
    with pytest.raises(SignerError):
        await keys.generate(authority)


async def test_files_and_a_token_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await FileKeys(tmp_path, PASSPHRASE).generate("nodes-1")
    hsm = SoftHsm(tmp_path / "hsm")
    for name, value in hsm.environment.items():
        monkeypatch.setenv(name, value)
    both = open_keys(
        tmp_path, PASSPHRASE, TokenSettings(module=str(MODULE), label=LABEL, pin_file=str(hsm.pin_file)), tmp_path
    )
    new = await both.generate("nodes-2")
    assert (old.partition(":")[0], new) == ("file", "pkcs11:nodes-2")
    signatures = [await (await both.open(reference)).sign(b"data") for reference in (old, new)]
    assert len(set(signatures)) == 2
    await both.aclose()


async def test_openssl_verifies_a_request(bench: Bench, tmp_path: Path) -> None:
    der = await certificate_request(bench.key, "cascade.test nodes CA 2")
    output = openssl("req", "-inform", "DER", "-verify", "-noout", "-subject", "-nameopt", "rfc2253", stdin=der)
    assert "verify OK" in output
    assert "CN=cascade.test nodes CA 2" in output
    request = x509.load_der_x509_csr(der)
    assert request.is_signature_valid
    assert request.public_key() == bench.key.public_key
    assert list(request.attributes) == []
    assert request.public_bytes(serialization.Encoding.DER) == der


async def test_a_request_of_a_root(tmp_path: Path) -> None:
    key = LocalKey(ec.generate_private_key(ec.SECP384R1()))
    request = x509.load_der_x509_csr(await certificate_request(key, "a root"))
    assert request.is_signature_valid
    assert request.signature_hash_algorithm is not None
    assert request.signature_hash_algorithm.name == "sha384"
    with pytest.raises(ValueError, match="length"):
        await certificate_request(key, "n" * 65)


async def test_a_certificate_that_is_not_a_cas_is_refused(bench: Bench) -> None:
    leaf = x509.load_der_x509_certificate(await bench.signer.sign(session(bench.issuer)))
    with pytest.raises(SignerError, match="nodes-9 is not a CA's"):
        issuer_of("nodes", "nodes-9", leaf)
    bare = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(x509.Name([]))
        .public_key(bench.key.public_key)
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1))
    )
    unmarked = bare.sign(ec.generate_private_key(ec.SECP256R1()), profiles.hash_of("secp256r1"))
    with pytest.raises(SignerError, match="is not a CA's"):
        issuer_of("nodes", "nodes-9", unmarked)


@pytest.mark.parametrize(("name", "expected"), [("x root CA (development)", True), ("x root CA", False)])
async def test_whether_a_ca_is_for_development(name: str, expected: bool) -> None:
    _, root = await root_of(name)
    assert is_for_development(x509.load_der_x509_certificate(root.certificate_der)) is expected
