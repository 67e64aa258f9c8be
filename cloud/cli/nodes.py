"""Command group: `cascade node`, nodes and their standing."""

from argparse import ArgumentParser, Namespace

from cloud.cli.arguments import id_argument
from cloud.cli.connection import Server
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.show import columns, emit, fields
from cloud.fabric import schemas

CHANGES = {
    "suspend": "stop the workloads until resumed; nothing is deleted",
    "resume": "end a suspension: a new lease",
    "revoke": "end this machine's licence for good; only a code made with --readmit brings it back",
    "release": "revoke, and free the seat at once",
}
"""The changes of a node's standing: action of the command and last part of the route's path -> summary."""


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    listing = actions.add("list", "list nodes", run=list_all)
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only this tenant's")
    showing = actions.add("show", "show a node and its generations", run=show)
    showing.add_argument("node", metavar="NODE", help="id")
    for name, summary in CHANGES.items():
        changing = actions.add(name, summary, run=change)
        changing.add_argument("node", metavar="NODE", help="id")
        changing.add_argument("--reason", default="", help="kept in the audit; a suspension's goes to the node")


def list_all(args: Namespace) -> None:
    nodes = Server(args).pages("/v1/nodes", schemas.Page[schemas.Node], tenant=args.tenant)
    headings = ("id", "standing", "tier", "generation", "seat", "lease until", "closing")
    names = ("id", "standing", "tier", "generation", "seat_held", "lease_until", "closing")
    emit(nodes, args.json, columns(headings, *names))


def show(args: Namespace) -> None:
    server = Server(args)
    emit(server.call("GET", f"/v1/nodes/{id_argument('node', args.node)}", schemas.NodeDetail), args.json, _human)


def _human(detail: schemas.NodeDetail) -> str:
    headings = ("generation", "state", "statement", "seq", "issued", "terminates", "certificate until")
    names = ("number", "state", "statement", "seq", "issued_at", "terminate_at", "certificate_not_after")
    return f"{fields(detail.node)}\n\n{columns(headings, *names)(detail.generations)}"


def change(args: Namespace) -> None:
    """One of `CHANGES`."""
    server = Server(args)
    body = schemas.ChangeStanding(reason=args.reason)
    path = f"/v1/nodes/{id_argument('node', args.node)}/{args.action}"
    emit(server.call("POST", path, schemas.Node, body), args.json, fields)
