"""A cloud under load is backed up and lost. A restore or a rebuild brings it back, and every paid node runs on.

Fifty simulated nodes: some are revoked, suspended, activated or activated again after the backup, some have a later
statement than the backup, and some change their key just before the loss. The nodes present their statements to the
cloud, and the operator accepts and confirms the paid nodes. With `--no-backup` only a key backup from before the first
node is left.
"""

import argparse
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from lab.cloud import Cloud
from lab.processes import ended
from protocol.signed.statements import Lease, Revocation, Statement, Suspension
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import new_cloud
from tests.system.support.lost_cloud import (
    Copies,
    Customer,
    back_up_keys,
    back_up_under_load,
    check_certificates,
    copies_of,
    crls_of,
    issued_by,
    lose,
    new_databases,
    restored,
    twice,
    unknown_to_the_issuer,
)
from tests.system.support.paper_node import PaperNode, paper_tenant, secret_of

USUAL_TIME = "2 min"
MINUTES_MAX = 15.0

LOADED = 10
"""The nodes that send requests while the backup is made."""
GROUPS = {
    "revoked": 5,
    "revoked, not seen": 3,
    "suspended": 4,
    "ahead": 8,
    "activated again": 5,
    "activated after the backup": 3,
    "rekeyed": 4,
}
"""What happens to how many nodes after the backup. Nothing happens to the others (`quiet`)."""
STOPPED = {"revoked": Revocation, "suspended": Suspension}
NEW_EPOCH = {"ahead", "activated again", "activated after the backup"}
"""The paid nodes that the operator accepts or confirms. They get a new lease at once."""
KNOWN = {"quiet", "rekeyed"}
"""The paid nodes whose last statement the backup has. A rekeyed node has another key than its lease names."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of nodes, the engine, and what is left of the cloud."""
    parser.add_argument("--nodes", type=int, default=50, help="nodes, at least 42 (default: %(default)s)")
    parser.add_argument(
        "--to-sqlite", action="store_true", help="from PostgreSQL into SQLite (default: from SQLite into PostgreSQL)"
    )
    parser.add_argument("--no-backup", action="store_true", help="only the keys are left; nodes bring the rest back")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run the drill. The first failed step ends it and is the finding."""
    figures: dict[str, Figure] = {"nodes": options.nodes}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-lost-")))
        cloud = new_cloud(scratch / "first").init(*(new_databases() if options.to_sqlite else ()))
        stack.enter_context(ended(cloud))
        cloud.up()
        try:
            _Drill(cloud, scratch, options, figures, say).run(stack)
        except AssertionError as error:
            return Outcome(figures, (str(error) or "an assertion failed",))
    return Outcome(figures)


class _Drill:
    """One run: `before` the loss, and `after` it."""

    def __init__(
        self, cloud: Cloud, scratch: Path, options: argparse.Namespace, figures: dict[str, Figure], say: Say
    ) -> None:
        self._cloud = cloud
        self._scratch = scratch
        self._options = options
        self._figures = figures
        self._say = say
        self._groups: dict[Customer, str] = {}

    def run(self, stack: ExitStack) -> None:
        copies = copies_of(self._cloud, self._scratch / "copies")
        if self._options.no_backup:
            back_up_keys(self._cloud, copies)
        self._before(copies)
        held = {each: each.held for each in self._groups}
        issued, crls = issued_by(self._cloud), crls_of(self._cloud, copies.folder)
        self._say("the cloud is lost")
        lose(self._cloud)
        new = restored(self._cloud, copies, self._scratch / "second", server=not self._options.to_sqlite)
        stack.enter_context(ended(new))
        assert unknown_to_the_issuer(new) == [], "Fabric has generations that Breakwater does not know"
        for customer in self._groups:
            customer.paper.cloud = new
        self._say("the nodes come back")
        self._after(new, crls, held)
        again = twice(issued, issued_by(new))
        assert again == [], f"numbers that stand for two documents: {again[:5]}"
        assert check_certificates(new) == 0, "`cascade pki check` found errors"
        self._check_seats(new)

    def _before(self, copies: Copies) -> None:
        """Activate the nodes, make the backup under load, and let things happen that it does not have."""
        cloud, scratch = self._cloud, self._scratch
        code = secret_of(cloud.code(paper_tenant(cloud, scratch), "--seats", str(self._options.nodes)))
        count = self._options.nodes - GROUPS["activated after the backup"]
        self._say(f"{count} nodes activate")
        with ThreadPoolExecutor(4) as workers:
            papers = list(workers.map(lambda number: PaperNode(cloud, f"lost {number}").join(code), range(count)))
        customers = [Customer(paper) for paper in papers]
        for customer in customers:
            customer.contact()
        if not self._options.no_backup:
            made = back_up_under_load(cloud, copies, papers[-LOADED:], scratch)
            self._figures["rows of the backup"] = made["rows"]
            self._figures["bytes of the backup"] = made["bytes"]
        for name, size in GROUPS.items():
            for number in range(size):
                late = name == "activated after the backup"
                customer = Customer(PaperNode(cloud, f"late {number}").join(code)) if late else customers.pop(0)
                self._groups[customer] = name
                self._happens(customer, name, code)
        self._groups |= dict.fromkeys(customers, "quiet")

    def _happens(self, customer: Customer, name: str, code: str) -> None:
        """What happens to a node of this group after the backup."""
        cloud, node = self._cloud, customer.paper.node
        if name.startswith("revoked"):
            cloud.run("node", "revoke", node, "--reason", "fraud")
        elif name in ("suspended", "ahead"):
            cloud.run("node", "suspend", node, "--reason", "unpaid")
            customer.contact()
        if name == "ahead":
            cloud.run("node", "resume", node)
        elif name == "activated again":
            customer.paper.join(code)
        elif name == "rekeyed":
            customer.paper.rekey()
        if name not in ("revoked, not seen", "rekeyed"):
            customer.contact()

    def _after(self, new: Cloud, crls: list[Path], held: dict[Customer, Statement]) -> None:
        """The nodes contact the new cloud. The operator imports the last CRLs, then accepts and confirms paid nodes."""
        self._contact(held)
        new.run("node", "rebuild", "begin", "--reason", "drill")
        new.run("node", "rebuild", "import", *(text for path in crls for text in ("--crl", str(path))))
        self._contact(held)
        holds = {str(node["id"]): str(node["hold"]) for node in new.run("node", "list")}
        self._figures |= {f"held: {hold}": count for hold, count in sorted(Counter(holds.values()).items()) if hold}
        paid = {each.paper.node for each, group in self._groups.items() if group in NEW_EPOCH | KNOWN}
        for verb, hold in (("accept", "conflicting"), ("confirm", "unconfirmed")):
            if nodes := sorted(node for node in paid if holds.get(node) == hold):
                new.run("node", verb, *nodes)
        new.run("node", "rebuild", "end", "--reason", "drill")
        self._contact(held)
        refusals = Counter(f"{group}: {each.refusal or 'answered'}" for each, group in self._groups.items())
        self._figures |= dict(sorted(refusals.items()))
        for customer, group in self._groups.items():
            if group in NEW_EPOCH or (group in KNOWN and self._options.no_backup):
                assert customer.held.epoch == 2, f"a node of the group {group!r} got no new lease"
            if group in NEW_EPOCH | KNOWN:
                assert not customer.refusal, f"a node of the group {group!r} is refused: {customer.refusal}"
            if group == "revoked, not seen":
                assert customer.refusal, "a node in the last CRL is answered"

    def _contact(self, held: dict[Customer, Statement]) -> None:
        """Let each node make two contacts, and judge what it has then."""
        for customer, group in self._groups.items():
            customer.contact()
            customer.contact()
            _judge(group, customer, held[customer])

    def _check_seats(self, new: Cloud) -> None:
        """Every node that is not revoked has one seat, and no chip has two nodes."""
        nodes = {str(node["id"]): node for node in new.run("node", "list")}
        lasting = {each.paper.node for each, group in self._groups.items() if not group.startswith("revoked")}
        assert all(nodes[node]["seat_held"] for node in lasting), "a node has lost its seat"
        assert nodes.keys() <= {each.paper.node for each in self._groups}, "there are nodes that no machine has"
        seats = sum(bool(node["seat_held"]) for node in nodes.values())
        assert seats <= self._options.nodes
        self._figures["seats"] = seats


def _judge(group: str, customer: Customer, before: Statement) -> None:
    """Check what a node has after a contact with the new cloud."""
    held, name = customer.held, f"a node of the group {group!r}"
    if group in STOPPED:
        assert isinstance(held, STOPPED[group]), f"{name} has a lease again"
        return
    assert isinstance(held, Lease), f"{name} was stopped: {customer.refusal}"
    assert isinstance(before, Lease)
    if group == "revoked, not seen":
        assert held.terminate_at <= before.terminate_at, f"{name} runs longer than its lease"
    else:
        assert held.terminate_at >= before.terminate_at, f"{name} runs shorter than its lease"
