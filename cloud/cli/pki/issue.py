"""Command: `cascade pki issue`, which makes a one-time secret for a service's first certificate."""

from argparse import ArgumentParser, Namespace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from cloud.breakwater.admin import Admin
from cloud.breakwater.bootstrap import host_names
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import directory_option
from cloud.cli.pki.host import on_host
from cloud.cli.show import emit, fields
from cloud.crypto.keyfile import write_secret
from protocol.ids import SERVICE_NAMES

SERVICES_TEXT = ", ".join(SERVICE_NAMES)


class IssuedSecret(msgspec.Struct, frozen=True):
    """A one-time secret that was made: its service, the file that has it, and the time when it expires."""

    service: str
    file: str
    until: datetime


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Writes a secret to a file of mode 0600. The service sends the secret once, over EST (simpleenroll), and gets "
        "its first certificate. Breakwater stores only a hash of the secret. docs/est.md describes the exchange."
    )
    directory_option(parser)
    parser.add_argument("service", metavar="SERVICE", help=f"the service that gets the certificate: {SERVICES_TEXT}")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write the secret to; must not exist"
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="hours until the secret expires, at most 168 (default 24)",
    )
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="HOST",
        help="DNS name or address of the service's listener, for its certificate; repeat the option for more",
    )
    parser.set_defaults(run=on_host(issue))


async def issue(admin: Admin, args: Namespace) -> None:
    """Make a one-time secret and write it to `--out`. Host names are recorded first. Raises CliError."""
    if args.out.exists():
        raise CliError(
            EXIT_USAGE,
            "file_in_use",
            f"cannot write {args.out}: the file exists already",
            "Name another file. No secret was made.",
        )
    if args.service not in SERVICE_NAMES:
        raise CliError(
            EXIT_USAGE,
            "service_unknown",
            f"cannot make a secret for {args.service!r}: there is no service of this name",
            f"The services are {SERVICES_TEXT}.",
        )
    if args.host:
        await admin.parts.stores.issuance.add_hosts(args.service, host_names(tuple(args.host)))
    life = timedelta(hours=args.hours)
    secret = await admin.parts.enrolments.create(args.service, admin.caller, life)
    write_secret(args.out, secret.encode() + b"\n")
    made = IssuedSecret(args.service, str(args.out), admin.now() + life)
    emit(made, args.json, fields)
