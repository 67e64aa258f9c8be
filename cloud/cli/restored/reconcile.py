"""Command: `cascade reconcile`, which compares the generations of Fabric and Breakwater."""

from argparse import ArgumentParser, Namespace

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_REFUSED
from cloud.cli.options import json_option, server_options
from cloud.cli.show import columns, emit
from cloud.fabric.bodies.restored import Reconcile, Reconciliation


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Compares the generations of all nodes at Fabric with those at Breakwater. Fabric takes what Breakwater has "
        "closed, and Breakwater gets the closes and opens that it has forgotten. Fabric does the same by itself after a "
        "restore of one of the two databases. The command can be repeated and interrupted. It ends with 77 if Breakwater "
        "refused a command."
    )
    json_option(parser)
    server_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="change nothing; show what would be changed")
    parser.set_defaults(run=reconcile)


def reconcile(args: Namespace) -> int:
    """Compare, print what was changed on each side, and return the exit code. Raises CliError."""
    found = Server(args).call("POST", "/v1/reconcile", Reconciliation, Reconcile(dry_run=args.dry_run))
    emit(found, args.json, _human)
    return EXIT_REFUSED if found.refused else 0


def _human(found: Reconciliation) -> str:
    would = " (dry run)" if found.dry_run else ""
    taken = columns(("node", "generation", "change"), "node", "generation", "change")
    sent = columns(("node", "generation", "command"), "node", "generation", "order")
    parts = [
        f"{found.nodes} nodes compared",
        f"changes at Fabric{would}: {found.taken_count}\n{taken(found.taken)}",
        f"commands to Breakwater{would}: {found.sent_count}\n{sent(found.sent)}",
    ]
    if found.refused:
        parts.append(f"commands that Breakwater refused: {len(found.refused)}\n{sent(found.refused)}")
    return "\n\n".join(parts)
