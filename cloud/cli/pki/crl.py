"""Command: `cascade pki crl`, which shows the published CRLs, makes new ones, and prepares those of roots."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path

import msgspec

from cloud.breakwater.admin import Admin
from cloud.breakwater.store.root_crls import RootCrlRow
from cloud.breakwater.store.shards import PublishedCrl, shard_id
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import directory_option
from cloud.cli.pki.crl_ceremony import PreparedCeremony, prepare
from cloud.cli.pki.host import on_host
from cloud.cli.pki.progress import watcher
from cloud.cli.show import columns, emit, fields

NEXT_CEREMONY = """\
Read the file. Copy its folder to the machine with the root's key. Name the key and its passphrase file there. Then run
  cascade pki ceremony {file} --dry-run
  cascade pki ceremony {file}
Copy the CRL back to this host, and publish it with
  cascade pki crl --import CRL --dir DIR"""


class CrlStatus(msgspec.Struct, frozen=True):
    """A CRL shard and its published CRL. A root has one CRL, which a ceremony signs: the shard `root-1.1`.

    `number` and `entries` are 0 while the shard has no CRL. `behind` means that the shard has no CRL, or that
    `next_update` has passed. `file` is empty unless the CRL was written.
    """

    shard: str
    number: int
    this_update: datetime | None
    next_update: datetime | None
    entries: int
    behind: bool
    file: str = ""


def add_options(parser: ArgumentParser) -> None:
    parser.description = "Shows the CRL of every shard. A CRL that is due is made first."
    directory_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write each CRL to DIR/SHARD.crl (DER)")
    parser.add_argument("--publish", action="store_true", help="first make a new CRL for every shard, due or not")
    parser.add_argument(
        "--ceremony",
        type=Path,
        metavar="DIR",
        help="only write the ceremony of a root's next CRL into a new folder, for the machine with the root's key",
    )
    parser.add_argument("--root", metavar="ROOT", help="the root of that ceremony (default: the active root)")
    parser.add_argument(
        "--import",
        dest="root_crl",
        type=Path,
        metavar="FILE",
        help="first publish this CRL of a root, which a ceremony signed (PEM or DER)",
    )
    parser.set_defaults(run=on_host(crl))


async def crl(admin: Admin, args: Namespace) -> None:
    """Import `--import`. Print the CRL of every root and shard, and write it to `--out`. Raises CliError.

    With `--ceremony`, only write the ceremony of a root's next CRL.
    """
    if args.ceremony is not None:
        if args.out is not None or args.publish or args.root_crl is not None:
            message = "cannot prepare a ceremony and do other work in one command"
            raise CliError(
                EXIT_USAGE, "options_conflict", message, "Give --ceremony without --out, --publish and --import."
            )
        found = admin.parts.authorities.rows()
        active = next((row.id for row in found if row.ca == "root" and row.state == "active"), "that is active")
        emit(await prepare(admin, args.root or active, args.ceremony), args.json, _prepared)
        return
    if args.root_crl is not None:
        try:
            content = args.root_crl.read_bytes()
        except OSError as error:
            raise CliError(EXIT_USAGE, "crl_unusable", f"cannot read {args.root_crl}: {error.strerror}") from error
        await admin.parts.root_crls.import_crl(admin.caller, content)
    rows, shards, progress = [], await admin.parts.stores.shards.all(), watcher(args)
    for done, shard in enumerate(shards, 1):
        publish = admin.parts.crl_publisher.publish if args.publish else admin.parts.crl_publisher.ensure_fresh
        current = await publish(shard.id)
        rows.append(_status(admin, args, shard.id, current))
        progress("CRLs", done, len(shards))
    for authority, root_crl in (await admin.parts.root_crls.current()).items():
        rows.append(_status(admin, args, shard_id(authority, 1), root_crl))
    headings = ("shard", "number", "made", "next", "entries", "behind")
    names = ("shard", "number", "this_update", "next_update", "entries", "behind")
    emit(tuple(rows), args.json, columns(headings, *names))


def _prepared(made: PreparedCeremony) -> str:
    return f"{fields(made)}\n\n{NEXT_CEREMONY.format(file=made.file)}"


def _status(admin: Admin, args: Namespace, shard: str, current: PublishedCrl | RootCrlRow | None) -> CrlStatus:
    """Return the row of one CRL. Write the CRL to `--out`, if the option is given."""
    if current is None:
        return CrlStatus(shard, 0, None, None, 0, behind=True)
    file = ""
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"{shard}.crl"
        path.write_bytes(current.data)
        file = str(path)
    behind = current.next_update <= admin.now()
    return CrlStatus(shard, current.number, current.this_update, current.next_update, current.entries, behind, file)
