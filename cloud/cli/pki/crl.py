"""Command: `cascade pki crl`, which shows the published CRLs, makes new ones and writes them to files."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path

import msgspec

from cloud.breakwater.admin import Admin
from cloud.cli.options import directory_option
from cloud.cli.pki.host import on_host
from cloud.cli.pki.progress import watcher
from cloud.cli.show import columns, emit


class CrlStatus(msgspec.Struct, frozen=True):
    """A CRL shard and its published CRL.

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
    parser.set_defaults(run=on_host(crl))


async def crl(admin: Admin, args: Namespace) -> None:
    """Print the CRL of every shard, and write it to `--out`."""
    rows, shards, progress = [], await admin.parts.stores.shards.all(), watcher(args)
    for done, shard in enumerate(shards, 1):
        publish = admin.parts.crl_publisher.publish if args.publish else admin.parts.crl_publisher.ensure_fresh
        current = await publish(shard.id)
        file = ""
        if args.out and current is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            path = args.out / f"{shard.id}.crl"
            path.write_bytes(current.data)
            file = str(path)
        rows.append(
            CrlStatus(
                shard=shard.id,
                number=current.number if current else 0,
                this_update=current.this_update if current else None,
                next_update=current.next_update if current else None,
                entries=current.entries if current else 0,
                behind=current is None or current.next_update <= admin.now(),
                file=file,
            )
        )
        progress("CRLs", done, len(shards))
    headings = ("shard", "number", "made", "next", "entries", "behind")
    names = ("shard", "number", "this_update", "next_update", "entries", "behind")
    emit(tuple(rows), args.json, columns(headings, *names))
