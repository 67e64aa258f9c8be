"""`cloud.breakwater.revocation.ocsp_responder`: every request gets the right status or the right OCSP error."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud.breakwater.errors import IssuanceLost, LintError, SignerError, SignerUnavailable, StillRunning
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.crl import REASONS
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.ocsp import REQUEST_BYTES_MAX, parse_request
from cloud.breakwater.revocation.ocsp_responder import ANSWER_LIFE, REUSE
from cloud.storage import Location
from cloud.tasks.stopping import Stopping
from lab.postgres import database_location
from tests.cloud.breakwater.ocsp_requests import (
    by_hash,
    signed_request,
    two_requests,
    unknown_oid,
    with_extension,
    with_sha512,
)
from tests.cloud.breakwater.revoking import SPIFFE, Bench, Clock, Hierarchy, bench_at, new_public_key, serial
from tests.cloud.engines import ENGINES
from tests.waiting import until

Status = ocsp.OCSPResponseStatus
SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()  # noqa: S303  OCSP clients name issuers by SHA-1


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    return Hierarchy(Clock().at)


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


@pytest.fixture
async def bench(location: Location, hierarchy: Hierarchy) -> AsyncIterator[Bench]:
    states = dict(hierarchy.states)
    async with bench_at(location, hierarchy, Clock()) as made:
        yield made
    hierarchy.states = states


def request_for(
    certificate: x509.Certificate,
    hierarchy: Hierarchy,
    authority: str = "nodes-1",
    algorithm: hashes.HashAlgorithm = SHA256,
    nonce: bytes | None = None,
) -> bytes:
    issuer = x509.load_der_x509_certificate(hierarchy.issuers[authority].certificate_der)
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, algorithm)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


async def ask(bench: Bench, der: bytes) -> ocsp.OCSPResponse:
    return ocsp.load_der_ocsp_response((await bench.responder.answer(der)).der)


def check_signature(response: ocsp.OCSPResponse, hierarchy: Hierarchy, authority: str = "nodes-1") -> x509.Certificate:
    """Verify the response's signature, and that the authority issued the delegate's certificate for OCSP only."""
    (delegate,) = response.certificates
    delegate.verify_directly_issued_by(x509.load_der_x509_certificate(hierarchy.issuers[authority].certificate_der))
    key = delegate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    purposes = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert not delegate.extensions.get_extension_for_class(x509.OCSPNoCheck).critical
    assert response.responder_key_hash is not None
    return delegate


@pytest.mark.parametrize("algorithm", [SHA1, SHA256])
async def test_good_then_revoked(bench: Bench, hierarchy: Hierarchy, algorithm: hashes.HashAlgorithm) -> None:
    certificate = await bench.issue()
    der = request_for(certificate, hierarchy, algorithm=algorithm)
    good = await ask(bench, der)
    assert (good.response_status, good.certificate_status) == (Status.SUCCESSFUL, ocsp.OCSPCertStatus.GOOD)
    assert (good.serial_number, good.hash_algorithm.name) == (certificate.serial_number, algorithm.name)
    assert good.this_update_utc == bench.clock()
    assert good.next_update_utc == bench.clock() + ANSWER_LIFE
    check_signature(good, hierarchy)
    bench.clock.forward(timedelta(seconds=3))
    await bench.revoke(certificate.serial_number, 1)
    revoked = await ask(bench, der)
    assert revoked.certificate_status == ocsp.OCSPCertStatus.REVOKED
    assert revoked.revocation_time_utc == bench.clock()
    assert revoked.revocation_reason == x509.ReasonFlags.key_compromise


@pytest.mark.parametrize("reason", sorted(REASONS))
async def test_every_reason(bench: Bench, hierarchy: Hierarchy, reason: int) -> None:
    certificate = await bench.issue()
    await bench.revoke(certificate.serial_number, reason)
    response = await ask(bench, request_for(certificate, hierarchy))
    assert response.revocation_reason == (REASONS[reason] if reason else None)


async def test_an_orphan_is_revoked(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    await bench.revoke(certificate.serial_number, 0, state="orphaned")
    response = await ask(bench, request_for(certificate, hierarchy))
    assert response.certificate_status == ocsp.OCSPCertStatus.REVOKED


async def test_serials_without_a_status_are_unknown(bench: Bench, hierarchy: Hierarchy) -> None:
    issuer = hierarchy.issuers["nodes-1"]
    certificate, foreign = await bench.issue(), await bench.issue("nodes-2")
    key = describe_key(new_public_key())
    session = profiles.want_session(SPIFFE, 1, key, serial(), bench.clock(), bench.clock() + ANSWER_LIFE, issuer)
    await bench.record(session, "nodes-1", "", await bench.sign(session, issuer))
    unsigned = serial()
    where = profiles.Distribution("http://x/1.crl", "http://x/ocsp", "http://x/ca.cer")
    device = profiles.want_device(SPIFFE, 1, key, unsigned, bench.clock(), bench.clock() + ANSWER_LIFE, issuer, where)
    await bench.record(device, "nodes-1", "nodes-1.1", None, "recorded")
    question = parse_request(request_for(certificate, hierarchy, algorithm=SHA1))
    for number in (1, serial(), session.serial, unsigned, foreign.serial_number):
        der = by_hash(number, question.issuer.name_hash, question.issuer.key_hash)
        response = await ask(bench, der)
        assert response.certificate_status == ocsp.OCSPCertStatus.UNKNOWN
        check_signature(response, hierarchy)


async def test_the_nonce_comes_back_and_nothing_is_kept(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    for size in (1, 16, 32, 128):
        nonce = os.urandom(size)
        answered = await bench.responder.answer(request_for(certificate, hierarchy, nonce=nonce))
        response = ocsp.load_der_ocsp_response(answered.der)
        assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
        assert answered.this_update is None
    assert len((await ask(bench, request_for(certificate, hierarchy))).extensions) == 0


async def test_an_answer_is_reused_while_the_status_is_the_same(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    der = request_for(certificate, hierarchy)
    first = await bench.responder.answer(der)
    bench.clock.forward(REUSE - timedelta(seconds=1))
    assert await bench.responder.answer(der) == first
    bench.clock.forward(timedelta(seconds=1))
    assert await bench.responder.answer(der) != first
    await bench.revoke(certificate.serial_number)
    assert (await ask(bench, der)).certificate_status == ocsp.OCSPCertStatus.REVOKED


async def test_delegates_renew_themselves(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    der = request_for(certificate, hierarchy)
    assert await bench.responder.run_once()
    assert sorted(bench.responders.issued) == ["nodes-1", "nodes-2", "services-1"]
    before = check_signature(await ask(bench, der), hierarchy)
    assert await bench.responder.run_once()
    assert len(bench.responders.issued) == 3
    bench.clock.forward(timedelta(hours=25))
    assert await bench.responder.run_once()
    after = check_signature(await ask(bench, der), hierarchy)
    assert len(bench.responders.issued) == 6
    assert (after.public_key() == before.public_key(), after == before) == (False, False)


async def test_an_answer_ends_before_its_delegate_does(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    delegate = check_signature(await ask(bench, request_for(certificate, hierarchy)), hierarchy)
    bench.clock.at = delegate.not_valid_after_utc - ANSWER_LIFE
    again = await ask(bench, request_for(certificate, hierarchy))
    assert check_signature(again, hierarchy) != delegate


async def test_authorities_that_come_and_go(bench: Bench, hierarchy: Hierarchy) -> None:
    old, tainted = await bench.issue("nodes-1"), await bench.issue("nodes-2")
    hierarchy.states |= {"nodes-1": "old", "nodes-2": "tainted", "services-1": "prepared"}
    await bench.responder.run_once()
    assert sorted(bench.responders.issued) == ["nodes-1", "nodes-2"]
    for certificate, authority in ((old, "nodes-1"), (tainted, "nodes-2")):
        response = await ask(bench, request_for(certificate, hierarchy, authority))
        assert response.certificate_status == ocsp.OCSPCertStatus.GOOD
        check_signature(response, hierarchy, authority)
    hierarchy.states["nodes-1"] = "revoked"
    await bench.responder.run_once()
    assert (await ask(bench, request_for(old, hierarchy))).response_status == Status.UNAUTHORIZED


async def test_the_task_ends_with_the_process(bench: Bench) -> None:
    stopping = Stopping()
    task = asyncio.create_task(bench.responder.run(stopping))
    await until("a delegate of each CA", lambda: len(bench.responders.issued) == 3)
    stopping.request()
    async with asyncio.timeout(5):
        await task


async def test_a_change_of_the_authorities_is_acted_on_at_once(bench: Bench, hierarchy: Hierarchy) -> None:
    stopping = Stopping()
    task = asyncio.create_task(bench.responder.run(stopping))
    try:
        await until("a delegate of each CA", lambda: len(bench.responder._delegates) == 3)
        hierarchy.states["nodes-1"] = "revoked"
        bench.responder.wake()
        await until("the end of its delegate", lambda: "nodes-1" not in bench.responder._delegates, 5)
    finally:
        stopping.request()
        await task


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SignerUnavailable("the token is not available"), Status.TRY_LATER),
        (SignerError("no such CA"), Status.INTERNAL_ERROR),
        (LintError("rule", "detail"), Status.INTERNAL_ERROR),
        (IssuanceLost("given up"), Status.TRY_LATER),
        (StillRunning("elsewhere"), Status.TRY_LATER),
    ],
)
async def test_trouble_with_the_key(
    bench: Bench, hierarchy: Hierarchy, error: Exception, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.breakwater.revocation.ocsp_responder.PAUSE_SECONDS", 0.0)
    certificate = await bench.issue()
    bench.responders.error = error
    assert (await ask(bench, request_for(certificate, hierarchy))).response_status == status
    assert not await bench.responder.run_once()
    bench.responders.error = None
    assert (await ask(bench, request_for(certificate, hierarchy))).response_status == Status.SUCCESSFUL


async def test_requests_do_not_repeat_a_failed_try_for_a_key(bench: Bench, hierarchy: Hierarchy) -> None:
    """Each try leaves a record in the database."""
    certificate = await bench.issue()
    bench.responders.error = SignerUnavailable("the token is not available")
    for _ in range(20):
        assert (await ask(bench, request_for(certificate, hierarchy))).response_status == Status.TRY_LATER
    assert bench.responders.tried == ["nodes-1"]


async def test_a_clock_that_ran_ahead_leaves_nothing_of_the_future(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    start = bench.clock.at
    bench.clock.forward(timedelta(hours=12))
    await ask(bench, request_for(certificate, hierarchy))
    bench.clock.at = start
    again = await ask(bench, request_for(certificate, hierarchy))
    assert again.this_update_utc == start
    assert check_signature(again, hierarchy).not_valid_before_utc <= start


async def test_a_database_that_is_closed(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    await bench.engine.close()
    assert (await ask(bench, request_for(certificate, hierarchy))).response_status == Status.TRY_LATER


REFUSED = {
    "nothing": (b"", Status.MALFORMED_REQUEST),
    "garbage": (b"\xff" * 100, Status.MALFORMED_REQUEST),
    "100 KB": (b"\x30" * 100_000, Status.MALFORMED_REQUEST),
    "one byte too many": (b"\x30" * (REQUEST_BYTES_MAX + 1), Status.MALFORMED_REQUEST),
    "cut off": (by_hash(7)[:-1], Status.MALFORMED_REQUEST),
    "bytes after it": (by_hash(7) + b"\x00", Status.MALFORMED_REQUEST),
    "an indefinite length": (b"\x30\x80" + by_hash(7)[2:] + b"\x00\x00", Status.MALFORMED_REQUEST),
    "two requests": (two_requests(), Status.MALFORMED_REQUEST),
    "an empty nonce": (with_extension(x509.OCSPNonce(b""), False), Status.MALFORMED_REQUEST),
    "a nonce of 129 bytes": (with_extension(x509.OCSPNonce(b"n" * 129), False), Status.MALFORMED_REQUEST),
    "a critical extension": (with_extension(unknown_oid(), True), Status.MALFORMED_REQUEST),
    "an unknown issuer": (by_hash(7), Status.UNAUTHORIZED),
    "an unknown issuer, signed": (signed_request(), Status.UNAUTHORIZED),
    "an unknown issuer and extension": (with_extension(unknown_oid(), False), Status.UNAUTHORIZED),
    "another hash": (with_sha512(), Status.UNAUTHORIZED),
    "no hash that there is": (
        by_hash(7).replace(b"\x2b\x0e\x03\x02\x1a", b"\x2b\x0e\x03\x02\x7f"),
        Status.UNAUTHORIZED,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_each_bad_request_gets_its_ocsp_error(bench: Bench, name: str) -> None:
    der, status = REFUSED[name]
    answered = await bench.responder.answer(der)
    assert ocsp.load_der_ocsp_response(answered.der).response_status == status
    assert answered.this_update is None
    assert bench.responders.issued == []


async def test_a_root_is_not_answered_for(bench: Bench, hierarchy: Hierarchy) -> None:
    root = x509.load_der_x509_certificate(hierarchy.issuers["root-1"].certificate_der)
    nodes = x509.load_der_x509_certificate(hierarchy.issuers["nodes-1"].certificate_der)
    der = ocsp.OCSPRequestBuilder().add_certificate(nodes, root, SHA1).build().public_bytes(Encoding.DER)
    assert (await ask(bench, der)).response_status == Status.UNAUTHORIZED


async def test_a_signed_request_is_answered_like_another(bench: Bench, hierarchy: Hierarchy) -> None:
    certificate = await bench.issue()
    plain = parse_request(request_for(certificate, hierarchy, algorithm=SHA1))
    template = signed_request().replace(b"n" * 20, plain.issuer.name_hash).replace(b"k" * 20, plain.issuer.key_hash)
    assert (await ask(bench, template)).certificate_status == ocsp.OCSPCertStatus.UNKNOWN
