"""`cloud.breakwater.routes.est` on a real listener: issued certificates, and refused requests with their audit rows."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from cloud.breakwater.issuance.enrolment import FAILURES_PER_SOURCE
from cloud.breakwater.peer_records import PeerRecords
from cloud.clock import utc_now
from cloud.contracts.breakwater import PATH_CLOSE, PATH_DEVICE, PATH_OPEN, PATH_SESSION
from cloud.mtls.client import Answer, CloudClient, ProblemAnswer
from cloud.mtls.identity import load_identity, make_csr
from cloud.mtls.peer import spiffe_of
from cloud.storage import Statement
from protocol.messages.est import (
    CSRATTRS_DER,
    PATH_CACERTS,
    PATH_CSRATTRS,
    PATH_SIMPLEENROLL,
    PATH_SIMPLEREENROLL,
    TYPE_PKCS10,
    decode_base64,
    decode_certs_only,
    encode_base64,
    leaf_first,
)
from protocol.messages.sessions import Certificate
from protocol.problems import ProblemDocument
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.pkix import csr_vectors
from tests.cloud.breakwater.support import TRUST_DOMAIN, ask, closing, load, new_key, opening
from tests.cloud.world import connected
from tests.fault_hooks import hooked

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
DAYS_90 = timedelta(days=90)
FABRIC = f"spiffe://{TRUST_DOMAIN}/service/fabric"
Key = ec.EllipticCurvePrivateKey

_CERTIFICATES = Statement(
    "SELECT serial, caller, service, node, profile FROM certificate ORDER BY recorded_at LIMIT 1000"
)
_REFUSALS = Statement(
    "SELECT caller, action, object, detail FROM audit WHERE outcome = 'refused' ORDER BY id LIMIT 1000"
)


def basic(service: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{service}:{secret}".encode()).decode()}


async def send(
    client: CloudClient, path: str, csr: bytes | None, headers: dict[str, str] | None = None, body: bytes | None = None
) -> Answer:
    content = body if csr is None else encode_base64(csr)
    return await client.call("POST", path, content, headers={"Content-Type": TYPE_PKCS10, **(headers or {})})


def leaf_of(answer: Answer, key: Key) -> x509.Certificate:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    (leaf,) = decode_certs_only(answer.body)
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert leaf_first((leaf,), spki)
    return load(leaf)


def problem_of(answer: Answer) -> ProblemDocument:
    with pytest.raises(ProblemAnswer) as caught:
        answer.into(Certificate)
    assert caught.value.problem.status == answer.status
    return caught.value.problem


async def refusals(live: Live, code: str) -> int:
    """The number of audit rows about requests that were refused with this code."""
    return sum(row["detail"].startswith(f"{code}:") for row in await live.fetch(_REFUSALS))


async def secret_for(live: Live, service: str = "fabric") -> str:
    return await live.running.parts.enrolments.create(service, "operator/test", HOUR)


@asynccontextmanager
async def node_of(live: Live, fabric: CloudClient, device_key: Key, generation: int = 1) -> AsyncIterator[CloudClient]:
    """A client of a node that has a device certificate and a session of this generation."""
    end, session_key = utc_now() + DAYS_90, new_key()
    await fabric.call("POST", PATH_OPEN, opening(generation))
    device = ask(device_key, request=f"d{generation}", generation=generation, not_after=end)
    (await fabric.call("POST", PATH_DEVICE, device)).into(Certificate)
    session = ask(session_key, request=f"s{generation}", generation=generation, not_after=end)
    answer = (await fabric.call("POST", PATH_SESSION, session)).into(Certificate)
    async with live.holder(answer, session_key) as node:
        yield node


async def test_anonymous_callers_get_ca_certificates_and_csr_attributes(live: Live) -> None:
    async with live.anonymous() as client:
        cas = await client.call("GET", PATH_CACERTS)
        attributes = await client.call("GET", PATH_CSRATTRS)
    assert (cas.status, cas.headers["content-type"]) == (200, "application/pkcs7-mime")
    assert cas.headers["content-transfer-encoding"] == "base64"
    files = (live.home / "breakwater" / "certs").glob("*.pem")
    assert {load(der) for der in decode_certs_only(cas.body)} == {
        x509.load_pem_x509_certificate(path.read_bytes()) for path in files
    }
    assert (attributes.status, attributes.headers["content-type"]) == (200, "application/csrattrs")
    assert decode_base64(attributes.body) == CSRATTRS_DER


async def test_a_service_enrols_once_and_a_repeat_gets_the_same(live: Live) -> None:
    secret, key = await secret_for(live), new_key()
    csr = make_csr(key)
    async with live.anonymous() as client:
        first = leaf_of(await send(client, PATH_SIMPLEENROLL, csr, basic("fabric", secret)), key)
        body = encode_base64(csr).replace(b"\n", b"\r\n ")
        headers = {**basic("fabric", secret), "Content-Transfer-Encoding": "binary"}
        again = await send(client, PATH_SIMPLEENROLL, None, headers, body)
        assert leaf_of(again, key) == first
        other = await send(client, PATH_SIMPLEENROLL, make_csr(key), basic("fabric", secret))
        assert problem_of(other).code == "enrolment_refused"
    assert str(spiffe_of(first)) == FABRIC
    rows = [row for row in await live.fetch(_CERTIFICATES) if row["caller"].startswith("enrolment/")]
    assert [(row["service"], row["profile"]) for row in rows] == [("fabric", "service")]


@pytest.mark.parametrize("name", ["KEYTOOL", "CERTTOOL", "CERTTOOL_TLS"])
async def test_default_requests_of_other_programs_enrol(live: Live, name: str) -> None:
    csr = getattr(csr_vectors, name)
    async with live.anonymous() as client:
        answer = await send(client, PATH_SIMPLEENROLL, csr, basic("fabric", await secret_for(live)))
    assert answer.status == 200, answer.body
    (der,) = decode_certs_only(answer.body)
    leaf = x509.load_der_x509_certificate(der)
    assert leaf.public_key() == x509.load_der_x509_csr(csr).public_key()
    assert str(spiffe_of(leaf)) == FABRIC


async def test_of_two_requests_with_one_secret_one_is_served(live: Live) -> None:
    secret = await secret_for(live)
    async with live.anonymous() as one, live.anonymous() as two:
        answers = await asyncio.gather(
            *(send(client, PATH_SIMPLEENROLL, make_csr(new_key()), basic("fabric", secret)) for client in (one, two))
        )
    assert sorted(answer.status for answer in answers) == [200, 401]


async def test_a_service_renews_with_its_key_or_a_new_one(live: Live) -> None:
    key = new_key()
    csr = make_csr(key)
    async with live.fabric() as client:
        first = leaf_of(await send(client, PATH_SIMPLEREENROLL, csr), key)
        assert leaf_of(await send(client, PATH_SIMPLEREENROLL, csr), key) == first
        named = leaf_of(await send(client, PATH_SIMPLEREENROLL, csr, {"Idempotency-Key": "r-1"}), key)
        assert named != first
        same = {"Idempotency-Key": "r-1"}
        assert leaf_of(await send(client, PATH_SIMPLEREENROLL, make_csr(key), same), key) == named
        conflict = await send(client, PATH_SIMPLEREENROLL, make_csr(new_key()), same)
        assert problem_of(conflict).code == "conflict"
        for name in ("", "a b", "a/b", "a" * 129):
            refused = await send(client, PATH_SIMPLEREENROLL, csr, {"Idempotency-Key": name})
            assert problem_of(refused).code in ("invalid", "malformed"), name
    certificate = Certificate((first.public_bytes(serialization.Encoding.DER), *chain_above(live)))
    async with live.holder(certificate, key) as client:
        # The same CSR file works for the next certificate too.
        assert leaf_of(await send(client, PATH_SIMPLEREENROLL, csr), key).serial_number != first.serial_number


def chain_above(live: Live) -> tuple[bytes, ...]:
    pem = (live.home / "breakwater" / "certs" / "services-ca.pem").read_bytes()
    return (x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER),)


async def test_a_node_renews_its_device_certificate_with_the_device_key_alone(live: Live) -> None:
    device_key = new_key()
    csr = make_csr(device_key)
    async with live.fabric() as fabric, node_of(live, fabric, device_key) as node:
        renewed = leaf_of(await send(node, PATH_SIMPLEREENROLL, csr, {"Idempotency-Key": "n1"}), device_key)
        assert leaf_of(await send(node, PATH_SIMPLEREENROLL, csr, {"Idempotency-Key": "n1"}), device_key) == renewed
        assert problem_of(await send(node, PATH_SIMPLEREENROLL, make_csr(new_key()))).code == "csr_refused"
        secret = await secret_for(live)
        for headers in ({}, basic("fabric", secret)):
            assert problem_of(await send(node, PATH_SIMPLEENROLL, csr, headers)).code == "peer_refused"
        next_key = new_key()
        async with node_of(live, fabric, next_key, 2) as second:
            # A session of one generation with the key of the other, in both directions.
            assert problem_of(await send(second, PATH_SIMPLEREENROLL, csr)).code == "csr_refused"
            assert problem_of(await send(node, PATH_SIMPLEREENROLL, make_csr(next_key))).code == "csr_refused"
            await fabric.call("POST", PATH_CLOSE, closing(1))
            assert problem_of(await send(node, PATH_SIMPLEREENROLL, csr)).code == "generation_closed"
            leaf_of(await send(second, PATH_SIMPLEREENROLL, make_csr(next_key)), next_key)


async def test_too_many_renewals_of_a_node_have_to_wait(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.breakwater.issuance.issuing.RENEWALS_MAX", 1)
    key = new_key()
    async with live.fabric() as fabric, node_of(live, fabric, key) as node:
        leaf_of(await send(node, PATH_SIMPLEREENROLL, make_csr(key), {"Idempotency-Key": "n1"}), key)
        refused = await send(node, PATH_SIMPLEREENROLL, make_csr(key), {"Idempotency-Key": "n2"})
        assert (refused.status, problem_of(refused).code) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "3601"
    assert await refusals(live, "rate_limited") == 1


async def test_a_service_that_was_revoked_while_its_request_came_in_gets_nothing(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard checks before the body is complete. The check in the transaction of the record decides."""

    async def not_yet(_self: PeerRecords, _serial: int) -> bool:
        return False

    monkeypatch.setattr(PeerRecords, "service_revoked", not_yet)
    async with live.fabric() as fabric:
        await live.running.parts.service_certificates.revoke_all("operator/anna", "fabric", "keyCompromise")
        before = await live.fetch(_CERTIFICATES)
        assert problem_of(await send(fabric, PATH_SIMPLEREENROLL, make_csr(new_key()))).code == "peer_refused"
        assert await live.fetch(_CERTIFICATES) == before


def built(
    key: Key, change: Callable[[x509.CertificateSigningRequestBuilder], x509.CertificateSigningRequestBuilder]
) -> bytes:
    builder = change(x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def alternative(
    *names: x509.GeneralName,
) -> Callable[[x509.CertificateSigningRequestBuilder], x509.CertificateSigningRequestBuilder]:
    return lambda builder: builder.add_extension(x509.SubjectAlternativeName(names), critical=False)


def flipped(der: bytes) -> bytes:
    return der[:-3] + bytes((der[-3] ^ 1,)) + der[-2:]


def bad_requests() -> dict[str, bytes]:
    """PKCS#10 requests that are refused because of their content, by name."""
    key = new_key()
    good = make_csr(key)
    rsa_key = rsa.generate_private_key(65537, 2048)
    rsa_request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(rsa_key, hashes.SHA256())
    content = good[4:] if good[1] == 0x82 else good[3:] if good[1] == 0x81 else good[2:]
    other = x509.CertificateSigningRequestBuilder().subject_name(named("breakwater")).sign(key, hashes.SHA256())
    password = x509.ObjectIdentifier("1.2.840.113549.1.9.7")
    return {
        "another service's subject": other.public_bytes(serialization.Encoding.DER),
        "another service's SPIFFE id": built(
            key, alternative(x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/service/breakwater"))
        ),
        "a foreign DNS name": built(key, alternative(x509.DNSName("attacker.example"))),
        "a name beside the own": built(
            key, alternative(x509.UniformResourceIdentifier(FABRIC), x509.DNSName("attacker.example"))
        ),
        "an extension": built(
            key, lambda it: it.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        ),
        "an attribute": built(key, lambda it: it.add_attribute(password, b"swordfish")),
        "a curve that is not allowed": make_csr(new_key(ec.SECP521R1())),
        "another curve": make_csr(new_key(ec.SECP256K1())),
        "an RSA key": rsa_request.public_bytes(serialization.Encoding.DER),
        "a signature that does not verify": flipped(good),
        "BER of unknown length": b"\x30\x80" + content + b"\x00\x00",
        "something behind it": good + b"\x00",
        "cut short": good[:-1],
        "a certificate": b"\x30\x03\x02\x01\x00",
        "noise": bytes(range(256)),
        "more than a request has": good + bytes(5000),
    }


async def test_bad_requests_are_refused_and_audited_and_nothing_is_signed(live: Live) -> None:
    secret = await secret_for(live)
    cases = bad_requests()
    async with live.fabric() as fabric, live.anonymous() as anonymous, node_of(live, fabric, new_key()) as node:
        before = await live.fetch(_CERTIFICATES)
        for name, csr in cases.items():
            for client, path, headers in (
                (fabric, PATH_SIMPLEREENROLL, {}),
                (node, PATH_SIMPLEREENROLL, {}),
                (anonymous, PATH_SIMPLEENROLL, basic("fabric", secret)),
            ):
                refused = problem_of(await send(client, path, csr, headers))
                assert (refused.code, bool(refused.detail)) == ("csr_refused", True), (name, path)
        assert await live.fetch(_CERTIFICATES) == before
        assert await refusals(live, "csr_refused") == 3 * len(cases)
        # The secret is still unused after all of them.
        key = new_key()
        leaf_of(await send(anonymous, PATH_SIMPLEENROLL, make_csr(key), basic("fabric", secret)), key)


BAD_BODIES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", TYPE_PKCS10, "malformed"),
    "garbage": (b"%%%%", TYPE_PKCS10, "malformed"),
    "half the padding": (b"QQ=", TYPE_PKCS10, "malformed"),
    "PEM": (
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        TYPE_PKCS10,
        "malformed",
    ),
    "DER as it is": (make_csr(new_key()), TYPE_PKCS10, "malformed"),
    "JSON": (b"{}", "application/json", "unsupported_media_type"),
    "no type": (encode_base64(make_csr(new_key())), "", "unsupported_media_type"),
    "a type that starts alike": (encode_base64(make_csr(new_key())), "application/pkcs10x", "unsupported_media_type"),
    "100 kB": (b"A" * 100_000, TYPE_PKCS10, "too_large"),
    "1 MB": (b"A" * 1024 * 1024, TYPE_PKCS10, "too_large"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bodies_that_are_no_request(live: Live, name: str) -> None:
    body, content_type, code = BAD_BODIES[name]
    secret = await secret_for(live)
    async with live.fabric() as fabric, live.anonymous() as anonymous:
        before = await live.fetch(_CERTIFICATES)
        for client, path, shown in (
            (fabric, PATH_SIMPLEREENROLL, {}),
            (anonymous, PATH_SIMPLEENROLL, basic("fabric", secret)),
        ):
            headers = {"Content-Type": content_type, **shown}
            assert problem_of(await send(client, path, None, headers, body)).code == code
        assert await live.fetch(_CERTIFICATES) == before
        assert await refusals(live, code) == 2


async def test_wrong_secrets_are_answered_alike(live: Live) -> None:
    good, used, other = await secret_for(live), await secret_for(live), await secret_for(live, "breakwater")
    csr = make_csr(new_key())
    async with live.anonymous() as client:
        assert (await send(client, PATH_SIMPLEENROLL, make_csr(new_key()), basic("fabric", used))).status == 200
        shown = {
            "unknown": ("fabric", "ces_" + good[4:][::-1]),
            "no secret": ("fabric", ""),
            "an activation code": ("fabric", "cac" + good[3:]),
            "used": ("fabric", used),
            "another service's": ("fabric", other),
            "another name": ("breakwater", good),
            "no name": ("", good),
        }
        answers = [await send(client, PATH_SIMPLEENROLL, csr, basic(*pair)) for pair in shown.values()]
        aside = ("date", "x-request-id", "ratelimit")
        heads = [{name: text for name, text in answer.headers.items() if name not in aside} for answer in answers]
        assert {answer.status for answer in answers} == {401}
        assert len({msgspec.structs.replace(problem_of(answer), instance="") for answer in answers}) == 1
        assert all(head == heads[0] for head in heads)
        assert problem_of(answers[0]).code == "enrolment_refused"
        assert heads[0]["www-authenticate"] == 'Basic realm="est"'
        assert good not in answers[0].body.decode()
        for _ in range(FAILURES_PER_SOURCE.burst - len(shown)):
            await send(client, PATH_SIMPLEENROLL, csr, basic("fabric", "wrong"))
        waits = await send(client, PATH_SIMPLEENROLL, csr, basic("fabric", "wrong"))
        assert problem_of(waits).code == "rate_limited"
        assert 0 < int(waits.headers["retry-after"]) <= 61
    tried = [row for row in await live.fetch(_REFUSALS) if row["action"] == "enrolment.use"]
    assert len(tried) == FAILURES_PER_SOURCE.burst
    assert good not in repr(await live.fetch(_REFUSALS))


async def test_enrolment_needs_credentials_and_no_certificate(live: Live) -> None:
    secret, csr = await secret_for(live), make_csr(new_key())
    async with live.anonymous() as anonymous, live.fabric() as fabric:
        missing = await send(anonymous, PATH_SIMPLEENROLL, csr)
        assert (missing.status, missing.headers["www-authenticate"]) == (401, 'Basic realm="est"')
        bearer = await send(anonymous, PATH_SIMPLEENROLL, csr, {"Authorization": f"Bearer {secret}"})
        assert problem_of(bearer).code == "enrolment_refused"
        with_certificate = await send(fabric, PATH_SIMPLEENROLL, csr, basic("fabric", secret))
        assert problem_of(with_certificate).code == "peer_refused"
        without = await send(anonymous, PATH_SIMPLEREENROLL, csr, basic("fabric", secret))
        assert problem_of(without).code == "peer_required"


async def test_names_that_are_the_recorded_ones_are_let_through(live: Live) -> None:
    key = new_key()
    own = _own_names(live)
    builder = x509.CertificateSigningRequestBuilder().subject_name(named("fabric")).add_extension(own, critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    async with live.fabric() as fabric:
        leaf_of(await send(fabric, PATH_SIMPLEREENROLL, csr), key)
    async with live.breakwater() as breakwater:
        assert problem_of(await send(breakwater, PATH_SIMPLEREENROLL, csr)).code == "csr_refused"


def _own_names(live: Live) -> x509.SubjectAlternativeName:
    chain = (live.home / "fabric" / "tls" / "chain.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(chain)
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


@pytest.mark.parametrize("point", ["enrolment.bind", "certificate.record", "certificate.store"])
@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_fault_at_any_step_of_an_enrolment_is_mended_by_a_repeat(live: Live, point: str, stage: str) -> None:
    def fail(name: str, at: str) -> None:
        if (name, at) == (f"breakwater.{point}", stage):
            raise RuntimeError(point)

    secret, key = await secret_for(live), new_key()
    csr = make_csr(key)
    async with live.anonymous() as client:
        with hooked(fail):
            assert problem_of(await send(client, PATH_SIMPLEENROLL, csr, basic("fabric", secret))).code == "internal"
        leaf = leaf_of(await send(client, PATH_SIMPLEENROLL, csr, basic("fabric", secret)), key)
        assert leaf_of(await send(client, PATH_SIMPLEENROLL, csr, basic("fabric", secret)), key) == leaf


@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_repeat_works_after_a_fault_while_a_secret_is_freed(live: Live, stage: str) -> None:
    def fail(name: str, at: str) -> None:
        if (name, at) == ("breakwater.enrolment.release", stage):
            raise RuntimeError(name)

    secret, key = await secret_for(live), new_key()
    bad = flipped(make_csr(key))
    async with live.anonymous() as client:
        with hooked(fail):
            assert problem_of(await send(client, PATH_SIMPLEENROLL, bad, basic("fabric", secret))).code == "internal"
        assert problem_of(await send(client, PATH_SIMPLEENROLL, bad, basic("fabric", secret))).code == "csr_refused"
        leaf_of(await send(client, PATH_SIMPLEENROLL, make_csr(key), basic("fabric", secret)), key)


async def test_a_request_has_one_name(live: Live) -> None:
    mine = load_identity(live.home / "fabric" / "tls", live.home / "passphrase")
    body = encode_base64(make_csr(mine.key))
    headers = {"Content-Type": TYPE_PKCS10, "Idempotency-Key": "a", "idempotency-key": "b"}
    async with connected(live.port, live.context(mine.chain_pem, mine.key)) as client:
        refused = await client.ask(PATH_SIMPLEREENROLL, "POST", headers, body)
        assert (refused.status, refused.problem.code) == (400, "malformed")
        del headers["idempotency-key"]
        assert (await client.ask(PATH_SIMPLEREENROLL, "POST", headers, body)).status == 200
