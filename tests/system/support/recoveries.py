"""Table of recoveries on real services and software TPMs: every mishap of a machine, and its failing twins.

A row is a function over a `Place`: a tenant of a running cloud, and machines with simulated serial numbers. It raises
AssertionError with what was wrong. `tests/drills/recoveries.py` runs every row, `tests/system/test_recovery.py` one.
"""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import wait_until
from lab.tpm import SoftTpm
from protocol.codes import make_recovery_code
from tests.system.support.harness import Plan
from tests.system.support.software_machine import NO_TPM, hardware

USAGE, REFUSED, REVOKED, SUSPENDED, TPM, WAITS = 2, 77, 81, 82, 87, 88


class Place:
    """One row's tenant and machines. `chips` are two chips of one maker; a row may clear both."""

    def __init__(self, directory: Path, cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], name: str) -> None:
        self.directory = directory
        self.cloud = cloud
        self.chips = chips
        self.tenant = cloud.tenant(chips[0], name)
        self._hardware: dict[int, Plan] = {}
        self.machines: list[Machine] = []
        self._files = 0
        self.file = cloud.code(self.tenant, "--seats", "1")

    def machine(self, name: str, chip: int = 0, parts: int = 1) -> Machine:
        """A machine with this chip. `parts` is the number of its board and disk."""
        if parts not in self._hardware:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._hardware[parts] = hardware(self.directory, parts)
        made = Machine(self.directory, self.chips[chip], name, 2, start=self._hardware[parts])
        self.machines.append(made)
        return made

    def activated(self) -> tuple[Machine, str]:
        """A machine that was activated and has run. Returns it with its node."""
        machine = self.machine("first")
        machine.run("activate", str(self.file))
        machine.up()
        assert machine.granted()
        machine.down()
        return machine, str(machine.run("status")["license"]["node"])

    def repaired(self, machine: Machine, parts: int = 1) -> Machine:
        """The machine with another board and TPM, and with a copy of its disk."""
        other = self.machine(f"repaired-{len(self.machines)}", chip=1, parts=parts)
        shutil.copytree(machine.state, other.state)
        return other

    def recovery(self, *argv: str, expect: int = 0) -> Any:
        """Run `cascade recovery`."""
        return self.cloud.run("recovery", *argv, expect=expect)

    def code(self, *scope: str) -> Path:
        """Issue a recovery code. Returns the file with its text."""
        (made,) = self.recovery("codes", "issue", *scope)["codes"]
        self._files += 1
        path = self.directory / f"code-{self._files}"
        path.write_text(made["secret"])
        return path

    def waits(self, machine: Machine, *argv: str) -> str:
        """Recover without a code, and return the id of the case that waits."""
        shown = machine.run("recover", "--no-wait", *argv, expect=WAITS)
        case = str(shown["case"]["case"])
        assert shown["sentence"].startswith(f"Recovery {case} of ")
        assert " waits for an operator's approval" in shown["sentence"]
        return case

    def refused(self, machine: Machine, *argv: str, outcome: str, expect: int = REFUSED) -> Any:
        """Recover, and have it refused. The state directory and the seats stay as they were."""
        before = state_of(machine)
        shown = machine.run("recover", "--no-wait", *argv, expect=expect)
        assert shown["outcome"] == outcome, shown
        assert shown["sentence"].endswith(".")
        assert shown["next"]
        assert state_of(machine) == before
        return shown

    def check(self, machine: Machine, node: str, generation: int) -> None:
        """The machine is the node in this generation, runs, and holds the only seat. Older generations are closed."""
        status = machine.run("status")["license"]
        assert (status["node"], status["generation"], status["gate"]) == (node, generation, "open"), status
        machine.up()
        assert machine.granted()
        machine.down()
        self.check_seats()
        open_generations = self.cloud.rows(
            "fabric",
            f"SELECT g.number FROM generation g JOIN node n ON n.id = g.node WHERE n.id = '{node}' "  # noqa: S608
            "AND g.number > n.closed_up_to AND g.state != 'closed'",
        )
        assert open_generations == [(generation,)], open_generations

    def check_seats(self) -> None:
        """One node, one seat."""
        assert [code["seats_taken"] for code in self.cloud.run("code", "list", self.tenant)] == [1]
        assert len(self.cloud.rows("fabric", f"SELECT id FROM node WHERE tenant = '{self.tenant}'")) == 1  # noqa: S608

    def audited(self, action: str) -> list[dict[str, Any]]:
        """The audit entries of an action in this tenant."""
        entries = self.cloud.run("audit", "list", "--tenant", self.tenant)
        return [each for each in entries if each["action"] == action]

    def end(self) -> None:
        """Kill the agents."""
        for machine in self.machines:
            machine.kill()


def state_of(machine: Machine) -> dict[str, bytes]:
    """The files of a state directory, without the two that every command makes which owns the directory."""
    if not machine.state.exists():
        return {}
    own = {machine.state / "lock", machine.state / "version"}
    files = (path for path in machine.state.rglob("*") if path.is_file() and path not in own)
    return {str(path.relative_to(machine.state)): path.read_bytes() for path in files}


def cleared_with_a_code(place: Place) -> None:
    """The TPM was cleared: a code, the same node, the same seat."""
    machine, node = place.activated()
    place.chips[0].clear()
    shown = machine.run("recover", "--no-wait", "--code-file", str(place.code("--node", node)))
    assert (shown["outcome"], shown["found"]["tpm"]) == ("recovered", "cleared")
    assert shown["sentence"].startswith(f"This machine is node {node} again, licensed until ")
    place.check(machine, node, 2)
    assert place.audited("recovery.code_used")


def reinstalled_with_a_file(place: Place) -> None:
    """The disk was lost: a recovery file names the cloud and the node, and has the code."""
    machine, node = place.activated()
    shutil.rmtree(machine.state)
    shown = place.refused(machine, outcome="file_needed", expect=USAGE)
    assert shown["found"]["directory"] == "lost"
    file = place.directory / "recovery.json"
    place.recovery("codes", "issue", "--node", node, "--recovery-file", str(file))
    assert machine.run("recover", "--no-wait", "--file", str(file))["outcome"] == "recovered"
    place.check(machine, node, 2)


def reinstalled_and_approved(place: Place) -> None:
    """The disk was lost, and there is no code: the machine names its node and proves its chip. A person approves."""
    machine, node = place.activated()
    shutil.rmtree(machine.state)
    place.refused(machine, "--file", str(place.file), outcome="node_needed", expect=USAGE)
    case = place.waits(machine, "--file", str(place.file), "--node", node)
    assert machine.run("status", expect=WAITS)["license"]["state"] == "pending"
    assert place.waits(machine) == case
    place.recovery("approve", case)
    assert machine.run("recover", "--no-wait")["outcome"] == "recovered"
    place.check(machine, node, 2)
    assert place.recovery("show", case)["state"] == "consumed"


def denied(place: Place) -> None:
    """A person denies. The machine reads the reason, and nothing changes."""
    machine, node = place.activated()
    place.chips[0].clear()
    case = place.waits(machine)
    place.recovery("deny", case, "--reason", "not our machine")
    shown = machine.run("recover", "--no-wait", expect=REFUSED)
    assert "not our machine" in shown["sentence"], shown
    place.check_seats()
    assert place.recovery("show", case)["node"] == node


def replaced_and_approved(place: Place) -> None:
    """The board was replaced. After an approval the old machine stops, and its return is shown as a clone."""
    machine, node = place.activated()
    other = place.repaired(machine)
    case = place.waits(other)
    place.recovery("approve", case)
    shown = other.run("recover", "--no-wait")
    assert (shown["outcome"], shown["found"]["tpm"]) == ("recovered", "other")
    place.check(other, node, 2)
    # Kept offline, the old machine runs to the published end of the overlap, and no longer.
    offline = machine.run("status")["license"]
    overlap = datetime.fromisoformat(place.recovery("show", case)["overlap_until"])
    assert (offline["gate"], datetime.fromisoformat(offline["lease"]["terminate_at"])) == ("open", overlap)
    old = machine.run("renew", expect=REVOKED)
    assert (old["state"], old["gate"]) == ("revoked", "closed")
    assert node in [each["node"] for each in place.cloud.run("node", "clones")]
    assert machine.run("recover", "--no-wait", expect=REVOKED)["outcome"] == "superseded"


def replaced_on_grace(place: Place) -> None:
    """The tenant has a quota, and asks for no silence: a grace lease at once, and an approval makes it whole."""
    place.recovery("policy", place.tenant, "--grace-quota", "1", "--silence-minutes", "0")
    machine, node = place.activated()
    other = place.repaired(machine)
    shown = other.run("recover", "--no-wait")
    assert shown["outcome"] == "recovered_on_grace", shown
    case = shown["license"]["lease"]["recovery"]
    assert f"the recovery {case} still needs" in shown["sentence"]
    other.up()
    assert (other.licence, other.granted()) == ("recovery-pending", True)
    place.recovery("approve", case)
    other.wait_state("active", "refresh-due")
    other.down()
    place.check(other, node, 2)


def grace_denied(place: Place) -> None:
    """A denial ends the grace lease: its generation is revoked."""
    place.recovery("policy", place.tenant, "--grace-quota", "1", "--silence-minutes", "0")
    machine, _ = place.activated()
    other = place.repaired(machine)
    case = other.run("recover", "--no-wait")["license"]["lease"]["recovery"]
    place.recovery("deny", case, "--reason", "not our machine")
    shown = other.run("renew", expect=REVOKED)
    assert shown["gate"] == "closed"


def quota_used_up(place: Place) -> None:
    """The second replaced board in the period waits for a person."""
    place.recovery("policy", place.tenant, "--grace-quota", "1", "--silence-minutes", "0")
    machine, node = place.activated()
    other = place.repaired(machine)
    case = other.run("recover", "--no-wait")["license"]["lease"]["recovery"]
    place.recovery("approve", case)
    other.up()
    other.wait_state("active", "refresh-due")
    other.down()
    place.chips[0].clear()
    third = place.machine("third", chip=0)
    shutil.copytree(other.state, third.state)
    again = place.waits(third)
    assert again != case
    assert place.recovery("show", again)["node"] == node


def wrong_code(place: Place) -> None:
    """A wrong code is refused, consumes nothing, and is in the audit. The right one works afterwards."""
    machine, node = place.activated()
    place.chips[0].clear()
    right = place.code("--node", node)
    shown = machine.run("recover", "--no-wait", "--code-file", str(_another_code(place)), expect=REFUSED)
    assert shown["outcome"] == "recovery_code_refused"
    assert [each for each in place.cloud.run("audit", "list") if each["action"] == "recovery.code_refused"]
    assert machine.run("recover", "--no-wait", "--code-file", str(right))["outcome"] == "recovered"
    place.check(machine, node, 2)


def _another_code(place: Place) -> Path:
    """A code in the right form that the cloud has never issued."""
    path = place.directory / "invented"
    path.write_text(make_recovery_code(b"invented code"))
    return path


def code_issued_again(place: Place) -> None:
    """The second code of a node in a period is accepted only after a delay, and the machine reads the time."""
    machine, node = place.activated()
    place.chips[0].clear()
    place.code("--node", node)
    again = place.code("--node", node)
    shown = machine.run("recover", "--no-wait", "--code-file", str(again), expect=REFUSED)
    assert shown["outcome"] == "recovery_code_refused"
    assert "it may be tried again from " in shown["sentence"], shown
    assert place.recovery("list")["delayed_codes"]


def code_used_twice(place: Place) -> None:
    """A code works once."""
    machine, node = place.activated()
    place.chips[0].clear()
    code = place.code("--node", node)
    assert machine.run("recover", "--no-wait", "--code-file", str(code))["outcome"] == "recovered"
    place.chips[0].clear()
    shown = machine.run("recover", "--no-wait", "--code-file", str(code), expect=REFUSED)
    assert shown["outcome"] == "recovery_code_refused"
    place.check_seats()


def code_of_another_node(place: Place) -> None:
    """A code of another node is refused."""
    machine, node = place.activated()
    place.chips[0].clear()
    elsewhere = place.machine("elsewhere", chip=1, parts=2)
    elsewhere.run("activate", str(place.cloud.code(place.tenant, "--seats", "1")))
    other_node = str(elsewhere.run("status")["license"]["node"])
    shown = machine.run("recover", "--no-wait", "--code-file", str(place.code("--node", other_node)), expect=REFUSED)
    assert shown["outcome"] == "recovery_code_refused"
    assert other_node != node


def revoked_meanwhile(place: Place) -> None:
    """The operator revokes the node while its recovery waits. Nothing is recovered."""
    machine, node = place.activated()
    place.chips[0].clear()
    place.waits(machine)
    place.cloud.run("node", "revoke", node, "--reason", "table")
    shown = machine.run("recover", "--no-wait", expect=REFUSED)
    assert shown["outcome"] in ("node_revoked", "recovery_refused"), shown
    assert machine.run("status", expect=None)["license"]["gate"] == "closed"


def wrong_machine(place: Place) -> None:
    """Another chip, other parts, and only the id of the node: the fingerprint does not match, so it is refused."""
    _, node = place.activated()
    stranger = place.machine("stranger", chip=1, parts=2)
    shown = stranger.run("recover", "--no-wait", "--file", str(place.file), "--node", node, expect=REFUSED)
    assert shown["outcome"] == "recovery_refused", shown
    place.check_seats()


def suspended_then_paid(place: Place) -> None:
    """A suspension is no recovery. The command asks the cloud, and finds the licence again after the payment."""
    machine, node = place.activated()
    place.cloud.run("node", "suspend", node, "--reason", "unpaid")
    # The stored lease is current, so the command would not ask. An agent hears the suspension.
    machine.run("renew", expect=SUSPENDED)
    shown = machine.run("recover", expect=SUSPENDED)
    assert (shown["outcome"], shown["license"]["state"]) == ("renewed", "suspended")
    assert "its gate is closed: the cloud has suspended the licence" in shown["sentence"]
    place.cloud.run("node", "resume", node, "--reason", "paid")
    assert machine.run("recover")["outcome"] == "renewed"
    place.check(machine, node, 1)


def revoked(place: Place) -> None:
    """A revoked node with a cleared chip and a code: the command says that a recovery does not undo a revocation."""
    machine, node = place.activated()
    code = place.code("--node", node)
    place.cloud.run("node", "revoke", node, "--reason", "table")
    machine.run("renew", expect=REVOKED)
    place.chips[0].clear()
    shown = place.refused(machine, "--code-file", str(code), outcome="revoked", expect=REVOKED)
    assert shown["sentence"] == f"Node {node} is revoked, and a recovery does not undo a revocation."
    assert not place.cloud.rows("fabric", "SELECT id FROM recovery_case")


def tpm_away(place: Place) -> None:
    """A TPM that does not answer is no recovery: the cause is named, and no case is opened."""
    machine, node = place.activated()
    code = place.code("--node", node)
    place.chips[0].stop_resource_manager()
    try:
        shown = place.refused(machine, "--code-file", str(code), outcome="tpm-absent", expect=TPM)
    finally:
        place.chips[0].restart_resource_manager()
    assert "may be intact, and needs no recovery" in shown["sentence"]
    assert not place.cloud.rows("fabric", "SELECT id FROM recovery_case")
    place.check(machine, node, 1)


def _without_tpm(place: Place, name: str, parts: int = 1) -> Machine:
    """A machine without a TPM, of this board and disk."""
    machine = place.machine(name, parts=parts)
    machine.env |= NO_TPM
    return machine


def _activated_without_tpm(place: Place) -> tuple[Machine, str]:
    place.cloud.run("tenant", "tiers", place.tenant, "attested,software")
    machine = _without_tpm(place, "first")
    machine.run("activate", str(place.file), "--software")
    machine.up()
    assert machine.granted()
    machine.down()
    return machine, str(machine.run("status")["license"]["node"])


def software_reinstalled(place: Place) -> None:
    """A machine without a TPM has lost its disk's content: the parts are the enrolled ones, and it has a code."""
    machine, node = _activated_without_tpm(place)
    shutil.rmtree(machine.state)
    code = place.code("--node", node)
    argv = ("--software", "--file", str(place.file), "--node", node, "--code-file", str(code))
    assert machine.run("recover", "--no-wait", *argv)["outcome"] == "recovered"
    place.check(machine, node, 2)


def software_parts_replaced(place: Place) -> None:
    """A machine without a TPM has another board: it is stopped, names what changed, and a person approves."""
    machine, node = _activated_without_tpm(place)
    other = _without_tpm(place, "repaired", parts=2)
    shutil.copytree(machine.state, other.state)
    case = place.waits(other)
    place.recovery("approve", case)
    shown = other.run("recover", "--no-wait")
    assert (shown["outcome"], shown["found"]["same"]["result"]) == ("recovered", "mismatch")
    place.check(other, node, 2)


def grace_while_the_node_is_online(place: Place) -> None:
    """Another machine reports the serial numbers of a node that runs. The node runs on, and a person decides."""
    place.recovery("policy", place.tenant, "--grace-quota", "1")
    machine, node = place.activated()
    other = place.repaired(machine)
    case = place.waits(other)
    assert place.recovery("show", case)["silent_until"]
    machine.up()
    wait_until("the contact of the node", lambda: place.recovery("show", case)["state"] == "needs_operator")
    assert "the node was online at" in place.recovery("show", case)["reason"]
    assert place.waits(other) == case
    assert machine.granted(), "the machine that runs was stopped"
    machine.down()
    place.check(machine, node, 1)
    assert len(place.audited("recovery.node_online")) >= 1


ROWS: dict[str, Callable[[Place], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        cleared_with_a_code,
        reinstalled_with_a_file,
        reinstalled_and_approved,
        denied,
        replaced_and_approved,
        replaced_on_grace,
        grace_denied,
        quota_used_up,
        grace_while_the_node_is_online,
        wrong_code,
        code_issued_again,
        code_used_twice,
        code_of_another_node,
        revoked_meanwhile,
        wrong_machine,
        suspended_then_paid,
        revoked,
        tpm_away,
        software_reinstalled,
        software_parts_replaced,
    )
}
