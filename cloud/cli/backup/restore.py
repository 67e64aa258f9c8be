"""Command: `cascade restore`, which makes an installation out of a backup."""

import asyncio
from argparse import ArgumentParser, Namespace
from pathlib import Path

from cloud.backup.contents import SERVICES
from cloud.backup.format import ServicePart
from cloud.backup.restoring import Order, Restored, restore
from cloud.cli.backup.commands import watcher
from cloud.cli.backup.unlocking import (
    file_argument,
    read_pin,
    read_text,
    read_unlock,
    reported,
    trust_options,
    unlock_options,
)
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.installation.databases import database_options, read_databases
from cloud.cli.options import json_option
from cloud.cli.show import emit, fields
from cloud.clock import utc_now
from cloud.storage import Location


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Verifies a whole backup, then makes an installation of it in DIR, with databases of either engine. DIR and the "
        "databases must be empty. A backup that is damaged, of a newer version or of another installation, or a wrong "
        "key, is refused before anything is written. A restore that was interrupted is repeated by the same command; "
        "until then no service starts. All operators' tokens are revoked, and a new one is written to DIR/operator/token."
    )
    json_option(parser)
    file_argument(parser)
    parser.add_argument(
        "--into",
        dest="dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory of the installation; empty or new",
    )
    parser.add_argument(
        "--only", choices=SERVICES, metavar="SERVICE", help="restore one service beside the other: fabric or breakwater"
    )
    unlock_options(parser)
    trust_options(parser)
    database_options(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Restore a backup and print what to do next. Raises CliError."""
    unlock, pin = read_unlock(args), read_pin(args)
    if pin is None or args.key_passphrase_file is None:
        raise CliError(
            EXIT_USAGE,
            "installation_missing",
            "cannot restore: --trust or --key-passphrase-file is missing",
            "Both prove that the backup is of your installation. `cascade init` printed the pin and made the passphrase.",
        )
    found = read_databases(args)
    databases: dict[ServicePart, Location] = {}
    if args.fabric_database is not None:
        databases["fabric"] = found.fabric
    if args.breakwater_database is not None:
        databases["breakwater"] = found.breakwater
    order = Order(
        backup=args.file,
        unlock=unlock,
        directory=args.dir,
        services=SERVICES if args.only is None else (args.only,),
        databases=databases,
        pin=pin,
        key_passphrase=read_text(args.key_passphrase_file).encode(),
    )
    with reported("restore the backup", "Repeat the command: it begins again. Until then no service starts."):
        restored = asyncio.run(restore(order, utc_now, watcher(args)))
    emit(restored, args.json, _human)


def _human(restored: Restored) -> str:
    return f"""\
{fields(restored)}

Next:
  put back what the backup does not include
  cascade config check --dir {restored.directory}
  cascade up --dir {restored.directory}"""
