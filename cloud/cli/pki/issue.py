"""Command: `cascade pki issue`, a one-time secret for a service's first certificate."""

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


class IssuedSecret(msgspec.Struct, frozen=True):
    """A one-time secret, by the file that it was written to."""

    service: str
    file: str
    until: datetime


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "The service shows it once over EST (simpleenroll). Writes it to a file of mode 0600; only its hash is kept."
    )
    directory_option(parser)
    parser.add_argument("service", metavar="SERVICE", help="whose certificate")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write the secret to")
    parser.add_argument("--hours", type=float, default=24.0, help="how long it can be used (default 24)")
    parser.add_argument("--host", action="append", default=[], metavar="HOST", help="a name or address of its listener")
    parser.set_defaults(run=on_host(issue))


async def issue(admin: Admin, args: Namespace) -> None:
    if args.out.exists():
        raise CliError(EXIT_USAGE, "file_in_use", f"cannot write {args.out}: it exists", "Nothing was made.")
    if args.service not in SERVICE_NAMES:
        raise CliError(EXIT_USAGE, "service_unknown", f"there is no service {args.service!r}", ", ".join(SERVICE_NAMES))
    if args.host:
        await admin.parts.stores.issuance.add_hosts(args.service, host_names(tuple(args.host)))
    life = timedelta(hours=args.hours)
    secret = await admin.parts.enrolments.create(args.service, admin.caller, life)
    write_secret(args.out, secret.encode() + b"\n")
    made = IssuedSecret(args.service, str(args.out), admin.now() + life)
    emit(made, args.json, fields)
