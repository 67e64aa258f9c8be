"""One contact with the cloud: its requests, the answers that count, and the recovery from a rotation or an expired
certificate."""

import errno
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cloud.fabric.tuf.targets import build_targets
from node.errors import NodeError
from node.exchanges import schedule, wake_channel
from node.exchanges.contact import FAILURES_PER_SESSION, Contact
from node.exits import Exit
from node.hwbind.errors import TpmFailed
from node.hwbind.tpm import Tpm
from node.link.api import CloudRefused, CloudUnreachable
from node.link.certificates import CertificateRejected
from node.state import State
from node.trust import published
from node.trust.errors import TrustUnreachable
from node.trust.published import TrustSet
from protocol import problems
from protocol.encoding import json_decode, json_encode
from protocol.messages.est import PATH_SIMPLEREENROLL, encode_certs_only
from protocol.messages.renewal import PATH_RENEWALS
from protocol.messages.sessions import Session, StatementAnswer
from tests.node.conftest import Machine
from tests.node.shells import VERSION, Refreshes, contact_of, identity, install, trust_of
from tests.simulators.fabric import (
    DAY,
    Answer,
    Fabric,
    Reply,
    Request,
    always,
    authority,
    dated,
    problem,
    raw,
    refused,
    utc_now,
)
from tests.simulators.repository import Repository

pytestmark = pytest.mark.slow

NONCES, SESSIONS = "/v1/node/nonces", "/v1/node/sessions"
STATEMENT, CONFIRM = "/v1/node/statement", "/v1/node/confirm"


@pytest.fixture
def state(tmp_path: Path, fabric: Fabric, machine: Machine) -> State:
    return install(tmp_path / "state", fabric, machine.ak, machine.node_key)


@pytest.fixture
async def contact(state: State, tpm: Tpm) -> AsyncIterator[Contact]:
    made = contact_of(state, tpm)
    made._hardware.report_ours()
    yield made
    await made.connection.close()


def asked(fabric: Fabric) -> list[str]:
    """The paths of the requests, in order."""
    return [request.path for request in fabric.requests]


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


async def test_a_clock_that_differs_from_the_clouds_is_a_condition_until_it_is_set(
    contact: Contact, fabric: Fabric
) -> None:
    def reported() -> list[str]:
        return [each.text for each in contact.conditions.current() if each.code == "clock_wrong"]

    assert await contact.attempt()
    fabric.answers[STATEMENT] = dated(fabric, timedelta(minutes=15, seconds=30))
    assert await contact.attempt()
    assert reported()[0].startswith("By the cloud's time, this machine's clock is slow by 15 min")
    fabric.answers[STATEMENT] = dated(fabric, timedelta(minutes=-2))
    assert await contact.attempt()
    assert reported() == []


@pytest.mark.parametrize("days", [-2, 2])
async def test_a_clock_that_rejects_every_session_certificate_hides_no_statement(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setattr(contact, "_clock", lambda: utc_now() + days * DAY)
    fabric.say(fabric.suspension())
    assert not await contact.attempt()
    assert contact.licence.verdict().state == "suspended"
    fabric.say(fabric.lease())
    assert not await contact.attempt()
    assert contact.licence.verdict().state == "active"
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


def rotate(fabric: Fabric) -> None:
    """Another root, other issuing CAs, and other certificates of the services."""
    fabric.root = authority("root 2")
    fabric.nodes, fabric.services = authority("nodes 2", fabric.root), authority("services 2", fabric.root)
    fabric.leaves = {name: fabric.service_leaf(name) for name in fabric.leaves}


async def test_a_node_that_slept_through_a_rotation_recovers_while_it_settles(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    rotate(fabric)
    await contact.attempt()
    assert contact.last_contact_at is not None
    assert (refreshes.asked, contact.failures) == (1, 0)
    assert contact._trust.value.bundle == fabric.bundle
    assert set(fabric.trust_versions) == {VERSION + 1}


def targets_of(fabric: Fabric) -> dict[str, bytes]:
    bundle = fabric.bundle
    return build_targets(
        keys=fabric.verification_keys(),
        trust_domain=bundle.trust_domain,
        roots=list(bundle.roots),
        node_issuers=list(bundle.node_issuers),
        service_issuers=list(bundle.service_issuers),
        fabric_url=fabric.urls.fabric,
        breakwater_url=fabric.urls.breakwater,
    )


async def test_the_trust_on_the_disk_is_brought_up_to_date_from_the_repository(
    fabric: Fabric, machine: Machine, tpm: Tpm, tmp_path: Path
) -> None:
    """A complete rotation: the old trust is stored, a real repository and the cloud have the new trust."""
    with Repository(targets_of(fabric), now=utc_now()).served() as repository:
        state = install(tmp_path / "state", fabric, machine.ak, machine.node_key)
        await (await published.stage(repository.url, repository.pin, state.directory)).keep()
        rotate(fabric)
        repository.replace(targets_of(fabric), now=utc_now())
        contact = contact_of(state, tpm)
        contact._hardware.report_ours()
        before = contact._trust.value
        await contact.attempt()
        await contact.connection.close()
    assert (contact.failures, contact.licence.verdict().gate_open) == (0, True)
    assert contact._trust.value.version > before.version
    assert published.load(state.directory).bundle == fabric.bundle != before.bundle
    assert set(fabric.trust_versions) == {contact._trust.value.version}


async def test_a_session_by_an_unpublished_issuer_leads_to_the_trust(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    await contact.attempt()
    fabric.nodes = authority("nodes 2", fabric.root)
    assert await contact.attempt(new_session=True)
    assert refreshes.asked == 1


async def test_an_unverified_server_refreshes_the_trust_once_in_ten_minutes(
    contact: Contact, fabric: Fabric, refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshes.make = lambda: contact._trust.value
    rotate(fabric)
    for _ in range(5):
        assert not await contact.attempt()
        assert contact.licence.verdict().gate_open
    assert refreshes.asked == 1
    monkeypatch.setattr(schedule, "trust_recovery_seconds", lambda node: 0.0)
    assert not await contact.attempt()
    assert refreshes.asked == 2


async def test_a_repository_out_of_reach_leaves_the_trust_as_it_was(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contact._trust.value

    async def refresh(_: Path, **_held: object) -> TrustSet:
        raise TrustUnreachable("cannot fetch the published trust")

    monkeypatch.setattr("node.trust.published.refresh", refresh)
    rotate(fabric)
    await contact.attempt()
    assert contact._trust.value is before
    assert contact.licence.verdict().gate_open


async def test_other_faults_of_a_certificate_do_not_lead_to_the_trust(
    contact: Contact, fabric: Fabric, refreshes: Refreshes, machine: Machine
) -> None:
    assert not await contact._recover_trust(CertificateRejected(3, "it does not name us"))
    assert refreshes.asked == 0


async def test_a_session_is_replaced_under_another_trust(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    await contact.attempt()
    opened = contact.connection.credentials
    await contact._trust.refresh()
    assert await contact.attempt()
    assert contact.connection.credentials is opened
    other = authority("services 2", fabric.root)
    more = msgspec.structs.replace(fabric.bundle, service_issuers=(fabric.services.der, other.der))
    refreshes.make = lambda: msgspec.structs.replace(trust_of(fabric), bundle=more, version=VERSION + 2)
    await contact._trust.refresh()
    assert await contact.attempt()
    replaced = contact.connection.credentials
    assert replaced is not opened
    assert await contact.attempt()
    assert contact.connection.credentials is replaced


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


async def test_a_renewal_that_is_refused_says_so(contact: Contact, fabric: Fabric) -> None:
    assert await contact.attempt()
    fabric.revoke()
    with pytest.raises(CloudRefused):
        await contact.renew_device(rekey=True)
    assert contact.licence.revoked


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


async def test_a_certificate_that_opens_no_session_is_renewed_with_evidence(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    before = contact.licence.identity
    fabric.taken = set()
    contact.conditions.report("device_renewal_failed", "an earlier renewal failed")
    await contact.attempt()
    assert contact.last_contact_at is not None
    assert contact.licence.identity.chain[0] in fabric.taken
    assert contact.conditions.current() == ()
    assert contact.licence.identity.node_key == before.node_key
    assert contact.licence.verdict().gate_open


async def test_a_superseded_node_with_an_expired_certificate_gets_its_revocation(
    contact: Contact, fabric: Fabric
) -> None:
    fabric.taken = set()
    fabric.revoke("superseded")
    await contact.attempt()
    assert contact.licence.revoked


async def test_slept_through_the_rotation_and_past_the_certificate(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    """The node's trust has neither the servers' issuers nor the issuer of its new certificate."""
    rotate(fabric)
    fabric.taken = set()
    await contact.attempt()
    assert (contact.last_contact_at is not None, refreshes.asked) == (True, 1)
    assert contact.licence.identity.chain[1] == fabric.nodes.der


async def test_a_renewal_that_is_refused_is_silence(contact: Contact, fabric: Fabric) -> None:
    fabric.taken = set()
    fabric.answers[PATH_RENEWALS] = refused("certificate_refused")
    await contact.attempt()
    assert (contact.failures, contact.last_contact_at) == (1, None)
    assert contact.licence.verdict().gate_open


async def test_a_pending_renewal_delays_no_contact(contact: Contact, fabric: Fabric) -> None:
    await contact.attempt()
    proofs: list[str] = []
    route = fabric._route

    async def away(request: Request) -> Reply:
        if not request.path.endswith("/proof"):
            return await route(request)
        proofs.append(request.path)
        return problem("unavailable")

    fabric._route = away  # type: ignore[method-assign]  # one route of it fails
    with pytest.raises(CloudUnreachable):
        await contact.renew_device(rekey=True)
    before = contact.licence.identity
    assert await contact.attempt()
    assert (contact.licence.identity, len(proofs)) == (before, 2)
    fabric._route = route  # type: ignore[method-assign]  # a simulator
    assert await contact.attempt()
    assert contact.licence.identity.node_key != before.node_key


async def test_a_renewal_with_an_unverified_answer_delays_no_contact(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    """The cloud would return the same bad certificate at every contact, until the lease ends."""
    await contact.attempt()
    route, issuing, early = fabric._route, fabric.nodes, authority("nodes 2", fabric.root)

    async def unpublished(request: Request) -> Reply:
        fabric.nodes = early if request.path.endswith("/proof") else issuing
        return await route(request)

    fabric._route = unpublished  # type: ignore[method-assign]  # a CA that has not been published yet
    present = contact._trust.value
    refreshes.make = lambda: present
    with pytest.raises(CertificateRejected):
        await contact.renew_device(rekey=True)
    before = contact.licence.identity
    assert await contact.attempt()
    assert contact.licence.identity == before
    bundle = contact._trust.value.bundle
    both = msgspec.structs.replace(bundle, node_issuers=(*bundle.node_issuers, early.der))
    contact._trust._value = msgspec.structs.replace(contact._trust.value, bundle=both)
    assert await contact.attempt()
    assert contact.licence.identity.node_key != before.node_key


async def test_a_rekey_ends_in_a_session_by_the_new_key(contact: Contact, fabric: Fabric) -> None:
    await contact.attempt()
    before, session = contact.licence.identity.node_key, contact.connection.credentials
    await contact.renew_device(rekey=True)
    assert await contact.attempt()
    assert contact.licence.identity.node_key != before
    assert contact.connection.credentials is not session


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
    fabric.answers["/"] = always(404)
    fabric.leaves["fabric"] = {
        "spiffe": lambda: fabric.service_leaf("breakwater"),
        "issuer": lambda: fabric.service_leaf("fabric", issuer=fabric.nodes),
        "expired": lambda: fabric.service_leaf("fabric", not_before=utc_now() - 2 * DAY, not_after=utc_now() - DAY),
    }[wrong]()
    assert not await contact.attempt()
    assert contact.licence.verdict().gate_open
    # A server whose certificate has expired is asked for its time, with a request that says nothing.
    asked = [(request.method, request.path, request.body, request.generation) for request in fabric.requests]
    assert asked == ([("HEAD", "/", b"", 0)] if wrong == "expired" else [])
    assert bool(fabric.received) == bool(asked)
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


async def test_a_pending_generation_is_confirmed_first(
    contact: Contact, fabric: Fabric, state: State, tpm: Tpm
) -> None:
    pending = identity(fabric, contact.licence.identity.ak, contact.licence.identity.node_key, 2)
    state.identities.save_generation(pending)
    await contact.attempt()
    assert await state.saver.flush() is None
    current = state.identities.current()
    assert current is not None
    assert (current.generation, contact.licence.identity.generation, fabric.confirmed) == (2, 2, 2)
    assert contact.licence.verdict().gate_open
    assert asked(fabric) == [NONCES, SESSIONS, CONFIRM, NONCES, SESSIONS]
    assert {request.generation for request in fabric.requests if request.path == CONFIRM} == {2}
    await contact.connection.close()


async def test_a_generation_that_cannot_be_confirmed_leaves_the_one_in_force(
    contact: Contact, fabric: Fabric, state: State
) -> None:
    state.identities.save_generation(
        identity(fabric, contact.licence.identity.ak, contact.licence.identity.node_key, 2)
    )
    fabric.answers[CONFIRM] = refused("activation_closed")
    await contact.attempt()
    assert (contact.licence.identity.generation, contact.licence.verdict().gate_open) == (1, True)
    await contact.connection.close()


async def test_cancelled_at_its_end_a_confirmation_still_counts(
    contact: Contact, fabric: Fabric, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.identities.save_generation(
        identity(fabric, contact.licence.identity.ak, contact.licence.identity.node_key, 2)
    )
    with monkeypatch.context() as patch, trio.move_on_after(1):
        patch.setattr(contact.connection, "close", trio.sleep_forever)
        await contact.attempt()
    assert contact.licence.identity.generation == 2


async def test_renewal_replaces_the_device_certificate(contact: Contact, fabric: Fabric, state: State) -> None:
    await contact.attempt()
    before = contact.licence.identity.chain
    contact.conditions.report("device_renewal_failed", "an earlier renewal failed")
    await contact.renew_device()
    assert contact.conditions.current() == ()
    stored = state.identities.current()
    assert stored is not None
    assert stored.chain == contact.licence.identity.chain != before
    assert fabric.requests[-1].service == "breakwater"
    await contact.connection.close()


async def test_a_wrong_device_certificate_replaces_nothing(
    contact: Contact, fabric: Fabric, machine: Machine, state: State
) -> None:
    await contact.attempt()
    before = contact.licence.identity.chain

    async def wrong(_: Request) -> Reply:
        return Reply(200, encode_certs_only(fabric.node_chain(machine.ak.public_key(), 1)[:1]))

    fabric.answers[PATH_SIMPLEREENROLL] = wrong
    with pytest.raises(CertificateRejected):
        await contact.renew_device()
    assert [each.code for each in contact.conditions.current()] == ["device_renewal_failed"]
    stored = state.identities.current()
    assert stored is not None
    assert stored.chain == contact.licence.identity.chain == before
    await contact.connection.close()


async def test_renewal_needs_a_session(contact: Contact) -> None:
    with pytest.raises(CloudUnreachable):
        await contact.renew_device()


def torn_current(state: State, _: Contact) -> None:
    (state.directory / "current.json").write_bytes(b"torn")


def empty_stray_generation(state: State, _: Contact) -> None:
    state.identities.generation_dir(99).mkdir()


def torn_newer_generation(state: State, contact: Contact) -> None:
    held, fabric_chain = contact.licence.identity, contact.licence.identity.chain
    state.identities.save_generation(msgspec.structs.replace(held, generation=2, chain=fabric_chain))
    (state.identities.generation_dir(2) / "identity.json").write_bytes(b"torn")


def generation_of_another_key(state: State, contact: Contact) -> None:
    """The certificate of generation 1 in the directory of generation 2."""
    state.identities.save_generation(msgspec.structs.replace(contact.licence.identity, generation=2))


def renewal_is_a_directory(state: State, _: Contact) -> None:
    (state.directory / "renewal.json").mkdir()


def torn_renewal(state: State, _: Contact) -> None:
    (state.directory / "renewal.json").write_bytes(b"torn")


LOCAL_FAULTS: dict[str, Callable[[State, Contact], None]] = {
    each.__name__: each
    for each in (
        torn_current,
        empty_stray_generation,
        torn_newer_generation,
        generation_of_another_key,
        renewal_is_a_directory,
        torn_renewal,
    )
}


@pytest.mark.parametrize("fault", LOCAL_FAULTS)
async def test_no_local_fault_stops_a_contact(contact: Contact, fabric: Fabric, state: State, fault: str) -> None:
    LOCAL_FAULTS[fault](state, contact)
    assert await contact.attempt()
    assert contact.licence.verdict().gate_open
    fabric.revoke()
    assert await contact.attempt()
    assert contact.licence.revoked


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("current_generation", "confirmation_failed"),
        ("generations", "confirmation_failed"),
        ("load_renewal", "renewal_interrupted"),
    ],
)
async def test_a_raw_error_of_the_system_is_a_condition(
    contact: Contact, fabric: Fabric, state: State, method: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(contact._state.identities, method, fails)
        fabric.say(fabric.suspension())
        assert await contact.attempt()
    assert contact.licence.verdict().state == "suspended"
    (condition,) = contact.conditions.current()
    assert (condition.code, "Input/output error" in condition.text) == (code, True)
    assert await contact.attempt()
    assert contact.conditions.current() == ()


async def test_a_frozen_disk_does_not_keep_the_cloud_from_being_heard(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed = threading.Event()
    monkeypatch.setattr("node.exchanges.contact.DISK_SECONDS_MAX", 0.1)
    monkeypatch.setattr("node.exchanges.renewal.DISK_SECONDS_MAX", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(contact._state.identities, "current_generation", lambda: thawed.wait(30))
        fabric.say(fabric.lease(entitlements=("new",)))
        try:
            with trio.fail_after(10):
                # The session brings the statement. Only storing it needs the disk.
                await contact._exchange_or_recover()
        finally:
            thawed.set()
    assert {each.code for each in contact.conditions.current()} >= {"confirmation_failed", "renewal_interrupted"}


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
