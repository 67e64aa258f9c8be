"""Command: `cascade trust renew-devices`, orders every node to renew an older device certificate."""

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.show import emit, fields
from cloud.cli.trust.commands import accept_expired_option
from cloud.fabric import schemas


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "From that time on every lease that is signed carries the order; nodes are woken one after the other."
    )
    parser.add_argument("--after", required=True, metavar="TIME", help="RFC 3339, or now")
    parser.add_argument("--reason", default="", help="kept in the audit")
    parser.add_argument("--spread", type=int, metavar="SECONDS", help="wake them over this time (default: 50 a second)")
    accept_expired_option(parser)
    parser.set_defaults(run=renew_devices)


def renew_devices(args: Namespace) -> None:
    body = schemas.RenewDevices(after=_time(args.after), reason=args.reason, spread_seconds=args.spread)
    order = Server(args).call("POST", "/v1/trust/renew-devices", schemas.RenewalOrder, body)
    emit(order, args.json, fields)


def _time(text: str) -> datetime | None:
    if text == "now":
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CliError(EXIT_USAGE, "time_invalid", f"cannot read --after {text}: RFC 3339, or now") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
