"""Command: `cascade pki export`, which writes authorities, CRLs and an inventory to files."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.admin import Admin
from cloud.breakwater.store.shards import shard_id
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import directory_option
from cloud.cli.pki.host import on_host
from cloud.cli.pki.progress import watcher
from cloud.cli.show import emit, fields
from cloud.contracts.breakwater import REASON_NAMES


class Exported(msgspec.Struct, frozen=True):
    """The folder that was written, and the number of objects in it."""

    directory: str
    authorities: int
    crls: int
    certificates: int


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Writes ca/AUTHORITY.pem, crl/SHARD.crl (DER) and inventory.jsonl, which has one JSON object for each "
        "certificate that was issued; `reason` is that of a revocation, as RFC 5280 spells it. No private key is written."
    )
    directory_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must be new or empty")
    parser.add_argument(
        "--certificates", action="store_true", help="also write every certificate to certificates/SERIAL.pem"
    )
    parser.set_defaults(run=on_host(export))


async def export(admin: Admin, args: Namespace) -> None:
    """Write the export and print how much it has. Raises CliError."""
    out = _new_folder(args.out, ("ca", "crl", *(("certificates",) if args.certificates else ())))
    rows = admin.parts.authorities.rows()
    for row in rows:
        (out / "ca" / f"{row.id}.pem").write_bytes(_pem(row.certificate))
    for cross in admin.parts.authorities.crosses():
        (out / "ca" / f"{cross.subject}-by-{cross.issuer}.pem").write_bytes(_pem(cross.certificate))
    crls = 0
    for shard in await admin.parts.stores.shards.all():
        crl = await admin.parts.crl_publisher.ensure_fresh(shard.id)
        if crl is not None:
            (out / "crl" / f"{shard.id}.crl").write_bytes(crl.data)
            crls += 1
    for authority, root_crl in (await admin.parts.root_crls.current()).items():
        (out / "crl" / f"{shard_id(authority, 1)}.crl").write_bytes(root_crl.data)
        crls += 1
    count = await _inventory(admin, out, args)
    made = Exported(str(out), len(rows), crls, count)
    emit(made, args.json, fields)


def _new_folder(out: Path, folders: tuple[str, ...]) -> Path:
    if out.exists() and any(out.iterdir()):
        raise CliError(
            EXIT_USAGE, "directory_in_use", f"cannot export to {out}: it is not empty", "Name another folder."
        )
    for folder in folders:
        (out / folder).mkdir(parents=True, exist_ok=True)
    return out


async def _inventory(admin: Admin, out: Path, args: Namespace) -> int:
    """Write one JSON line for each record and return the number of records.

    Issuances that were given up are included, because their serials are revoked.
    """
    after, count, progress, total = "", 0, watcher(args), await admin.parts.stores.checker_reads.count()
    with (out / "inventory.jsonl").open("wb") as lines:
        while page := await admin.parts.stores.checker_reads.records(after):
            for record in page:
                count += 1
                line = msgspec.to_builtins(record)
                line["reason"] = REASON_NAMES[record.reason] if record.state == "revoked" else ""
                for field in ("tbs", "certificate", "request_key", "closed_up_to", "closed_alone"):
                    del line[field]
                lines.write(msgspec.json.encode(line) + b"\n")
                if args.certificates and record.certificate:
                    (out / "certificates" / f"{record.serial}.pem").write_bytes(_pem(record.certificate))
            after = page[-1].serial
            progress("certificates", count, max(count, total))
    return count


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
