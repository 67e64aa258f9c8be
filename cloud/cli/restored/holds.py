"""Commands: list, accept and confirm the nodes that get no new lease after a restore or a rebuild."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from cloud.cli.arguments import id_argument, tenant_filter
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import Commands
from cloud.cli.show import columns, emit
from cloud.fabric import schemas
from cloud.fabric.bodies.restored import AcceptNode, Waiting

LIST_BYTES_MAX = 4 * 1024 * 1024
"""Largest list: 100,000 ids of nodes have 3 MB."""
STATES: dict[Waiting, str] = {
    "conflicting": "only nodes with a later statement than the restored database",
    "unconfirmed": "only reconstructed nodes that no operator has confirmed",
    "unpresented": "only nodes that have not presented their statement since the last restore",
}
_HEADINGS = ("id", "tenant", "standing", "tier", "generation", "lease until", "waits", "since")
_NAMES = ("id", "tenant", "standing", "tier", "generation", "lease_until", "hold", "hold_at")


def add_filters(parser: ArgumentParser) -> None:
    """Add `--conflicting`, `--unconfirmed` and `--unpresented` to the list of nodes."""
    group = parser.add_mutually_exclusive_group()
    for state, text in STATES.items():
        group.add_argument(f"--{state}", dest="waiting", action="store_const", const=state, default="", help=text)


def add_actions(actions: Commands) -> None:
    """Add the actions `accept` and `confirm` to `cascade node`."""
    accepting = actions.add(
        "accept",
        "give conflicting nodes leases again, after a restore of the cloud",
        "A node is conflicting if it has shown a later lease than the restored database. It keeps that lease, and gets no "
        "later dates until it is accepted. A suspension that only the backup knows ends. `cascade node suspend` and "
        "`revoke` decide otherwise. With --unpresented also accepts nodes that have shown nothing.",
        run=accept,
    )
    _add_nodes(accepting)
    accepting.add_argument("--unpresented", action="store_true", help="accept nodes that have presented no statement")
    confirming = actions.add(
        "confirm",
        "give reconstructed nodes leases again, after the loss of the database",
        "A reconstructed node is unconfirmed: it keeps the lease that it has shown, and gets no later dates until it is "
        "confirmed. A node that was revoked can hide its revocation, so confirm only nodes that you know.",
        run=confirm,
    )
    _add_nodes(confirming)


def _add_nodes(parser: ArgumentParser) -> None:
    parser.add_argument("nodes", metavar="NODE", nargs="*", help="ids of nodes")
    parser.add_argument(
        "--list", dest="list_file", type=Path, metavar="FILE", help="file with ids of nodes, one a line"
    )
    parser.add_argument("--all-of", default="", metavar="TENANT", help="all such nodes of this tenant (id)")
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded in the audit")


def list_waiting(args: Namespace) -> None:
    """Print the nodes in the state `args.waiting`. Raises CliError."""
    emit(_waiting(Server(args), args.waiting, args.tenant), args.json, columns(_HEADINGS, *_NAMES))


def _waiting(server: Server, state: str, tenant: str) -> tuple[schemas.Node, ...]:
    return server.pages("/v1/holds", schemas.Page[schemas.Node], state=state, tenant=tenant_filter(tenant))


def accept(args: Namespace) -> None:
    """Accept conflicting nodes, or those that have presented nothing. Raises CliError."""
    _change(args, "unpresented" if args.unpresented else "conflicting")


def confirm(args: Namespace) -> None:
    """Confirm reconstructed nodes. Raises CliError."""
    _change(args, "unconfirmed")


def _change(args: Namespace, state: Waiting) -> None:
    server = Server(args)
    nodes = [id_argument("node", node) for node in (*args.nodes, *_listed(args.list_file))]
    if args.all_of:
        nodes += [node.id for node in _waiting(server, state, args.all_of)]
    elif not nodes and args.list_file is None:
        raise CliError(
            EXIT_USAGE,
            "nodes_missing",
            "cannot choose nodes: none is named",
            "Name nodes by their ids, or with --list or --all-of.",
        )
    body = AcceptNode(state, args.reason)
    changed = [server.call("POST", f"/v1/nodes/{node}/accept", schemas.Node, body) for node in dict.fromkeys(nodes)]
    emit(tuple(changed), args.json, columns(_HEADINGS, *_NAMES))


def _listed(path: Path | None) -> list[str]:
    """The ids in a file. Empty lines and lines that begin with `#` are skipped. Raises CliError."""
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            lines = file.read(LIST_BYTES_MAX).decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(EXIT_USAGE, "list_unusable", f"cannot read {path}: {error}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
