"""Table: every exchange of a node, with its answer lost, and the checks after it. For test and drill.

The cloud has answered, and the node does not get the answer. A person, the agent or systemd then tries again. Whatever is
lost, there is one node in one seat, and no clone is suspected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import wait_until
from lab.tpm import SoftTpm
from tests.system.support.harness import Plan, new_machine

EXCHANGES: dict[str, tuple[str, ...]] = {
    "activate": (
        "node.activation.start",
        "node.activation.prove",
        "node.nonce.send",
        "node.session.send",
        "node.confirm.send",
    ),
    "run": ("node.nonce.send", "node.session.send", "node.statement.send", "node.events.send"),
    "renew": ("node.nonce.send", "node.session.send", "node.device.send"),
    "renew --rekey": ("node.renewal.start", "node.renewal.prove", "node.session.send"),
}
"""The sends of each procedure. `activate`: activation, first session and confirm. `run`: session, statement and wake
channel. `renew`: EST. `renew --rekey`: the renewal with evidence."""


@dataclass(frozen=True)
class Loss:
    """A procedure, and the sends whose answers are lost in it."""

    procedure: str
    lost: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.procedure}: {', '.join(self.lost)}"


def losses(*, pairs: bool) -> Iterator[Loss]:
    """Each answer lost once; with `pairs` also every two of one procedure, in order, and each one twice."""
    for procedure, sends in EXCHANGES.items():
        yield from (Loss(procedure, (send,)) for send in sends)
        if pairs:
            yield from (Loss(procedure, both) for both in product(sends, repeat=2))


class Subject:
    """One machine of one tenant, which goes through losses one after the other."""

    def __init__(self, directory: Path, cloud: Cloud, chip: SoftTpm, name: str) -> None:
        self.cloud = cloud
        self.machine: Machine = new_machine(directory, chip, name)
        self.tenant = cloud.tenant(chip, name)
        self.file = cloud.code(self.tenant, "--lease-seconds", "4,3600,7200,10800")

    def take(self, loss: Loss) -> list[str]:
        """Lose the answers, try again without a loss, and check. Returns what is wrong."""
        plan = Plan(lose=loss.lost)
        match loss.procedure:
            case "activate":
                self._command(plan, "activate", str(self.file))
            case "run":
                self._run(plan)
            case procedure:
                self._command(plan, *procedure.split())
        self._run(None)
        return self._wrong(loss)

    def _command(self, plan: Plan, *argv: str) -> None:
        """Run a command whose answers are lost, until it has succeeded without a loss."""
        self.machine.down()
        self.machine.start(*argv, start=plan).wait()
        self.machine.run(*argv)

    def _run(self, plan: Plan | None) -> None:
        """Run the agent until a contact has succeeded. With a plan, it goes on after the lost answers."""
        self.machine.down()
        self.machine.up(plan)
        wait_until("a contact", self._contacted)

    def _contacted(self) -> bool:
        status = self.machine.ask("/v1/status")
        return bool(status and status["last_contact_at"] and status["failures"] == 0)

    def _wrong(self, loss: Loss) -> list[str]:
        nodes = self.cloud.run("node", "list", "--tenant", self.tenant)
        seen = [(node["standing"], node["seat_held"], node["clone_cause"]) for node in nodes]
        found = [] if seen == [("active", True, "")] else [f"{loss}: the nodes are {seen}"]
        seats = sum(code["seats_taken"] for code in self.cloud.run("code", "list", self.tenant))
        if seats != 1:
            found.append(f"{loss}: {seats} seats are taken")
        if self.machine.licence not in ("active", "refresh-due"):
            found.append(f"{loss}: the licence is {self.machine.licence}")
        for node in nodes:
            audit = self.cloud.run("audit", "list", "--object", node["id"])
            bad = {entry["action"] for entry in audit} & {"node.restored", "node.clone_suspected"}
            found += [f"{loss}: the audit has {action}" for action in sorted(bad)]
        return found
