"""Table of recoveries: a node comes back by a contact with the cloud, by a carried file, or by an operator's settlement.

The rows are an expired device certificate, a machine that is restored from a backup, a copied machine, and a suspension.
`tests.system.support.recoveries` describes a row.
"""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.machine import Machine
from tests.system.support.copies import Copies
from tests.system.support.device_certificate import device, expire
from tests.system.support.harness import new_machine
from tests.system.support.recoveries import REVOKED, SUSPENDED, Place, state_of

DAMAGED = 65


def certificate_expired(place: Place) -> None:
    """The device certificate expired while the machine was off. It renews with fresh evidence, as the same generation."""
    machine, node = place.activated()
    over = expire(place.cloud, machine)
    shown = machine.run("recover", "--no-wait")
    assert (shown["outcome"], shown["way"]) == ("renewed", "renewal"), shown
    assert shown["sentence"].startswith(f"This machine is node {node}"), shown["sentence"]
    renewed = device(machine)
    assert renewed.not_valid_after_utc > datetime.now(UTC)
    assert renewed.public_key() == over.public_key(), "the renewal has changed the node key"
    place.check(machine, node, 1)
    for action in ("renewal.challenged", "renewal.proved", "renewal.issued"):
        assert len(place.audited(action)) == 1, action


def certificate_of_a_superseded_generation(place: Place) -> None:
    """The certificate of a generation that was replaced has expired. The renewal is refused, with the true reason."""
    machine, node = place.activated()
    again = place.machine("reinstalled")
    file = place.directory / "recovery.json"
    place.recovery("codes", "issue", "--node", node, "--recovery-file", str(file))
    assert again.run("recover", "--no-wait", "--file", str(file))["outcome"] == "recovered"
    over = expire(place.cloud, machine)
    assert machine.launch().wait() == REVOKED
    status = machine.run("status", expect=REVOKED)["license"]
    assert (status["gate"], "superseded" in status["flags"]) == ("closed", True), status
    shown = place.refused(machine, outcome="superseded", expect=REVOKED)
    assert shown["sentence"].startswith(f"Node {node} was activated again elsewhere"), shown["sentence"]
    assert device(machine) == over
    assert not place.audited("renewal.issued")
    place.check(again, node, 2)


def _virtual_machine(place: Place) -> Copies:
    """A machine whose disk and TPM can be copied and put back. It runs, and has opened a session."""
    machine = new_machine(place.directory, place.chips[0], "original")
    place.machines.append(machine)
    node = str(machine.run("activate", str(place.file))["node"])
    copies = Copies(place.cloud, place.directory, place.tenant, machine, node)
    copies.session(machine)
    return copies


def _put_back(copies: Copies, name: str, states: tuple[str, ...] = ("active",)) -> None:
    """Put the machine back to a snapshot from before two sessions, and let it open a session."""
    snapshot = copies.snapshot(name)
    for _ in range(2):  # after one session the snapshot's token could be that of a lost answer
        assert copies.session(copies.machine) == "active"
    copies.put_back(snapshot)
    copies.session(copies.machine, *states)


def restored_from_a_backup(place: Place) -> None:
    """A virtual machine is put back from a backup. It is repaired without a person, and the audit says so."""
    copies = _virtual_machine(place)
    machine, node = copies.machine, copies.node
    _put_back(copies, "backup")
    assert copies.case() is None
    _check_repairs(copies)
    shown = machine.run("recover")
    assert (shown["outcome"], shown["exit_code"]) == ("not_needed", 0), shown
    assert shown["sentence"].endswith("; it needs no recovery."), shown["sentence"]
    machine.down()
    place.check(machine, node, 1)
    assert copies.actions().count("node.restored") == 1


def _check_repairs(copies: Copies) -> None:
    used = copies.cloud.run("node", "show", copies.node)["repairs"]
    assert (used["used"], used["allowed"]) == (1, 1), f"the repairs are {used}"


def restored_once_more(place: Place) -> None:
    """The second restore in the period runs on to the dates of its lease, and waits for an operator, who settles it."""
    copies = _virtual_machine(place)
    machine, node = copies.machine, copies.node
    _put_back(copies, "first backup")
    ends = machine.ask("/v1/license")["lease"]["terminate_at"]
    _put_back(copies, "second backup", ("grace",))
    status = machine.ask("/v1/license")
    assert "clone-suspected" in status["flags"], status
    assert (machine.granted(), status["lease"]["terminate_at"] >= ends) == (True, True), status
    case = copies.case()
    assert case is not None, "the restore is not shown to the operator"
    states = [each["state"] for each in case["evidence"]]
    assert (case["cause"], states) == ("restored", ["current", "older", "left"]), case
    _check_repairs(copies)
    copies.cloud.run("node", "settle", node, "--keep", case["evidence"][1]["id"])
    assert copies.session(machine) == "active"
    assert copies.case() is None
    machine.down()
    place.check(machine, node, 1)
    actions = copies.actions()
    for action in ("node.restored", "node.restore_unapproved", "node.clone_settled"):
        assert actions.count(action) == 1, actions


def _copied(copies: Copies, twin: Machine) -> tuple[Any, Any]:
    """Let both machines of one TPM's state run. Returns the evidence of the current one and of the older one."""
    for each in (copies.machine, twin, copies.machine):
        assert copies.session(each) == "active"
    copies.session(twin, "grace")
    case = copies.case()
    assert case is not None, "no clone is suspected"
    current, older = case["evidence"]
    assert (case["cause"], current["state"], older["state"]) == ("renewal-token", "current", "older"), case
    return current, older


def clone_settled(place: Place) -> None:
    """Two machines of one TPM's state run. The operator sees the evidence of both and keeps one; the other one stops."""
    copies = _virtual_machine(place)
    machine, node = copies.machine, copies.node
    with copies.copy(copies.snapshot("copied"), "twin") as twin:
        current, _ = _copied(copies, twin)
        machine.wait_state("grace")
        assert "clone-suspected" in machine.ask("/v1/license")["flags"]
        copies.cloud.run("node", "settle", node, "--keep", current["id"])
        machine.wait_state("active")
        twin.wait_state("suspended")
        assert (machine.granted(), twin.granted()) == (True, False), "not exactly one machine runs"
        assert copies.case() is None
        machine.down()
        place.check(machine, node, 1)
        actions = copies.actions()
        assert (actions.count("node.clone_suspected"), actions.count("node.clone_settled")) == (1, 1), actions


def clone_that_lost_asks_again(place: Place) -> None:
    """The customer keeps the older machine. The other one asks again and again, and stays suspended."""
    copies = _virtual_machine(place)
    machine, node = copies.machine, copies.node
    with copies.copy(copies.snapshot("copied"), "twin") as twin:
        _, older = _copied(copies, twin)
        copies.cloud.run("node", "settle", node, "--keep", older["id"])
        twin.wait_state("active")
        for _ in range(2):
            assert copies.session(machine, "suspended") == "suspended"
            assert not machine.granted()
        status = machine.run("status", expect=SUSPENDED)["license"]
        assert status["gate"] == "closed", status
        assert "another copy of this machine was kept; this copy needs a TPM of its own" in status["reason"], status
        assert twin.granted(), "the machine that was kept stops"
        machine.down()
        twin.down()
        place.check(twin, node, 1)


def suspended_while_it_runs(place: Place) -> None:
    """A running agent hears the suspension and, after the payment, the resume. A renewal in between does not help."""
    machine, node = place.activated()
    machine.up()
    place.cloud.run("node", "suspend", node, "--reason", "unpaid")
    machine.wait_state("suspended")
    assert not machine.granted()
    assert machine.run("renew", expect=SUSPENDED)["state"] == "suspended"
    place.cloud.run("node", "resume", node, "--reason", "paid")
    machine.wait_state("active")
    assert machine.granted()
    machine.down()
    place.check(machine, node, 1)
    assert [len(place.audited(f"node.{what}")) for what in ("suspend", "resume")] == [1, 1]


def suspended_by_file(place: Place) -> None:
    """A machine without a network gets the suspension and the resume by file. An earlier answer does not end either."""
    machine, node = place.activated()
    early = _answer(place, machine)
    place.cloud.run("node", "suspend", node, "--reason", "unpaid")
    answer = _answer(place, machine, "--new")
    before = _kept(machine)
    refused = machine.run("license", "import", str(early), expect=DAMAGED)["error"]
    assert refused["code"] == "airgap_answer_outdated", refused
    assert refused["next"]
    assert _kept(machine) == before
    assert machine.run("license", "import", str(answer), expect=SUSPENDED)["state"] == "suspended"
    assert machine.run("status", expect=SUSPENDED)["license"]["gate"] == "closed"
    place.cloud.run("node", "resume", node, "--reason", "paid")
    paid = _answer(place, machine)
    assert machine.run("license", "import", str(paid))["state"] == "active"
    assert machine.run("license", "import", str(paid), expect=DAMAGED)["error"]["code"] == "airgap_answer_used"
    place.check(machine, node, 1)
    assert len(place.audited("airgap.answered")) == 3


def _kept(machine: Machine) -> dict[str, bytes]:
    """The state of a machine without the kept time, which every command may write."""
    return {name: content for name, content in state_of(machine).items() if not name.endswith("time.json")}


def _answer(place: Place, machine: Machine, *options: str) -> Path:
    """The operators' answer to a request of the machine, both in files."""
    request, answer = (place.directory / f"carried-{what}" for what in ("request", "answer"))
    for path in (request, answer):
        path.unlink(missing_ok=True)
    machine.run("request", *options, "--out", str(request))
    place.cloud.run("airgap", "answer", str(request), "--out", str(answer))
    return Path(shutil.copy(answer, place.directory / f"answer-{len(list(place.directory.glob('answer-*')))}"))


ROWS: dict[str, Callable[[Place], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        certificate_expired,
        certificate_of_a_superseded_generation,
        restored_from_a_backup,
        restored_once_more,
        clone_settled,
        clone_that_lost_asks_again,
        suspended_while_it_runs,
        suspended_by_file,
    )
}
