"""A cloud is lost with its databases. A key backup makes it again, and the nodes bring their rows back themselves.

Some nodes are revoked, suspended or activated again after the key backup. Of the revoked ones, some show their
revocation, some hide it, and some are in a CRL that the operator has kept. Some nodes change their key just before the
loss, so their lease names the former key. A copy of each, from before this change, comes back as well.
"""

import argparse
import copy
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from lab.cloud import Cloud
from lab.processes import ended
from protocol.signed.statements import Lease, Revocation, Statement, Suspension
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import new_cloud
from tests.system.support.lost_cloud import (
    Customer,
    back_up_under_load,
    check_certificates,
    copies_of,
    issued_by,
    lose,
    restored,
    twice,
)
from tests.system.support.paper_node import PaperNode, paper_tenant, secret_of

USUAL_TIME = "2 min"
MINUTES_MAX = 15.0

GROUPS = {"in a CRL": 4, "revoked": 4, "hidden": 4, "suspended": 4, "activated again": 4, "rekeyed": 4}
"""What happens to how many nodes after the key backup. Nothing happens to the others (`quiet`)."""
PAID = ("quiet", "activated again", "rekeyed")
"""The groups whose nodes the operator confirms."""
UNCONFIRMED = (*PAID, "hidden")
"""The groups whose nodes show a lease."""
COPIES_FIRST = 2
"""The copies with a former key that come back before the machine with the later key."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of nodes."""
    parser.add_argument("--nodes", type=int, default=50, help="nodes, at least 25 (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run the drill. The first failed step ends it and is the finding."""
    figures: dict[str, Figure] = {"nodes": options.nodes}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-rebuilt-")))
        cloud = new_cloud(scratch / "first").init()
        stack.enter_context(ended(cloud))
        cloud.up()
        try:
            _drill(cloud, scratch, options.nodes, figures, say, stack)
        except AssertionError as error:
            return Outcome(figures, (str(error) or "an assertion failed",))
    return Outcome(figures)


def _drill(cloud: Cloud, scratch: Path, count: int, figures: dict[str, Figure], say: Say, stack: ExitStack) -> None:
    copies = copies_of(cloud, scratch / "copies")
    code = secret_of(cloud.code(paper_tenant(cloud, scratch), "--seats", str(count)))
    made = back_up_under_load(cloud, copies, [], scratch, "--keys-only")
    figures["rows of the key backup"] = made["rows"]
    say(f"{count} nodes activate")
    with ThreadPoolExecutor(4) as workers:
        papers = list(workers.map(lambda number: PaperNode(cloud, f"rebuilt {number}").join(code), range(count)))
    customers = [Customer(paper) for paper in papers]
    for customer in customers:
        customer.contact()
    groups, old, copied = _after_the_backup(cloud, customers, code, scratch)
    before, issued = {each: each.held for each in groups}, issued_by(cloud)
    say("the cloud is lost")
    lose(cloud)
    new = restored(cloud, copies, scratch / "second", server=False)
    stack.enter_context(ended(new))
    crls = [text for path in sorted((scratch / "crls").glob("nodes-*.crl")) for text in ("--crl", str(path))]
    imported = new.run("node", "rebuild", "import", *crls)["imported"]
    assert imported == GROUPS["in a CRL"], f"{imported} serial numbers were imported"
    new.run("node", "rebuild", "begin", "--reason", "a drill")
    say("the nodes come back")
    for customer in (*groups, *old, *copied):
        customer.paper.cloud = new
    for customer in copied[:COPIES_FIRST]:
        customer.contact()
        assert customer.refusal == "", f"a copy whose lease names its key got {customer.refusal!r}"
    for customer, group in groups.items():
        for _ in range(2):
            customer.contact()
        _judge(group, customer, before[customer])
    for customer in old:
        customer.contact()
        assert isinstance(customer.held, Revocation), "a lower generation runs beside the higher one"
    for customer in copied:
        customer.contact()
        assert customer.refusal == "certificate_refused", f"a copy with the former key got {customer.refusal!r}"
    _confirm(new, scratch, groups, before, figures)
    again = twice(issued, issued_by(new))
    assert again == [], f"numbers that stand for two documents: {again[:5]}"
    assert check_certificates(new) == 0, "`cascade pki check` found errors"


def _after_the_backup(
    cloud: Cloud, customers: list[Customer], code: str, scratch: Path
) -> tuple[dict[Customer, str], list[Customer], list[Customer]]:
    """Let things happen that the key backup does not have.

    Returns the group of each node, the replaced generations, and the copies from before a change of the key.
    """
    rest, groups, old, copied = list(customers), dict[Customer, str](), list[Customer](), list[Customer]()
    for name, size in GROUPS.items():
        for _ in range(size):
            customer = rest.pop(0)
            groups[customer] = name
            if name == "activated again":
                old.append(_copy(customer))
                customer.paper.join(code)
                customer.statement = ""
            elif name == "rekeyed":
                copied.append(_copy(customer))
                customer.paper.rekey()
            else:
                cloud.run("node", "suspend" if name == "suspended" else "revoke", customer.paper.node, "--reason", "x")
            if name in ("revoked", "suspended", "activated again"):
                customer.contact()
        if name == "in a CRL":
            cloud.run("pki", "crl", "--publish", "--out", str(scratch / "crls"), "--dir", str(cloud.directory))
    return groups | dict.fromkeys(rest, "quiet"), old, copied


def _copy(customer: Customer) -> Customer:
    """A copy of the machine, with its key and its statement."""
    made = Customer(copy.copy(customer.paper))
    made.statement = customer.statement
    return made


def _judge(group: str, customer: Customer, before: Statement) -> None:
    """Check what a node has after its contacts with the rebuilt cloud."""
    held, name = customer.held, f"a node of the group {group!r}"
    if group == "revoked":
        assert isinstance(held, Revocation), f"{name} has a lease again"
    elif group == "suspended":
        assert isinstance(held, Suspension), f"{name} has a lease again"
    else:
        assert held == before, f"{name} has another statement: {held}"
        refusal = "certificate_refused" if group == "in a CRL" else ""
        assert customer.refusal == refusal, f"{name} got {customer.refusal!r}"


def _confirm(
    new: Cloud,
    scratch: Path,
    groups: dict[Customer, str],
    before: dict[Customer, Statement],
    figures: dict[str, Figure],
) -> None:
    """Confirm the nodes that the operator knows. They get later dates, and the hidden ones get none."""
    waiting = {node["id"] for node in new.run("node", "list", "--unconfirmed")}
    shown = {each.paper.node for each, group in groups.items() if group in UNCONFIRMED}
    assert shown <= waiting, "a node that showed a lease is not unconfirmed"
    figures["unconfirmed"] = len(waiting)
    known = [each for each, group in groups.items() if group in PAID]
    listed = scratch / "known"
    listed.write_text("".join(f"{each.paper.node}\n" for each in known))
    new.run("node", "confirm", "--list", str(listed), "--reason", "a drill")
    new.run("node", "rebuild", "end")
    for customer, group in groups.items():
        customer.contact()
        held, had = customer.held, before[customer]
        if customer in known:
            assert isinstance(held, Lease), f"a node of the group {group!r} was stopped"
            assert isinstance(had, Lease)
            assert held.terminate_at > had.terminate_at, f"a node of the group {group!r} got no later dates"
        elif group in ("hidden", "in a CRL"):
            assert held == had, f"a node of the group {group!r} got other dates"
    seats = [bool(node["seat_held"]) for node in new.run("node", "list")]
    nodes = len(groups) - GROUPS["in a CRL"]  # no row is made of these
    expected = nodes, nodes - GROUPS["revoked"]  # a node that has shown its revocation needs no seat
    assert (len(seats), sum(seats)) == expected, f"{sum(seats)} of {len(seats)} nodes hold a seat"
    figures["seats"] = sum(seats)
