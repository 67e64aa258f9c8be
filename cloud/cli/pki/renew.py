"""Command: `cascade pki renew`, which replaces the key and certificate of a service of this installation."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path

import msgspec

from cloud.breakwater.admin import Admin
from cloud.breakwater.bootstrap import renew_service
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import directory_option
from cloud.cli.pki.host import SERVICES_HERE, on_host
from cloud.cli.show import emit, fields
from cloud.mtls.identity import CHAIN_FILE


class Renewed(msgspec.Struct, frozen=True):
    """A new certificate of a service, and the file that contains it. `serial` is hexadecimal."""

    service: str
    serial: str
    not_after: datetime
    file: str


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Makes a new key and a certificate for it. Use it when a service's certificate has expired or was revoked. A "
        "running service renews its certificate by itself; it uses the new one after its next start."
    )
    directory_option(parser)
    parser.add_argument("service", metavar="SERVICE", help="the service: fabric or breakwater")
    parser.set_defaults(run=on_host(renew))


async def renew(admin: Admin, args: Namespace) -> None:
    """Make a new key and certificate for a service, and write both to its `tls/` folder. Raises CliError."""
    if args.service not in SERVICES_HERE:
        names = ", ".join(SERVICES_HERE)
        raise CliError(
            EXIT_USAGE,
            "service_unknown",
            f"cannot renew {args.service!r}: this installation has no service of this name",
            f"Its services are {names}.",
        )
    folder: Path = args.dir / args.service / "tls"
    passphrase_file = admin.settings.path(admin.settings.passphrase_file)
    leaf = await renew_service(admin.parts.issuing, args.service, folder, passphrase_file, admin.caller)
    made = Renewed(args.service, f"{leaf.serial_number:040x}", leaf.not_valid_after_utc, str(folder / CHAIN_FILE))
    emit(made, args.json, fields)
