"""Command: `cascade pki ceremony`, which uses the root's key as one reviewed file describes. It needs no network."""

import asyncio
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from cloud.breakwater.ceremony.run import CeremonyRecord, hold
from cloud.breakwater.errors import IssuerError
from cloud.cli.errors import EXIT_VERIFICATION, CliError
from cloud.cli.show import emit, pairs
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Makes a root, an issuing CA, a cross-certificate or the root's CRL. Checks everything before it writes "
        "anything, and never replaces a file. Needs no network. Run it with --dry-run first. docs/ceremonies.md "
        "describes FILE."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="TOML file that describes the ceremony")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check and sign with a temporary key instead of the root's key, and write nothing",
    )
    parser.set_defaults(run=ceremony)


def ceremony(args: Namespace) -> None:
    """Hold the ceremony, or try it with `--dry-run`. Raises CliError; no file was written then."""
    try:
        record = asyncio.run(hold(args.file, utc_now(), os.urandom, args.dry_run))
    except (IssuerError, KeyFileError) as error:
        raise CliError(
            EXIT_VERIFICATION,
            "ceremony_refused",
            str(error),
            "Nothing was written. Correct the ceremony's file and try it with --dry-run.",
        ) from error
    emit(record, args.json, _human)


def _human(record: CeremonyRecord) -> str:
    head = f"{record.type} ceremony" + (" (dry run: nothing is written)" if record.dry_run else "")
    rows: list[tuple[str, object]] = [("at", record.at), ("key", record.key)]
    signs = "would sign" if record.dry_run else "signed"
    writes = "would write" if record.dry_run else "wrote"
    return "\n\n".join(
        (
            f"{head}\n{pairs(rows)}",
            f"{signs}\n{pairs(record.signs)}",
            "read\n" + pairs([(file.sha256, file.path) for file in record.inputs]),
            f"{writes}\n"
            + pairs([(file.sha256 or "-", file.path) for file in record.outputs] + [("record", record.record)]),
        )
    )
