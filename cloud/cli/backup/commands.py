"""Command group: `cascade backup`, which makes, checks and shows backups of an installation."""

import asyncio
from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from cloud.backup.age import make_identity
from cloud.backup.contents import read_installation
from cloud.backup.format import Parts
from cloud.backup.reading import opened_backup, verify
from cloud.backup.writing import Lock, Progress, write_backup
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
from cloud.cli.options import Commands, directory_option, json_option
from cloud.cli.secret_files import refuse_existing, write_secret_file
from cloud.cli.show import emit, fields, is_watched, progress
from cloud.clock import utc_now

SHOWN_EVERY = 10_000
"""Rows between two updates of the progress."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A verified backup. `sealed` is False if --key-passphrase-file was not given."""

    file: str
    parts: Parts
    made_at: str
    trust_domain: str
    files: int
    rows: int
    sha256: str
    installation_checked: bool
    sealed: bool


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a backup. `pins` are the trust pins of its installation."""

    file: str
    format: int
    parts: Parts
    made_at: str
    trust_domain: str
    pins: tuple[str, ...]
    breakwater_schema: str
    fabric_schema: str
    not_included: tuple[str, ...]


class Key(msgspec.Struct, frozen=True):
    """A new key. `file` has the identity, which is secret."""

    file: str
    recipient: str


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option)
    making = actions.add(
        "make",
        "back up both services, while they run",
        "Writes one encrypted file: all rows of both databases at one consistent point, settings, key files as they are "
        "stored, and certificates. Runs on the services' host. The passphrase of the key files, the offline keys and "
        "operators' tokens are not in it; keep them apart. --keys-only leaves out nodes, codes and audit, and keeps what "
        "is closed or revoked.",
        run=make,
    )
    directory_option(making)
    making.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file; it must not exist")
    making.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="KEY",
        help="encrypt for this recipient (age1...); may be repeated",
    )
    making.add_argument("--passphrase-file", type=Path, metavar="FILE", help="encrypt with the passphrase in this file")
    making.add_argument("--keys-only", action="store_true", help="back up keys, CAs, published trust and tenants only")
    actions.load("keep", "back up both services into a folder, and remove the oldest", "cloud.cli.backup.keep")
    checking = actions.add(
        "check",
        "decrypt and verify a whole backup, and change nothing",
        "Reads the whole file and verifies it. With --trust it must be of that installation. With "
        "--key-passphrase-file it must have been made by an installation with these key files.",
        run=check,
    )
    showing = actions.add("show", "show what a backup is of, without reading all of it", run=show)
    for parser in (checking, showing):
        file_argument(parser)
        unlock_options(parser)
    trust_options(checking)
    key = actions.add(
        "key",
        "make a key for backups",
        "Writes a new identity, which decrypts backups, and prints its recipient, which encrypts them. Keep the "
        "identity away from the services' host.",
        run=make_key,
    )
    key.add_argument("--out", type=Path, required=True, metavar="KEYFILE", help="the new file of the identity")


def watcher(args: Namespace) -> Progress:
    """Return the function that prints progress to stderr."""
    if not is_watched(as_json=args.json):
        return lambda _table, _count: None
    before = ""

    def watch(table: str, count: int) -> None:
        nonlocal before
        if table != before or count % SHOWN_EVERY == 0:
            progress(f"{table}: {count} rows".ljust(70), last=False)
        before = table

    return watch


def make(args: Namespace) -> None:
    """Make a backup. Raises CliError."""
    if bool(args.recipient) == (args.passphrase_file is not None):
        raise CliError(
            EXIT_USAGE,
            "backup_key_missing",
            "cannot make a backup: give either --recipient or --passphrase-file",
            "`cascade backup key` makes a recipient.",
        )
    refuse_existing(args.out)
    lock = Lock(tuple(args.recipient), "" if args.passphrase_file is None else read_text(args.passphrase_file))
    with reported("make the backup", "There is no file."):
        parts: Parts = "keys" if args.keys_only else "whole"
        installation = read_installation(args.dir)
        made = asyncio.run(write_backup(installation, args.out.absolute(), lock, parts, utc_now, watcher(args)))
    emit(made, args.json, fields)


def check(args: Namespace) -> None:
    """Verify a backup. Raises CliError."""
    unlock, pin = read_unlock(args), read_pin(args)
    key_passphrase = None if args.key_passphrase_file is None else read_text(args.key_passphrase_file).encode()
    with reported("check the backup", "Nothing was changed."):
        found = verify(args.file, unlock, pin, key_passphrase)
    emit(
        Checked(
            file=str(args.file),
            parts=found.manifest.parts,
            made_at=found.manifest.made_at.isoformat(),
            trust_domain=found.manifest.trust_domain,
            files=found.trailer.files,
            rows=sum(found.trailer.tables.values()),
            sha256=found.trailer.sha256,
            installation_checked=pin is not None,
            sealed=key_passphrase is not None,
        ),
        args.json,
        fields,
    )


def show(args: Namespace) -> None:
    """Print the manifest of a backup. Raises CliError."""
    unlock = read_unlock(args)
    with reported("read the backup", "Nothing was changed."), opened_backup(args.file, unlock) as reader:
        manifest = reader.manifest
    shown = Shown(
        file=str(args.file),
        format=manifest.cascade_backup,
        parts=manifest.parts,
        made_at=manifest.made_at.isoformat(),
        trust_domain=manifest.trust_domain,
        pins=manifest.pins,
        breakwater_schema=max(manifest.migrations["breakwater"], default=""),
        fabric_schema=max(manifest.migrations["fabric"], default=""),
        not_included=manifest.not_included,
    )
    emit(shown, args.json, fields)


def make_key(args: Namespace) -> None:
    """Make a key for backups. Raises CliError."""
    refuse_existing(args.out)
    identity, recipient = make_identity()
    text = f"# Identity of Cascade backups. Recipient: {recipient}\n{identity}\n"
    write_secret_file(args.out, text.encode(), "No key was made.")
    emit(Key(str(args.out), recipient), args.json, fields)
