"""A cloud under load is backed up and lost. A restore into the other engine brings it back, and every paid node runs on.

Fifty simulated nodes: some are revoked, suspended, activated or activated again after the backup, and some have a later
statement than the backup. The nodes present their statements to the restored cloud.
"""

import argparse
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from lab.cloud import Cloud
from lab.processes import ended
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import new_cloud
from tests.system.support.lost_cloud import (
    Customer,
    back_up_under_load,
    check_certificates,
    copies_of,
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
}
"""What happens to how many nodes after the backup. Nothing happens to the others (`quiet`)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of nodes and the engine."""
    parser.add_argument("--nodes", type=int, default=50, help="nodes, at least 30 (default: %(default)s)")
    parser.add_argument(
        "--to-sqlite", action="store_true", help="from PostgreSQL into SQLite (default: from SQLite into PostgreSQL)"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run the drill. The first failed step ends it and is the finding."""
    figures: dict[str, Figure] = {"nodes": options.nodes}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-lost-")))
        cloud = new_cloud(scratch / "first").init(*(new_databases() if options.to_sqlite else ()))
        stack.enter_context(ended(cloud))
        cloud.up()
        try:
            _drill(cloud, scratch, options, figures, say, stack)
        except AssertionError as error:
            return Outcome(figures, (str(error) or "an assertion failed",))
    return Outcome(figures)


def _drill(
    cloud: Cloud, scratch: Path, options: argparse.Namespace, figures: dict[str, Figure], say: Say, stack: ExitStack
) -> None:
    copies = copies_of(cloud, scratch / "copies")
    code = secret_of(cloud.code(paper_tenant(cloud, scratch), "--seats", str(options.nodes)))
    count = options.nodes - GROUPS["activated after the backup"]
    say(f"{count} nodes activate")
    with ThreadPoolExecutor(4) as workers:
        papers = list(workers.map(lambda number: PaperNode(cloud, f"lost {number}").join(code), range(count)))
    customers = [Customer(paper) for paper in papers]
    for customer in customers:
        customer.contact()
    made = back_up_under_load(cloud, copies, papers[-LOADED:], scratch)
    figures["rows of the backup"], figures["bytes of the backup"] = made["rows"], made["bytes"]
    groups = _after_the_backup(cloud, customers, code)
    before, issued = {each: each.held for each in groups}, issued_by(cloud)
    say("the cloud is lost")
    lose(cloud)
    new = restored(cloud, copies, scratch / "second", server=not options.to_sqlite)
    stack.enter_context(ended(new))
    assert unknown_to_the_issuer(new) == [], "Fabric has generations that Breakwater does not know"
    say("the nodes come back")
    for customer in groups:
        customer.paper.cloud = new
        for _ in range(2):
            customer.contact()
        _judge(groups[customer], customer, before[customer])
    refusals = Counter(f"{group}: {each.refusal or 'answered'}" for each, group in groups.items())
    figures |= dict(sorted(refusals.items()))
    again = twice(issued, issued_by(new))
    assert again == [], f"numbers that stand for two documents: {again[:5]}"
    assert check_certificates(new) == 0, "`cascade pki check` found errors"
    seats = sum(bool(node["seat_held"]) for node in new.run("node", "list"))
    (row,) = new.rows("fabric", "SELECT seats_taken FROM code LIMIT 2")
    assert row[0] == seats <= options.nodes, f"the code counts {row[0]} seats, and {seats} nodes hold one"
    figures["seats"] = seats


def _after_the_backup(cloud: Cloud, customers: list[Customer], code: str) -> dict[Customer, str]:
    """Let things happen that the backup does not have. Returns the group of each node."""
    rest, groups = list(customers), dict[Customer, str]()
    for name, size in GROUPS.items():
        for _ in range(size):
            if name == "activated after the backup":
                customer = Customer(PaperNode(cloud, f"late {len(groups)}").join(code))
            else:
                customer = rest.pop(0)
            groups[customer] = name
            node = customer.paper.node
            if name.startswith("revoked"):
                cloud.run("node", "revoke", node, "--reason", "fraud")
            elif name in ("suspended", "ahead"):
                cloud.run("node", "suspend", node, "--reason", "unpaid")
                customer.contact()
            if name == "ahead":
                cloud.run("node", "resume", node)
            elif name == "activated again":
                customer.paper.join(code)
            if name != "revoked, not seen":
                customer.contact()
    return groups | dict.fromkeys(rest, "quiet")


def _judge(group: str, customer: Customer, before: object) -> None:
    """Check what a node has after its contacts with the restored cloud."""
    held, name = customer.held, f"a node of the group {group!r}"
    if group == "revoked":
        assert isinstance(held, Revocation), f"{name} has a lease again"
    elif group == "suspended":
        assert isinstance(held, Suspension), f"{name} has a lease again"
    else:
        assert isinstance(held, Lease), f"{name} was stopped: {customer.refusal}"
        assert isinstance(before, Lease)
        if group == "revoked, not seen":
            assert held.terminate_at <= before.terminate_at, f"{name} runs longer than its lease"
        else:
            assert held.terminate_at >= before.terminate_at, f"{name} runs shorter than its lease"
