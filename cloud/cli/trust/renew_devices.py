"""Command: `cascade trust renew-devices`, which orders nodes to renew device certificates made before a time."""

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.show import emit, fields
from cloud.cli.trust.commands import accept_expired_option
from cloud.fabric import schemas


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Orders every node to renew its device certificate if it was made before TIME. Every lease that Fabric signs "
        "from now on carries the order. Fabric wakes the nodes one after the other. A new order replaces the last one."
    )
    parser.add_argument(
        "--after",
        required=True,
        metavar="TIME",
        help="RFC 3339, for example 2026-01-31T12:00:00Z (UTC if there is no offset), or `now`",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded in the audit")
    parser.add_argument(
        "--spread",
        type=int,
        metavar="SECONDS",
        help="seconds over which the nodes are woken, at most 2592000 (default: 50 nodes a second)",
    )
    accept_expired_option(parser)
    parser.set_defaults(run=renew_devices)


def renew_devices(args: Namespace) -> None:
    """Order the renewal and print the order. Raises CliError."""
    body = schemas.RenewDevices(after=_time(args.after), reason=args.reason, spread_seconds=args.spread)
    order = Server(args).call("POST", "/v1/trust/renew-devices", schemas.RenewalOrder, body)
    emit(order, args.json, fields)


def _time(text: str) -> datetime | None:
    if text == "now":
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CliError(
            EXIT_USAGE,
            "time_invalid",
            f"cannot read --after {text}: it is neither an RFC 3339 time nor `now`",
            "For example: --after 2026-01-31T12:00:00Z",
        ) from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
