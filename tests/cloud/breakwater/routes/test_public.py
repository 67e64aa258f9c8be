"""`cloud.breakwater.routes.public` on its plaintext listener, called with openssl, curl and plain HTTP."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID
from litestar import Litestar

from cloud.breakwater.app import make_public
from cloud.breakwater.ceremony.signing import make_root_crl
from cloud.breakwater.errors import SignerUnavailable
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.pkix.crl import Entry
from cloud.breakwater.pkix.ocsp import REQUEST_BYTES_MAX
from cloud.breakwater.revocation.crl_shards import OCSP_PATH
from cloud.breakwater.revocation.public_crls import PublicCrls
from cloud.breakwater.routes.public import ASK_FIRST
from cloud.breakwater.settings import BreakwaterSettings
from cloud.fabric.settings import FabricSettings
from cloud.http.guard import ANONYMOUS, Guard, routes_of
from cloud.mtls.peer import PeerTrust
from cloud.process.serve import Listener
from cloud.process.settings import ServiceSettings, SettingsError, load_settings
from cloud.storage import Location
from lab.postgres import database_location
from protocol.ids import NodeId, TenantId
from protocol.problems import CONTENT_TYPE
from tests.cloud.breakwater.http_cache import SharedCache
from tests.cloud.breakwater.revoking import Bench, Clock, Hierarchy, bench_at, pem, serials_of
from tests.cloud.engines import ENGINES
from tests.cloud.world import listening, port_of, unit_of

pytestmark = pytest.mark.slow

OCSP_REQUEST = {"content-type": "application/ocsp-request"}


class NoPeers:
    """The plaintext listener checks no peers."""

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        return False

    async def service_revoked(self, serial: int) -> bool:
        return True


@dataclass
class Stranger:
    """An anonymous client of the plaintext listener."""

    bench: Bench
    http: httpx.AsyncClient
    url: str
    directory: Path
    hierarchy: Hierarchy

    async def run(self, *command: str) -> str:
        """Run a program, require success, and return its output."""
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=self.directory
        )
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    def keep(self, name: str, certificate: x509.Certificate) -> str:
        (self.directory / name).write_bytes(certificate.public_bytes(Encoding.PEM))
        return name


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    return Hierarchy(Clock().at)


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


def app_of(bench: Bench) -> Litestar:
    trust = PeerTrust("cascade.test", (), ())
    services = {
        "public_crls": PublicCrls(bench.publisher, bench.root_crls),
        "ocsp_responder": bench.responder,
        "authorities": bench.hierarchy,
    }
    return make_public(Guard(trust=lambda: trust, checks=NoPeers(), now=bench.clock), services)


@asynccontextmanager
async def public_url(bench: Bench) -> AsyncIterator[str]:
    listener = Listener(app_of(bench), "127.0.0.1", 0, None, posts=(OCSP_PATH,))
    async with listening(unit_of(listener)) as servers:
        yield f"http://127.0.0.1:{port_of(servers[0])}"


@pytest.fixture
async def stranger(location: Location, hierarchy: Hierarchy, tmp_path: Path) -> AsyncIterator[Stranger]:
    async with (
        bench_at(location, hierarchy, Clock()) as bench,
        public_url(bench) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http,
    ):
        hierarchy.bundle(tmp_path)
        (tmp_path / "nodes.pem").write_bytes(pem(hierarchy.issuers["nodes-1"].certificate_der))
        yield Stranger(bench, http, url, tmp_path, hierarchy)


def request_for(certificate: x509.Certificate, hierarchy: Hierarchy, nonce: bytes | None = None) -> bytes:
    issuer = x509.load_der_x509_certificate(hierarchy.issuers["nodes-1"].certificate_der)
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, SHA256())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def by_path(der: bytes) -> str:
    return f"{OCSP_PATH}/{quote(base64.b64encode(der).decode(), safe='')}"


@pytest.mark.parametrize(
    ("kind", "purpose"),
    [(BreakwaterSettings, "tuf"), (FabricSettings, "pki")],
)
def test_no_service_opens_the_listener_of_another(tmp_path: Path, kind: type[ServiceSettings], purpose: str) -> None:
    urls = 'public_url = "https://x"\nbreakwater_url = "https://x"\n' if kind is FabricSettings else ""
    path = tmp_path / "settings.toml"
    listener = f'[[listeners]]\ntls = false\npurpose = "{purpose}"\n'
    path.write_text(f'trust_domain = "cascade.test"\n{urls}{listener}')
    with pytest.raises(SettingsError, match=f'no routes for a "{purpose}" listener'):
        load_settings(path, kind)


async def test_every_route_is_for_anybody_and_reads(stranger: Stranger) -> None:
    entries = list(routes_of(app_of(stranger.bench)))
    assert {entry.peers for entry in entries} == {(ANONYMOUS,)}
    assert {entry.path for entry in entries if entry.method not in ("GET", "HEAD")} == {OCSP_PATH}


async def test_a_crl(stranger: Stranger) -> None:
    certificate = await stranger.bench.issue()
    first = await stranger.http.get("/crl/nodes-1/1.crl")
    assert (first.status_code, first.headers["content-type"]) == (200, "application/pkix-crl")
    assert first.headers["cache-control"] == ASK_FIRST
    assert serials_of(first.content) == set()
    tag = {"if-none-match": first.headers["etag"]}
    unchanged = await stranger.http.get("/crl/nodes-1/1.crl", headers=tag)
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag["if-none-match"])
    await stranger.bench.revoke(certificate.serial_number)
    second = await stranger.http.get("/crl/nodes-1/1.crl", headers=tag)
    assert (second.status_code, serials_of(second.content)) == (200, {certificate.serial_number})
    head = await stranger.http.head("/crl/nodes-1/1.crl")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", second.headers["etag"])


async def test_the_crl_of_a_root(stranger: Stranger) -> None:
    hierarchy = stranger.hierarchy
    url = "/crl/root-1/1.crl"
    assert (await stranger.http.get(url)).status_code == 404
    root, now = hierarchy.issuers["root-1"], stranger.bench.clock()
    crl = await make_root_crl(1, [Entry(77, now)], root, LocalKey(hierarchy.root_key), now, timedelta(days=400))
    await stranger.bench.root_crls.import_crl("operator", crl)
    answer = await stranger.http.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pkix-crl")
    assert (answer.content, answer.headers["cache-control"]) == (crl, ASK_FIRST)
    assert (await stranger.http.get(url, headers={"if-none-match": answer.headers["etag"]})).status_code == 304
    assert (await stranger.http.get("/crl/root-1/2.crl")).status_code == 404


async def test_the_ca_that_certificates_point_to(stranger: Stranger) -> None:
    certificate = await stranger.bench.issue()
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (where,) = [
        each.access_location.value for each in access if each.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    ]
    answer = await stranger.http.get(str(where).removeprefix(stranger.bench.base_url))
    assert answer.headers["content-type"] == "application/pkix-cert"
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(answer.content))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/crl/nodes-1/2.crl", 404, "not_found"),
        ("GET", "/crl/nodes-9/1.crl", 404, "not_found"),
        ("GET", "/crl/people-1/1.crl", 404, "not_found"),
        ("GET", "/crl/nodes-1/1", 404, "not_found"),
        ("GET", "/crl/nodes-1/%2e%2e%2f1.crl", 404, "not_found"),
        ("GET", "/crl/nodes-1", 404, "not_found"),
        ("GET", "/ca/nodes-9.cer", 404, "not_found"),
        ("GET", "/ca/nodes-1", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", OCSP_PATH, 405, "method_not_allowed"),
        ("GET", OCSP_PATH + "/" + "A" * 3000, 413, "too_large"),
        ("POST", "/crl/nodes-1/1.crl", 405, "method_not_allowed"),
        ("DELETE", "/crl/nodes-1/1.crl", 405, "method_not_allowed"),
        ("PUT", OCSP_PATH, 405, "method_not_allowed"),
        ("POST", "/v1/generations/open", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_here(stranger: Stranger, method: str, path: str, status: int, code: str) -> None:
    answer = await stranger.http.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, CONTENT_TYPE)
    assert answer.json()["code"] == code


async def test_a_crl_that_cannot_be_made(stranger: Stranger) -> None:
    await stranger.bench.issue()
    stranger.bench.signer.error = SignerUnavailable("the token is not available")
    answer = await stranger.http.get("/crl/nodes-1/1.crl")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "1")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"0" * (REQUEST_BYTES_MAX + 1), OCSP_REQUEST, 413),
        (b"0" * 100_000, OCSP_REQUEST, 413),
        (b"{}", {"content-type": "application/json"}, 415),
        (b"0", {}, 415),
    ],
)
async def test_a_post_that_is_no_question(
    stranger: Stranger, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await stranger.http.post(OCSP_PATH, content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, CONTENT_TYPE)


async def test_a_question_that_is_garbage(stranger: Stranger) -> None:
    posted = await stranger.http.post(OCSP_PATH, content=b"\xff\xff", headers=OCSP_REQUEST)
    for answer in (posted, await stranger.http.get(OCSP_PATH + "/%%%"), await stranger.http.get(by_path(b"0"))):
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/ocsp-response")
        assert answer.headers["cache-control"] == "no-store"
        status = ocsp.load_der_ocsp_response(answer.content).response_status
        assert status == ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_the_caching_of_answers(stranger: Stranger) -> None:
    certificate = await stranger.bench.issue()
    der = request_for(certificate, stranger.hierarchy)
    first = await stranger.http.get(by_path(der))
    response = ocsp.load_der_ocsp_response(first.content)
    assert response.certificate_status == ocsp.OCSPCertStatus.GOOD
    assert first.headers["cache-control"] == ASK_FIRST
    assert first.headers["last-modified"].endswith(" GMT")
    again = await stranger.http.get(by_path(der), headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    await stranger.bench.revoke(certificate.serial_number)
    changed = await stranger.http.get(by_path(der), headers={"if-none-match": first.headers["etag"]})
    assert ocsp.load_der_ocsp_response(changed.content).certificate_status == ocsp.OCSPCertStatus.REVOKED
    with_nonce = await stranger.http.get(by_path(request_for(certificate, stranger.hierarchy, b"n" * 16)))
    posted = await stranger.http.post(OCSP_PATH, content=der, headers=OCSP_REQUEST)
    for answer in (with_nonce, posted):
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert "etag" not in answer.headers


@pytest.mark.parametrize("age", [timedelta(0), timedelta(seconds=59), timedelta(minutes=61)])
async def test_a_shared_cache_says_good_only_until_the_revocation(stranger: Stranger, age: timedelta) -> None:
    """The cache gets each answer just before the revocation, and is asked `age` after the revocation."""
    certificate = await stranger.bench.issue()
    cache = SharedCache(stranger.http, stranger.bench.clock)
    path = by_path(request_for(certificate, stranger.hierarchy))
    for _ in range(3):
        good, listed = await cache.get(path), await cache.get("/crl/nodes-1/1.crl")
        assert ocsp.load_der_ocsp_response(good).certificate_status == ocsp.OCSPCertStatus.GOOD
        assert serials_of(listed) == set()
    assert (cache.filled, cache.confirmed) == (2, 4)  # the body crosses the network once; then there is a 304
    await stranger.bench.revoke(certificate.serial_number)
    stranger.bench.clock.forward(age)
    revoked, listed = await cache.get(path), await cache.get("/crl/nodes-1/1.crl")
    assert ocsp.load_der_ocsp_response(revoked).certificate_status == ocsp.OCSPCertStatus.REVOKED
    assert serials_of(listed) == {certificate.serial_number}


async def test_a_cache_of_http_1_0_keeps_no_answer(stranger: Stranger) -> None:
    certificate = await stranger.bench.issue()
    for path in (by_path(request_for(certificate, stranger.hierarchy)), "/crl/nodes-1/1.crl"):
        headers = (await stranger.http.get(path)).headers
        assert parsedate_to_datetime(headers["expires"]) <= stranger.bench.clock()


async def test_any_spelling_of_base64_in_a_path(stranger: Stranger) -> None:
    """GET requests of RFC 6960: slashes plain, doubled, or encoded."""
    certificate = await stranger.bench.issue()
    seen = set()
    text = b""
    for count in range(400):
        text = base64.b64encode(request_for(certificate, stranger.hierarchy, count.to_bytes(16, "big") + b"\xff" * 9))
        if b"//" in text:
            break
    for path in (text.decode(), quote(text.decode()), quote(text.decode(), safe="")):
        answer = await stranger.http.get(httpx.URL(f"{stranger.url}{OCSP_PATH}/").copy_with(raw_path=_raw(path)))
        seen.add(ocsp.load_der_ocsp_response(answer.content).response_status)
    assert b"//" in text
    assert seen == {ocsp.OCSPResponseStatus.SUCCESSFUL}


def _raw(path: str) -> bytes:
    return f"{OCSP_PATH}/{path}".encode("ascii")


async def test_openssl_asks_over_http(stranger: Stranger) -> None:
    good, bad = await stranger.bench.issue(), await stranger.bench.issue()
    await stranger.bench.revoke(bad.serial_number, 1)
    question = ("openssl", "ocsp", "-issuer", "nodes.pem", "-CAfile", "cas.pem", "-url", stranger.url + OCSP_PATH)
    output = await stranger.run(*question, "-cert", stranger.keep("good.pem", good))
    assert "Response verify OK" in output
    assert "good.pem: good" in output
    assert "WARNING" not in output
    output = await stranger.run(*question, "-sha256", "-cert", stranger.keep("bad.pem", bad))
    assert "Response verify OK" in output
    assert "bad.pem: revoked" in output
    assert "keyCompromise" in output


async def test_curl_and_openssl_by_files(stranger: Stranger) -> None:
    good, bad = await stranger.bench.issue(), await stranger.bench.issue()
    await stranger.bench.revoke(bad.serial_number)
    for name, certificate, verdict in (("good.pem", good, "good"), ("bad.pem", bad, "revoked")):
        stranger.keep(name, certificate)
        common = ("openssl", "ocsp", "-issuer", "nodes.pem", "-cert", name)
        await stranger.run(*common, "-no_nonce", "-reqout", "question.der")
        encoded = quote(base64.b64encode((stranger.directory / "question.der").read_bytes()).decode(), safe="")
        address = f"{stranger.url}{OCSP_PATH}/{encoded}"
        await stranger.run("curl", "--silent", "--show-error", "--fail", "--output", "answer.der", address)
        output = await stranger.run(*common, "-CAfile", "cas.pem", "-no_nonce", "-respin", "answer.der")
        assert "Response verify OK" in output
        assert f"{name}: {verdict}" in output


async def test_curl_and_openssl_check_a_crl(stranger: Stranger) -> None:
    certificate = await stranger.bench.issue()
    await stranger.bench.revoke(certificate.serial_number)
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name is not None
    address = str(points[0].full_name[0].value).replace(stranger.bench.base_url, stranger.url)
    await stranger.run("curl", "--silent", "--show-error", "--fail", "--output", "list.crl", address)
    assert "verify OK" in await stranger.run(
        "openssl", "crl", "-inform", "DER", "-in", "list.crl", "-CAfile", "cas.pem", "-noout"
    )
