"""Command group: `cascade audit`, which lists Fabric's audit entries."""

from argparse import ArgumentParser, Namespace

from cloud.cli.connection import Server
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.show import columns, emit
from cloud.fabric import schemas


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    listing = actions.add("list", "list Fabric's audit entries, newest first", run=list_newest)
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only entries of this tenant (id)")
    listing.add_argument("--object", default="", metavar="ID", help="only entries about this object (id)")
    listing.add_argument(
        "--request", default="", metavar="ID", help="only entries of this request (`X-Request-Id` of its answer)"
    )
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="print at most N entries (default 50)")


def list_newest(args: Namespace) -> None:
    """Print the newest entries that match the options. Raises CliError."""
    entries = Server(args).pages(
        "/v1/audit",
        schemas.Page[schemas.AuditEntry],
        limit=args.limit,
        tenant=args.tenant,
        object=args.object,
        request=args.request,
    )
    names = ("at", "actor", "action", "object", "outcome", "request")
    emit(entries, args.json, columns(names, *names))
