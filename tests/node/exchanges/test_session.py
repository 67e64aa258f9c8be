"""Opening a session with the TPM's key: the proof, the checks of the answer, and what is stored (nothing)."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from node.exchanges.session import OpenedSession, SessionRefused, open_session
from node.exits import Exit
from node.hwbind.tpm import Mode, Tpm
from node.link.api import CloudUnreachable, ServerUnproven
from node.link.certificates import CertificateOutOfTime, CertificateRejected, Window
from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.messages.sessions import Ask, OpenSession, Session, StatementAnswer, open_proof, without_later_claims
from protocol.signed.statements import LEASE_VERSION
from tests.node.conftest import Machine
from tests.node.shells import identity, trust_of
from tests.simulators.fabric import CLIENT, DAY, Answer, Fabric, Reply, Request, always, hang, raw, refused, utc_now
from tests.simulators.machine_clocks import right_window

SESSIONS = "/v1/node/sessions"


async def log_in(fabric: Fabric, machine: Machine, tpm: Tpm, presented: str = "") -> OpenedSession:
    who = identity(fabric, machine.ak, machine.node_key)
    return await open_session(trust_of(fabric), who, tpm, right_window, presented)


@pytest.fixture
def cloud(fabric: Fabric) -> Fabric:
    fabric.confirmed = 1
    fabric.say(fabric.lease())
    return fabric


async def test_a_proof_by_the_tpm_gives_a_session_that_works(cloud: Fabric, machine: Machine, tpm: Tpm) -> None:
    opened = await log_in(cloud, machine, tpm, "last token")
    assert opened.current.statement == cloud.statement
    sent = json_decode(cloud.requests[-1].body, OpenSession)
    claims = open_proof(sent.proof, machine.node_key.public_key())
    assert (sent.presented, claims.answer_nonce, claims.generation) == ("last token", opened.answer_nonce, 1)
    assert claims.csr_sha256 == sha256_hex(sent.csr)
    assert claims.clock is not msgspec.UNSET
    assert claims.clock.clock > 0
    service = opened.credentials.connect(trust_of(cloud), "fabric", right_window)
    await service.statement(Ask(nonce="n" * 32))
    await service.aclose()
    assert cloud.requests[-1].generation == 1


async def test_a_proof_says_which_leases_the_agent_reads(cloud: Fabric, machine: Machine, tpm: Tpm) -> None:
    await log_in(cloud, machine, tpm)
    assert [claims.lease_version for claims in cloud.proofs] == [LEASE_VERSION]


async def test_a_cloud_of_an_earlier_release_gets_the_proof_without_later_claims(
    cloud: Fabric, machine: Machine, tpm: Tpm
) -> None:
    cloud.knows_later_claims = False
    assert (await log_in(cloud, machine, tpm)).current.statement == cloud.statement
    first, second = cloud.proofs
    assert second == without_later_claims(second) != first
    assert (first.nonce, second.lease_version) == (second.nonce, msgspec.UNSET)


async def test_only_a_refused_proof_is_sent_again(cloud: Fabric, machine: Machine, tpm: Tpm) -> None:
    for code, sent in (("proof_refused", 2), ("certificate_refused", 1)):
        cloud.answers[SESSIONS] = refused(code)
        before = len(cloud.requests)
        with pytest.raises((SessionRefused, CloudUnreachable)):
            await log_in(cloud, machine, tpm)
        assert [request.path for request in cloud.requests[before:]].count(SESSIONS) == sent


@pytest.mark.parametrize(("mode", "reported"), [("development", True), ("production", msgspec.UNSET)])
async def test_every_proof_repeats_development_mode(
    cloud: Fabric, machine: Machine, mode: Mode, reported: object
) -> None:
    port = Tpm(machine.chip.tcti, mode=mode, command_seconds_max=10.0)
    try:
        for _ in range(2):
            await log_in(cloud, machine, port)
            proof = json_decode(cloud.requests[-1].body, OpenSession).proof
            assert open_proof(proof, machine.node_key.public_key()).development is reported
    finally:
        await port.aclose()


async def test_a_session_certificate_out_of_trusted_time_names_the_clock(
    cloud: Fabric, machine: Machine, tpm: Tpm
) -> None:
    """The server's own certificate is good for longer."""
    for service in cloud.leaves:
        cloud.leaves[service] = cloud.service_leaf(service, not_before=utc_now() - DAY, not_after=utc_now() + 9 * DAY)
    who = identity(cloud, machine.ak, machine.node_key)
    later = Window(utc_now() + timedelta(hours=20))
    with pytest.raises(CertificateOutOfTime, match="it ended at") as caught:
        await open_session(trust_of(cloud), who, tpm, lambda: later, "")
    assert (caught.value.code, caught.value.step, caught.value.exit) == ("clock_wrong", 8, Exit.CLOCK)


async def test_every_session_has_a_key_of_its_own(cloud: Fabric, machine: Machine, tpm: Tpm) -> None:
    first, second = [await log_in(cloud, machine, tpm) for _ in range(2)]
    assert first.credentials.key.public_key != second.credentials.key.public_key
    assert first.answer_nonce != second.answer_nonce


async def test_nothing_of_a_session_is_on_the_disk(
    cloud: Fabric, machine: Machine, tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opened = await log_in(cloud, machine, tpm)
    cloud_leaf = x509.load_der_x509_certificate(opened.credentials.chain[0])
    usage = cloud_leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert [entry async for entry in aiter_of(trio.Path(tmp_path))] == []


async def aiter_of(directory: trio.Path) -> AsyncIterator[trio.Path]:
    for entry in await directory.iterdir():
        yield entry


async def test_a_closed_generation_gets_its_revocation(cloud: Fabric, machine: Machine, tpm: Tpm) -> None:
    cloud.last_generation = 1
    cloud.revoke()
    with pytest.raises(SessionRefused) as caught:
        await log_in(cloud, machine, tpm)
    assert caught.value.answer.statement == cloud.closed[1]
    assert caught.value.refusal.code == "generation_closed"


def another(what: str, cloud: Fabric, machine: Machine) -> Answer:
    """A session certificate that is not the requested one."""
    own = machine.node_key.public_key()

    async def answer(request: Request) -> Reply:
        csr = x509.load_der_x509_csr(json_decode(request.body, OpenSession).csr).public_key()
        assert isinstance(csr, ec.EllipticCurvePublicKey)
        chains = {
            "another key": cloud.node_chain(own, 1, CLIENT.dotted_string),
            "another generation": cloud.node_chain(csr, 2, CLIENT.dotted_string),
            "a device certificate": cloud.node_chain(csr, 1),
            "no chain": (),
        }
        return Reply(200, json_encode(Session(chains[what], StatementAnswer(cloud.statement, ""))))

    return answer


@pytest.mark.parametrize("what", ["another key", "another generation", "a device certificate", "no chain"])
async def test_a_wrong_session_certificate_is_refused(cloud: Fabric, machine: Machine, tpm: Tpm, what: str) -> None:
    cloud.answers[SESSIONS] = another(what, cloud, machine)
    with pytest.raises(CertificateRejected):
        await log_in(cloud, machine, tpm)


@pytest.mark.parametrize("answer", [always(401), always(404), always(429), always(500), raw(b"\0")])
async def test_other_answers_are_silence(cloud: Fabric, machine: Machine, tpm: Tpm, answer: Answer) -> None:
    cloud.answers[SESSIONS] = answer
    with pytest.raises(CloudUnreachable):
        await log_in(cloud, machine, tpm)


async def test_no_proof_is_made_for_a_wrong_server(cloud: Fabric, machine: Machine, tpm: Tpm) -> None:
    cloud.leaves["fabric"] = cloud.service_leaf("fabric", issuer=cloud.nodes)
    with pytest.raises(ServerUnproven):
        await log_in(cloud, machine, tpm)
    assert cloud.received == 0


async def test_a_cancelled_request_leaves_no_connection(cloud: Fabric, machine: Machine, tpm: Tpm) -> None:
    cloud.answers[SESSIONS] = hang
    with trio.move_on_after(1.0) as scope:
        await log_in(cloud, machine, tpm)
    assert scope.cancelled_caught
    del cloud.answers[SESSIONS]
    await log_in(cloud, machine, tpm)
