"""Command: `cascade backup keep`, which a timer runs: it makes a backup in a folder, and removes the oldest ones."""

import asyncio
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

import msgspec

from cloud.backup.contents import read_installation
from cloud.backup.writing import Lock, write_backup
from cloud.cli.backup.unlocking import reported
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import directory_option
from cloud.cli.show import emit, fields
from cloud.clock import utc_now

KEEP_DEFAULT = 14
KEEP_MAX = 10_000
_NAME = re.compile(r"cascade-[0-9]{8}T[0-9]{6}Z\.backup", re.ASCII)
"""A name of this command. The names sort by time. No other file is removed."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The new backup, the number of backups in the folder, and the names of those that were removed."""

    file: str
    sha256: str
    kept: int
    removed: tuple[str, ...]


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Makes a backup of both services in FOLDER, while they run. After that it removes the oldest backups in FOLDER "
        "until N are left. It removes only files with the names that it gives, and none if the new backup fails."
    )
    directory_option(parser)
    parser.add_argument("--folder", type=Path, required=True, metavar="FOLDER", help="folder of the backups")
    parser.add_argument(
        "--recipient",
        action="append",
        required=True,
        metavar="KEYS",
        help="encrypt for these recipients (age1..., with spaces between them); may be repeated",
    )
    parser.add_argument(
        "--keep",
        type=_count,
        default=KEEP_DEFAULT,
        metavar="N",
        help=f"number of backups that stay (default {KEEP_DEFAULT})",
    )
    parser.set_defaults(run=keep)


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= KEEP_MAX:
        raise ArgumentTypeError(f"{text!r} is not a number between 1 and {KEEP_MAX}")
    return int(text)


def keep(args: Namespace) -> None:
    """Make the backup, then remove old ones. Raises CliError; nothing was removed then."""
    folder: Path = args.folder.absolute()
    if not folder.is_dir():
        raise CliError(
            EXIT_USAGE,
            "folder_missing",
            f"cannot make a backup in {folder}: it is not a folder",
            "Make the folder, for the user who runs the services.",
        )
    recipients = tuple(key for keys in args.recipient for key in keys.split())
    if not recipients:
        raise CliError(
            EXIT_USAGE,
            "backup_key_missing",
            "cannot make a backup: --recipient is empty",
            "`cascade backup key` makes a recipient.",
        )
    out = folder / f"cascade-{utc_now():%Y%m%dT%H%M%SZ}.backup"
    with reported("make the backup", "There is no new file, and no backup was removed."):
        installation = read_installation(args.dir)
        made = asyncio.run(write_backup(installation, out, Lock(recipients, ""), "whole", utc_now, lambda *_: None))
        # The new one stays whatever the names say: a clock that was ahead has given later names to earlier backups.
        found = sorted(each.name for each in folder.iterdir() if _NAME.fullmatch(each.name) and each.name != out.name)
        removed = found[: max(0, len(found) + 1 - args.keep)]
        for name in removed:
            (folder / name).unlink()
    kept = Kept(file=str(out), sha256=made.sha256, kept=len(found) + 1 - len(removed), removed=tuple(removed))
    emit(kept, args.json, fields)
