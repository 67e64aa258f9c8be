"""One contact with the cloud: its requests, the answers that count, and the failures that it keeps."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from node.errors import NodeError
from node.exchanges import wake_channel
from node.exchanges.contact import FAILURES_PER_SESSION, Contact
from node.exits import Exit
from node.hwbind.errors import TpmFailed
from node.licensing.boot_time import machine_clocks
from node.link.certificates import CertificateRejected, Window
from node.state import State
from protocol import problems
from protocol.encoding import json_decode, json_encode
from protocol.messages.renewal import PATH_RENEWALS
from protocol.messages.sessions import OpenSession, Session, StatementAnswer, open_proof
from tests.node.exchanges.paths import NONCES, SESSIONS, STATEMENT, asked
from tests.node.shells import VERSION, Refreshes, identity
from tests.simulators.fabric import (
    DAY,
    Answer,
    Fabric,
    Reply,
    Request,
    always,
    problem,
    raw,
    refused,
    utc_now,
)

pytestmark = pytest.mark.slow


async def test_a_new_session_brings_the_statement_and_nothing_else_is_asked(contact: Contact, fabric: Fabric) -> None:
    fabric.say(fabric.lease(entitlements=("new",)))
    assert await contact.attempt()
    assert asked(fabric) == [NONCES, SESSIONS]
    assert contact.licence.presented == fabric.statement
    assert contact.last_contact_at is not None


async def test_the_same_statement_again_is_an_answer(contact: Contact, fabric: Fabric) -> None:
    assert contact.licence.presented == fabric.statement
    assert await contact.attempt()
    assert asked(fabric) == [NONCES, SESSIONS]


async def test_over_the_present_session_the_statement_is_fetched(contact: Contact, fabric: Fabric) -> None:
    assert await contact.attempt()
    fabric.requests.clear()
    fabric.say(fabric.lease(entitlements=("new",)))
    assert await contact.attempt()
    assert asked(fabric) == [STATEMENT]
    assert contact.licence.presented == fabric.statement


async def test_a_clock_that_differs_from_the_clouds_is_a_condition_until_it_is_set(contact: Contact) -> None:
    def reported() -> list[str]:
        return [each.text for each in contact.conditions.current() if each.code == "clock_wrong"]

    def set_wall(error: timedelta) -> None:
        contact.licence.time._clocks = machine_clocks(lambda: utc_now() + error)

    assert await contact.attempt()
    set_wall(timedelta(minutes=-15, seconds=-30))
    assert await contact.attempt()
    assert reported()[0].startswith("By the cloud's time, this machine's clock is slow by 15 min")
    set_wall(timedelta(minutes=2))
    assert await contact.attempt()
    assert reported() == []


@pytest.mark.parametrize("days", [-20_000, -30, 2, 400])
async def test_under_any_wall_clock_the_cloud_is_reached(contact: Contact, fabric: Fabric, days: int) -> None:
    contact.licence.time._clocks = machine_clocks(lambda: utc_now() + days * DAY)
    fabric.say(fabric.suspension())
    assert await contact.attempt()
    assert contact.licence.verdict().state == "suspended"
    fabric.say(fabric.lease())
    assert await contact.attempt()
    assert (contact.licence.verdict().state, contact.licence.verdict().clock_suspect) == ("active", True)


async def test_a_time_that_rejects_every_session_certificate_hides_no_statement(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the TPM was set forward."""
    for service in fabric.leaves:
        fabric.leaves[service] = fabric.service_leaf(service, not_after=utc_now() + 9 * DAY)
    monkeypatch.setattr(contact._state.time, "window", lambda: Window(utc_now() + timedelta(hours=20)))
    fabric.say(fabric.suspension())
    assert not await contact.attempt()
    assert contact.licence.verdict().state == "suspended"
    assert contact.last_failure is not None
    assert contact.last_failure.code == "clock_wrong"


async def test_a_session_that_cannot_be_used_hides_no_statement(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise CertificateRejected(1, "OpenSSL refuses it")

    monkeypatch.setattr(contact.connection, "replace", refuse)
    fabric.say(fabric.suspension())
    assert not await contact.attempt()
    assert contact.licence.verdict().state == "suspended"


@pytest.mark.parametrize("freshness", ["none", "for another nonce"])
async def test_a_session_whose_statement_is_not_fresh_asks_for_it(
    contact: Contact, fabric: Fabric, freshness: str
) -> None:
    fabric.say(fabric.lease(entitlements=("new",)))
    word = "" if freshness == "none" else fabric.freshness("m" * 32, fabric.statement, 1)

    async def not_fresh(request: Request) -> Reply:
        session = json_decode(fabric._open_session(request).body, Session)
        return Reply(200, json_encode(Session(session.certificate_chain, StatementAnswer(fabric.statement, word))))

    fabric.answers[SESSIONS] = not_fresh
    assert await contact.attempt()
    assert asked(fabric) == [NONCES, SESSIONS, STATEMENT]


async def test_a_session_without_a_statement_asks_for_it(contact: Contact, fabric: Fabric) -> None:
    async def none(request: Request) -> Reply:
        session = json_decode(fabric._open_session(request).body, Session)
        return Reply(200, json_encode(Session(session.certificate_chain, StatementAnswer("", ""))))

    fabric.answers[SESSIONS] = none
    assert await contact.attempt()
    assert asked(fabric) == [NONCES, SESSIONS, STATEMENT]


async def test_a_session_that_only_fails_is_replaced(contact: Contact, fabric: Fabric) -> None:
    assert await contact.attempt()
    opened = contact.connection.credentials
    fabric.answers[STATEMENT] = refused("unavailable")
    for _ in range(FAILURES_PER_SESSION + 1):
        assert not await contact.attempt()
    del fabric.answers[STATEMENT]
    assert await contact.attempt()
    assert contact.connection.credentials is not opened


async def test_a_session_that_fails_in_an_unknown_way_is_replaced(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await contact.attempt()

    async def broken(_: object) -> StatementAnswer:
        raise RuntimeError("the client is in a state that the library does not know")

    assert contact.connection.fabric is not None
    monkeypatch.setattr(contact.connection.fabric, "statement", broken)
    for _ in range(FAILURES_PER_SESSION + 1):
        assert not await contact.attempt()
    assert await contact.attempt()


async def test_every_request_reports_the_trust_in_use(contact: Contact, fabric: Fabric, refreshes: Refreshes) -> None:
    await contact.attempt()
    assert set(fabric.trust_versions) == {VERSION}
    await contact._trust.refresh()
    assert await contact.attempt()
    assert fabric.trust_versions[-1] == VERSION + 1


async def test_a_chain_with_cross_certificates_opens_a_session(contact: Contact, fabric: Fabric) -> None:
    fabric.chain_above = (fabric.root.der, fabric.root.der)
    await contact.attempt()
    assert contact.connection.credentials is not None
    assert len(contact.connection.credentials.chain) == 4
    await contact.renew_device()
    assert len(contact.licence.identity.chain) == 2


BAD: dict[str, Answer] = {
    "401": always(401),
    "403": always(403),
    "404": always(404),
    "429": refused("rate_limited"),
    "500": refused("internal"),
    "503": always(503),
    "hung up": raw(b""),
    "node_revoked unsigned": refused("node_revoked"),
    "peer_refused": refused("peer_refused"),
    "generation_closed unsigned": refused("generation_closed"),
    "certificate_refused": refused("certificate_refused"),
}


@pytest.mark.parametrize("path", [SESSIONS, STATEMENT])
async def test_no_answer_without_a_signed_statement_changes_a_state(
    contact: Contact, fabric: Fabric, path: str
) -> None:
    before = contact.licence.presented
    for number, (name, answer) in enumerate(BAD.items(), start=1):
        if path == STATEMENT:
            # Fetched over the present session.
            assert await contact.attempt()
        fabric.answers[path] = answer
        assert not await contact.attempt(), name
        assert (contact.licence.verdict().state, contact.licence.verdict().gate_open) == ("active", True), name
        failures = 1 if path == STATEMENT else number
        assert (contact.licence.presented, contact.failures) == (before, failures), name
        if path == STATEMENT:
            del fabric.answers[path]
    fabric.answers.clear()
    assert await contact.attempt()
    assert contact.failures == 0
    await contact.connection.close()


async def test_a_limit_of_the_cloud_changes_no_state_and_costs_no_session(contact: Contact, fabric: Fabric) -> None:
    assert await contact.attempt()
    session, before = contact.connection.credentials, contact.licence.presented
    body = json_encode(problems.document(problems.KINDS["rate_limited"]))
    fabric.answers[STATEMENT] = always(429, body, ("content-type", problems.CONTENT_TYPE), ("retry-after", "17"))
    for _ in range(FAILURES_PER_SESSION + 2):
        assert not await contact.attempt()
        assert contact.retry_after_seconds == 17
    assert (contact.licence.verdict().gate_open, contact.licence.presented) == (True, before)
    fabric.answers.clear()
    assert await contact.attempt()
    assert contact.retry_after_seconds == 0
    assert contact.connection.credentials is session
    await contact.connection.close()


@pytest.mark.parametrize("wrong", ["spiffe", "issuer", "expired"])
async def test_no_failure_of_tls_changes_a_state(contact: Contact, fabric: Fabric, wrong: str) -> None:
    good = fabric.leaves["fabric"]
    fabric.leaves["fabric"] = {
        "spiffe": lambda: fabric.service_leaf("breakwater"),
        "issuer": lambda: fabric.service_leaf("fabric", issuer=fabric.nodes),
        "expired": lambda: fabric.service_leaf("fabric", not_before=utc_now() - 2 * DAY, not_after=utc_now() - DAY),
    }[wrong]()
    assert not await contact.attempt()
    assert contact.licence.verdict().gate_open
    assert (fabric.requests, fabric.received) == ([], 0)
    fabric.leaves["fabric"] = good
    assert await contact.attempt()
    await contact.connection.close()


async def test_forged_and_replayed_statements_are_silence(contact: Contact, fabric: Fabric) -> None:
    stranger = Fabric()
    stranger.confirmed, stranger.seq = 1, 50
    old = fabric.statement
    fabric.say(fabric.lease())
    assert await contact.attempt()
    for token in (stranger.revocation(), stranger.lease(), old, fabric.revocation(2), "", "x"):
        fabric.statement = token
        assert not await contact.attempt()
        assert contact.licence.verdict().state == "active"
    await contact.connection.close()


async def test_a_refusal_with_a_forged_statement_is_silence(contact: Contact, fabric: Fabric) -> None:
    stranger = Fabric()
    stranger.confirmed = 1

    async def lie(_: Request) -> Reply:
        return problem("generation_closed", stranger.revocation(), "")

    fabric.answers[SESSIONS] = lie
    assert not await contact.attempt()
    assert contact.licence.verdict().state == "active"


async def test_the_signed_revocation_in_a_refusal_counts_without_the_tpm(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    await contact.attempt()

    async def fails() -> bool:
        raise TpmFailed("0x101")

    monkeypatch.setattr(contact, "_open_session", fails)
    fabric.revoke()
    assert await contact.attempt()
    assert contact.licence.revoked
    assert contact.connection.credentials is None


async def test_after_a_refusal_without_a_statement_a_new_proof_gets_it(contact: Contact, fabric: Fabric) -> None:
    await contact.attempt()
    fabric.revoke()
    fabric.answers[STATEMENT] = refused("generation_closed")
    assert await contact.attempt()
    assert contact.licence.revoked
    assert contact.connection.credentials is None


async def test_a_switch_that_outlived_its_contact_is_noticed(contact: Contact, fabric: Fabric, state: State) -> None:
    """The disk was slow: the contact had ended when the new generation became the current one."""
    second = identity(fabric, contact.licence.identity.ak, contact.licence.identity.node_key, 2)
    state.identities.save_generation(second)
    state.identities.switch_to(2)
    fabric.confirmed = 2
    fabric.say(fabric.lease(2))
    assert await contact.attempt()
    assert (contact.licence.identity.generation, contact.licence.verdict().gate_open) == (2, True)


def weak_certificate() -> bytes:
    """A readable certificate that OpenSSL refuses to load, for its key."""
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 (weak on purpose)
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, utc_now() - DAY, utc_now() + DAY)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("above", [b"", b"no certificate", b"0\x03\x02\x01\x01", weak_certificate()])
async def test_an_unusable_certificate_above_the_issuer_is_left_out(
    contact: Contact, fabric: Fabric, above: bytes
) -> None:
    fabric.chain_above = (above, fabric.root.der)
    assert await contact.attempt()
    assert contact.connection.credentials is not None
    assert fabric.root.der in contact.connection.credentials.chain
    fabric.revoke()
    assert await contact.attempt()
    assert contact.licence.revoked


async def test_an_unexpected_exception_counts_as_silence(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> bool:
        raise ZeroDivisionError("surprise")

    with monkeypatch.context() as patch:
        patch.setattr(contact, "_refresh", fails)
        assert not await contact.attempt()
    assert contact.last_failure is not None
    assert (contact.failures, contact.last_failure.code) == (1, "internal")
    assert [each.code for each in contact.conditions.current()] == ["fault_contact"]
    assert await contact.attempt()
    assert contact.conditions.current() == ()


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_tpm_that_proves_no_session_leaves_the_present_session(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    assert await contact.attempt()

    async def fails() -> bool:
        raise TpmFailed("0x101")

    monkeypatch.setattr(contact, "_open_session", fails)
    if not ordered:
        contact.connection.outdate()
    fabric.say(fabric.suspension())
    assert await contact.attempt(new_session=ordered)
    assert contact.licence.verdict().state == "suspended"


async def test_renew_says_the_cause(contact: Contact, fabric: Fabric) -> None:
    fabric.answers[NONCES] = refused("csr_refused")
    with pytest.raises(NodeError) as caught:
        await contact.renew()
    assert (caught.value.code, caught.value.exit) == ("csr_refused", Exit.REFUSED)


async def test_renew_ends_with_the_statement_that_refused_the_session(contact: Contact, fabric: Fabric) -> None:
    """As for the copy of a suspected clone: the command then shows the statement, and not a missing session."""
    statement = fabric.suspension()

    async def suspends(request: Request) -> Reply:
        body = json_decode(request.body, OpenSession)
        device = x509.load_der_x509_certificate(body.device_certificate)
        nonce = open_proof(body.proof, device.public_key()).answer_nonce
        return problem("clone_suspected", statement, fabric.freshness(nonce, statement, 1))

    fabric.answers[SESSIONS] = suspends
    await contact.renew()
    assert contact.licence.verdict().state == "suspended"
    assert asked(fabric) == [NONCES, SESSIONS]


async def test_a_node_that_the_cloud_does_not_know_says_so(contact: Contact, fabric: Fabric) -> None:
    """The renewal with evidence is refused too, with a refusal that names no cause."""

    async def unknown(_: Request) -> Reply:
        document = problems.document(problems.KINDS["certificate_refused"], "this Fabric does not know the node")
        return Reply(document.status, json_encode(document), (("content-type", problems.CONTENT_TYPE),))

    fabric.answers[SESSIONS] = unknown
    fabric.answers[PATH_RENEWALS] = refused("certificate_refused")
    assert not await contact.attempt()
    assert contact.last_failure is not None
    assert "does not know the node" in contact.last_failure.text


async def test_a_failed_contact_ends_the_condition_of_an_earlier_poll(contact: Contact, fabric: Fabric) -> None:
    contact.conditions.report(wake_channel.FAILED, "the last long poll failed", "Wait.")
    fabric.answers[NONCES] = always(429)
    assert not await contact.attempt()
    assert contact.last_failure is not None
    assert contact.last_failure.code == "rate_limited"
    assert contact.conditions.current() == (), "the last failure names the cause"
