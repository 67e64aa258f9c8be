"""Revocation stops a node in every state: connected, running, off. Also suspension, release and readmission."""

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from lab.cloud import Cloud
from lab.processes import ended, wait_until
from lab.stranger import Stranger
from lab.tpm import SoftTpm
from node.trust import published
from node.trust.published import TrustSet
from protocol.messages.sessions import Ask, Events, Session, StatementAnswer
from protocol.problems import ProblemDocument
from protocol.signed.statements import Revocation, verify_statement
from tests.simulators.forged_evidence import request
from tests.system.support.harness import new_cloud, new_machine
from tests.system.support.paper_node import SESSIONS, PaperNode, paper_tenant, secret_of
from tests.system.support.wire import Wire, new_key, once, renew_device
from tests.waiting import stays_true

ASK = Ask("n" * 32)
SHORT_LEASE = "3,4,9,12"
"""Refresh after, expires at, grace until, terminate at, in seconds after the issue."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, installation: Cloud) -> Iterator[Cloud]:
    """One cloud for this module. Every test makes its own nodes."""
    copy = new_cloud(tmp_path_factory.mktemp("revocation")).copy_from(installation)
    with ended(copy):
        copy.up()
        yield copy


@pytest.fixture(scope="module")
def paper(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The code of a tenant that trusts simulated chips."""
    tenant = paper_tenant(cloud, tmp_path_factory.mktemp("paper"))
    return secret_of(cloud.code(tenant, "--seats", "20"))


def revocation_in(cloud: Cloud, problem: ProblemDocument, directory: Path) -> Revocation:
    """The revocation in a refusal, verified with the published keys."""
    machine = directory / "published"
    file = cloud.code(str(cloud.run("tenant", "list")[0]["id"]))
    trusted = _bootstrap(file, machine)
    statement = verify_statement(problem.statement, trusted.signing_keys, trusted.bundle.trust_domain).statement
    assert isinstance(statement, Revocation)
    return statement


def _bootstrap(file: Path, directory: Path) -> TrustSet:
    import trio

    from node.exchanges.activation_file import read_activation_file

    parsed, _ = read_activation_file(file)
    return trio.run(published.stage, parsed.repository_url, parsed.pin, directory).value


# A node with an open connection


def test_a_revoked_node_is_refused_at_its_next_request_on_the_same_connection(
    cloud: Cloud, paper: str, tmp_path: Path
) -> None:
    node = PaperNode(cloud, "kept alive").join(paper)
    session = node.session()
    stranger, device = Stranger(cloud, tmp_path / "stranger"), x509.load_der_x509_certificate(node.device)
    assert (stranger.asks(device).ocsp, stranger.asks(device).on_crl) == ("good", False)
    with Wire(cloud, "fabric", session) as fabric, Wire(cloud, "breakwater", session) as breakwater:
        fabric.ask("POST", "/v1/node/statement", ASK).into(StatementAnswer)
        assert renew_device(breakwater, request(node.node_key)).status == 200
        cloud.run("node", "revoke", node.node, "--reason", "returned")
        problem = fabric.ask("POST", "/v1/node/statement", ASK).refused("generation_closed")
        # Breakwater refuses as soon as Fabric has closed the generation there. The benchmark `revocation` measures it.
        closed = "SELECT closed_up_to FROM closing WHERE node = ?"
        wait_until("the closing at Breakwater", lambda: cloud.rows("breakwater", closed, node.node) == [(1,)])
        revocation = revocation_in(cloud, problem, tmp_path)
        assert (revocation.node, revocation.generation, revocation.reason) == (node.node, 1, "revoked")
        # Every route refuses, and the connection stays open.
        fabric.ask("GET", "/v1/node/events?cursor=0&wait=0").refused("generation_closed")
        fabric.ask("POST", "/v1/node/confirm", ASK).refused("generation_closed")
        renew_device(breakwater, request(node.node_key)).refused("generation_closed")
    at_once = stranger.asks(device)
    assert (at_once.ocsp, at_once.on_crl) == ("revoked", True)
    # A new session proof gets the same revocation with new freshness for its nonce, and no session.
    problem = once(cloud, "fabric", "POST", SESSIONS, node.open_session(request(new_key()))).refused(
        "generation_closed"
    )
    assert problem.freshness
    assert revocation_in(cloud, problem, tmp_path) == revocation
    valid = "SELECT count(*) FROM certificate WHERE node = ? AND profile = 'device' AND state = 'issued'"
    assert cloud.rows("breakwater", valid, node.node) == [(0,)]


def test_a_change_ends_a_waiting_poll(cloud: Cloud, paper: str) -> None:
    """Without the change each poll would wait 30 s. The benchmark `revocation` measures how fast the change arrives."""
    node = PaperNode(cloud, "waiting").join(paper)
    session = node.session()
    for action in ("suspend", "resume", "suspend", "resume"):
        cursor = once(cloud, "fabric", "GET", "/v1/node/events", None, session).into(Events).cursor
        with Wire(cloud, "fabric", session) as wire:
            cursors: list[int] = []
            wire.begin("GET", f"/v1/node/events?cursor={cursor}&wait=30")

            def poll(wire: Wire = wire, cursors: list[int] = cursors) -> None:
                cursors.append(wire.answer().into(Events).cursor)

            poller = threading.Thread(target=poll)
            poller.start()
            cloud.run("node", action, node.node)
            poller.join(10)
            assert cursors, "the change did not end the poll"
            assert cursors[0] > cursor
    # A suspension closes no generation: the same session worked throughout.
    assert cloud.run("node", "show", node.node)["node"]["standing"] == "active"


# A running agent


def test_a_suspended_node_keeps_its_session_and_is_resumed(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    # With ten minutes between heartbeats, the agent learns of every change in this test from the wake channel.
    machine = new_machine(tmp_path, chips[0], heartbeat_seconds=600)
    with ended(machine):
        tenant = cloud.tenant(chips[0], "suspended")
        node = machine.run("activate", str(cloud.code(tenant)))["node"]
        machine.up()
        sessions = "SELECT count(*) FROM certificate WHERE node = ? AND profile = 'session'"
        wait_until("the agent's first contact", lambda: machine.ask("/v1/status")["last_contact_at"])
        before = cloud.rows("breakwater", sessions, node)
        for action, state in (("suspend", "suspended"), ("resume", "active")):
            cloud.run("node", action, node, "--reason", "invoice overdue")
            machine.wait_state(state)
            assert machine.granted() is (state == "active")
        assert cloud.rows("breakwater", sessions, node) == before
        machine.run("entitlement", "vision", expect=0)
        cloud.run("node", "suspend", node, "--reason", "invoice overdue")
        machine.wait_state("suspended")
        machine.run("entitlement", "vision", expect=3)
        status = machine.run("status", expect=82)
        assert "invoice overdue" in status["license"]["reason"]
        # After a restart the agent is still suspended.
        assert machine.down() == 0
        machine.up()
        machine.wait_state("suspended")
        cloud.run("node", "resume", node)
        machine.wait_state("active")


def test_a_node_that_was_revoked_while_it_was_off_does_not_start(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    machine = new_machine(tmp_path, chips[0])
    saved = tmp_path / "saved"
    with ended(machine):
        tenant = cloud.tenant(chips[0], "revoked")
        node = machine.run("activate", str(cloud.code(tenant)))["node"]
        machine.up()
        assert machine.down() == 0
        shutil.copytree(machine.state, saved)
        cloud.run("node", "revoke", node)
        try:
            assert machine.launch().wait() == 81, "cloud up"
            cloud.down()
            assert machine.launch().wait() == 81, "cloud stopped"
            assert (machine.state / "tombstones" / "g-1.json").exists()
            put_back(saved, machine.state, but="tombstones")
            assert machine.launch().wait() == 81, "old licence files, cloud stopped"
            put_back(saved, machine.state)
            assert not (machine.state / "tombstones").exists()
            old = machine.run("status", expect=85)
            assert (old["license"]["state"], old["license"]["gate"]) == ("stale", "closed"), "the counter is above it"
        finally:
            cloud.up()
        assert machine.launch().wait() == 81, "old state directory, cloud up"
        document = machine.run("status", expect=81)
        assert document["license"]["gate"] == "closed"


def put_back(saved: Path, state: Path, but: str = "") -> None:
    """Restore the saved state directory, except the entry named `but`."""
    for path in state.iterdir():
        if path.name != but:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in saved.iterdir():
        assert path.name != but, "the saved directory must not have this entry"
        shutil.copytree(path, state / path.name) if path.is_dir() else shutil.copy2(path, state)


@pytest.mark.long(12, "test_revocation.py")
def test_an_offline_machine_runs_to_the_dates_of_its_lease(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    machine = new_machine(tmp_path, chips[0])
    with ended(machine):
        tenant = cloud.tenant(chips[0], "offline")
        machine.run("activate", str(cloud.code(tenant, "--lease-seconds", SHORT_LEASE)))
        cloud.down()
        try:
            machine.up()
            assert machine.granted()
            status = machine.run("status", expect=None)
            bound = datetime.fromisoformat(status["offline_bound_at"])
            assert bound == datetime.fromisoformat(status["license"]["lease"]["terminate_at"])
            assert "offline_bound_at" in status["limits"]
            assert "T-90" in status["floor"]["undefended"]
            machine.wait_state("restricted", seconds=30)
            assert machine.granted()
            assert machine.ask("/v1/license")["new_work"] is False
            machine.wait_state("terminated", seconds=30)
            assert datetime.now(UTC) >= bound
            assert not machine.granted()
            machine.run("entitlement", "vision", expect=3)
            machine.run("status", expect=83)
        finally:
            cloud.up()


def test_a_node_that_is_revoked_while_it_runs_closes_the_gate_and_stays_up(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    machine = new_machine(tmp_path, chips[0])
    with ended(machine):
        tenant = cloud.tenant(chips[0], "running")
        node = machine.run("activate", str(cloud.code(tenant)))["node"]
        # Two of the three records of a revocation cannot be written.
        (machine.state / "tombstones").write_bytes(b"")
        (machine.state / "licence" / "g-1").rename(machine.state / "licence" / "saved")
        (machine.state / "licence" / "g-1").write_bytes(b"")
        agent = machine.up()
        assert machine.granted()
        cloud.run("node", "revoke", node)
        machine.wait_state("revoked", seconds=5)
        conditions = {one["code"]: one["text"] for one in machine.ask("/v1/status")["conditions"]}
        assert "tombstones" in conditions["not_stored"]
        assert "another record has it" in conditions["not_stored"]
        assert not machine.granted()
        machine.run("entitlement", "vision", expect=3)
        stays_true("the agent runs", lambda: agent.running, 1)
        assert machine.down() == 0
        # Root puts the old lease back and points at it. The cloud cannot be reached.
        (machine.state / "licence" / "g-1").unlink()
        (machine.state / "licence" / "saved").rename(machine.state / "licence" / "g-1")
        cloud.down()
        try:
            assert machine.launch().wait() == 81
        finally:
            cloud.up()


# Seats and readmission


def test_a_release_frees_the_seat_at_once_and_a_new_chip_takes_it(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    first, second = new_machine(tmp_path, chips[0], "first"), new_machine(tmp_path, chips[1], "second")
    with ended(first, second):
        tenant = cloud.tenant(chips[0], "one seat")
        file = str(cloud.code(tenant, "--seats", "1"))
        node = first.run("activate", file)["node"]
        assert refusal(second.run("activate", file, expect=77)) == "seats_exhausted"
        released = cloud.run("node", "release", node)
        assert (released["standing"], released["seat_held"]) == ("released", False)
        other = second.run("activate", file)["node"]
        assert other != node
        assert [code["seats_taken"] for code in cloud.run("code", "list", tenant)] == [1]
        assert first.launch().wait() == 81
        document = first.run("status", expect=81)
        assert "released" in document["license"]["reason"]
        # The released node has no seat, and the only seat belongs to the other node.
        assert refusal(first.run("activate", file, expect=77)) == "seats_exhausted"


def test_only_a_readmission_code_readmits_a_revoked_node(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    """The agent runs all the time, and lends its state to each `cascadia activate`."""
    machine, other = new_machine(tmp_path, chips[0], "revoked"), new_machine(tmp_path, chips[1], "other")
    with ended(machine, other):
        tenant = cloud.tenant(chips[0], "readmitted")
        old = str(cloud.code(tenant, "--seats", "9"))
        activated = machine.run("activate", old)
        node = activated["node"]
        early = (
            "code",
            "create",
            tenant,
            "--readmit",
            node,
            "--entitlement",
            "vision",
            "--out",
            str(tmp_path / "early"),
        )
        refused = cloud.run(*early, expect=77)
        assert refusal(refused) == "conflict"
        assert "active, not revoked" in refused["error"]["text"]
        agent = machine.up()
        cloud.run("node", "revoke", node)
        machine.wait_state("revoked")
        assert refusal(machine.run("activate", old, expect=77)) == "node_revoked"
        assert refusal(machine.run("activate", str(cloud.code(tenant)), expect=77)) == "node_revoked"
        readmit = str(cloud.code(tenant, "--readmit", node))
        assert refusal(other.run("activate", readmit, expect=77)) == "code_refused"
        again = machine.run("activate", readmit)
        assert (again["node"], again["generation"]) == (node, activated["generation"] + 1)
        machine.wait_state("active")
        assert machine.granted()
        assert agent.running
        detail = cloud.run("node", "show", node)
        assert detail["node"]["standing"] == "active"
        assert {g["number"]: g["state"] for g in detail["generations"]} == {1: "closed", 2: "confirmed"}


def refusal(document: Any) -> str:
    """The code of a refusal, which must have a text and a next step."""
    error = document["error"]
    assert error["next"]
    assert error["text"]
    return str(error["code"])


def test_a_suspension_is_carried_over_to_the_next_generation(cloud: Cloud, paper: str) -> None:
    node = PaperNode(cloud, "suspended").join(paper)
    cloud.run("node", "suspend", node.node)
    node.join(paper)
    answer = once(cloud, "fabric", "POST", "/v1/node/statement", ASK, node.session()).into(StatementAnswer)
    payload = msgspec.json.decode(_payload(answer.statement))
    assert "refresh_after" not in payload
    assert payload["generation"] == 2
    body = node.open_session(request(new_key()))
    assert once(cloud, "fabric", "POST", SESSIONS, body).into(Session).current.statement == answer.statement


def _payload(token: str) -> bytes:
    from protocol.encoding import b64url_decode

    return b64url_decode(token.split(".")[1])
