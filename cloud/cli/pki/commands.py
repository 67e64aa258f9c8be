"""`cascade pki` on the issuer's own host: what there is, one-time secrets, revocation, CRLs, the walk, the export.

Every command opens the issuer's database and keys, does its work and closes them; a running issuer sees it within a
second. Rotation stands in `pki_rotate.py`, the root's ceremonies in `pki_ceremony.py`.
"""

import asyncio
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.admin import Admin, opened
from cloud.breakwater.bootstrap import host_names, renew_service
from cloud.breakwater.checks.checker import Checker, Progress, Report
from cloud.breakwater.checks.pkilint import WAIVED
from cloud.breakwater.errors import IssuerError, Refused, SecondOpinionMissing, SignerUnavailable
from cloud.breakwater.store.checker_reads import Tally
from cloud.cli.errors import EXIT_INTERNAL, EXIT_REFUSED, EXIT_TRY_AGAIN, EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.cli.pki.rotate import rotate
from cloud.cli.show import emit, pairs, table
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, write_secret
from cloud.mtls.identity import CHAIN_FILE, IdentityError
from cloud.process.settings import SettingsError
from cloud.storage import DatabaseUnavailable, StorageError
from cloud.storage.errors import DatabaseBusy
from protocol.ids import SERVICE_NAMES, ServiceName

SERVICES_HERE: tuple[ServiceName, ...] = ("breakwater", "fabric")
PROGRESS_EVERY = 2_000


class AuthorityStatus(msgspec.Struct, frozen=True):
    """One authority. `has_key`: its key can be used on this host."""

    id: str
    state: str
    subject: str
    key_id: str
    not_after: datetime
    key: str
    has_key: bool
    valid: int
    revoked: int


class Status(msgspec.Struct, frozen=True):
    """What `cascade pki status` says."""

    trust_domain: str
    pki_url: str
    authorities: tuple[AuthorityStatus, ...]
    certificates: tuple[Tally, ...]
    crls: int
    crls_due: int
    oldest_crl_ends: datetime | None
    secrets_open: int


class IssuedSecret(msgspec.Struct, frozen=True):
    """A one-time secret, by the file that it was written to."""

    service: str
    file: str
    until: datetime


class Revoked(msgspec.Struct, frozen=True):
    """Serials (hex) that this command has revoked; those that were revoked before are not among them."""

    serials: tuple[str, ...]
    reason: str


class Renewed(msgspec.Struct, frozen=True):
    """A new certificate of a service, and the file it stands in."""

    service: str
    serial: str
    not_after: datetime
    file: str


class CrlStatus(msgspec.Struct, frozen=True):
    """A shard and its published CRL."""

    shard: str
    number: int
    this_update: datetime | None
    next_update: datetime | None
    entries: int
    behind: bool
    file: str = ""


class Exported(msgspec.Struct, frozen=True):
    """What was written."""

    directory: str
    authorities: int
    crls: int
    certificates: int


def run(args: Namespace) -> int:
    """One command; the exit code. Raises CliError."""
    if args.dir is None:
        raise CliError(
            EXIT_USAGE, "directory_missing", "cannot find the issuer: --dir is missing", "Name its directory."
        )
    try:
        return asyncio.run(_run(args))
    except SettingsError as error:
        raise CliError(EXIT_USAGE, "settings_refused", str(error), "Name the installation with --dir.") from error
    except Refused as error:
        raise CliError(EXIT_REFUSED, "refused", f"refused: {error}", "Nothing was changed.") from error
    except (SignerUnavailable, DatabaseBusy, DatabaseUnavailable) as error:
        raise CliError(EXIT_TRY_AGAIN, "unavailable", str(error), "Try again when it is back.") from error
    except SecondOpinionMissing as error:
        raise CliError(EXIT_USAGE, "pkilint_missing", str(error), "Leave out --pkilint, or install it.") from error
    except (KeyFileError, IdentityError, IssuerError, StorageError, OSError) as error:
        raise CliError(EXIT_INTERNAL, "issuer_unusable", str(error)) from error


async def _run(args: Namespace) -> int:
    settings_file = args.dir / "breakwater" / "settings.toml"
    async with opened(settings_file, utc_now, with_keys=args.action not in _WITHOUT_KEYS) as admin:
        return await _ACTIONS[args.action](admin, args)


async def _status(admin: Admin, args: Namespace) -> int:
    tallies = await admin.checking.tally(admin.now())
    shards = await admin.shards.all()
    newest = [await admin.shards.published(shard) for shard in shards]
    status = Status(
        trust_domain=admin.settings.trust_domain,
        pki_url=admin.settings.pki_url,
        authorities=tuple(_authority(admin, row.id, tallies) for row in admin.authorities.rows()),
        certificates=tallies,
        crls=len(shards),
        crls_due=sum(admin.publisher.is_due(shard) for shard in shards),
        oldest_crl_ends=min((crl.next_update for crl in newest if crl), default=None),
        secrets_open=sum(
            1 for row in await admin.enrolments.list() if row.used_at is None and row.expires_at > admin.now()
        ),
    )
    emit(status, args.json, _human_status)
    return 0


def _authority(admin: Admin, identifier: str, tallies: tuple[Tally, ...]) -> AuthorityStatus:
    row = next(row for row in admin.authorities.rows() if row.id == identifier)
    issuer = admin.authorities.find(identifier)
    certificate = x509.load_der_x509_certificate(row.certificate)
    mine = [tally for tally in tallies if tally.authority == identifier]
    return AuthorityStatus(
        id=identifier,
        state=row.state,
        subject=certificate.subject.rfc4514_string(),
        key_id="" if issuer is None else issuer.key_id.hex(),
        not_after=certificate.not_valid_after_utc,
        key=row.key or "offline",
        has_key=admin.assembly.signer.holds(identifier),
        valid=sum(tally.valid for tally in mine if tally.state == "issued"),
        revoked=sum(tally.count for tally in mine if tally.state in ("revoked", "orphaned")),
    )


def _human_status(status: Status) -> str:
    head = pairs(
        [
            ("trust domain", status.trust_domain),
            ("CRLs and OCSP at", status.pki_url),
            ("CRLs", f"{status.crls}, {status.crls_due} due"),
            ("oldest CRL ends", status.oldest_crl_ends),
            ("open secrets", status.secrets_open),
        ]
    )
    authorities = table(
        ("authority", "state", "subject", "ends", "key", "usable", "valid", "revoked"),
        [
            (row.id, row.state, row.subject, row.not_after, row.key, row.has_key, row.valid, row.revoked)
            for row in status.authorities
        ],
    )
    counts = table(
        ("authority", "profile", "state", "count", "valid"),
        [(row.authority, row.profile, row.state, row.count, row.valid) for row in status.certificates],
    )
    return f"{head}\n\n{authorities}\n\n{counts}"


async def _issue(admin: Admin, args: Namespace) -> int:
    if args.out.exists():
        raise CliError(EXIT_USAGE, "file_in_use", f"cannot write {args.out}: it exists", "Nothing was made.")
    if args.service not in SERVICE_NAMES:
        raise CliError(EXIT_USAGE, "service_unknown", f"there is no service {args.service!r}", ", ".join(SERVICE_NAMES))
    if args.host:
        await admin.assembly.store.issuance.add_hosts(args.service, host_names(tuple(args.host)))
    life = timedelta(hours=args.hours)
    secret = await admin.enrolments.create(args.service, admin.caller, life)
    write_secret(args.out, secret.encode() + b"\n")
    made = IssuedSecret(args.service, str(args.out), admin.now() + life)
    emit(made, args.json, _human_fields)
    return 0


async def _revoke(admin: Admin, args: Namespace) -> int:
    if args.service:
        serials = await admin.issuing.revoke_service(admin.caller, args.service, args.reason)
    else:
        serial = _serial(args)
        revoked = await admin.issuing.revoke(admin.caller, serial, args.reason)
        serials = (f"{serial:040x}",) if revoked else ()
    await admin.publisher.turn()
    emit(Revoked(serials, args.reason), args.json, _human_revoked)
    return 0


def _serial(args: Namespace) -> int:
    try:
        if args.certificate:
            return x509.load_pem_x509_certificate(args.certificate.read_bytes()).serial_number
        return int(args.serial.replace(":", ""), 16)
    except (OSError, ValueError) as error:
        named = args.certificate or args.serial
        raise CliError(
            EXIT_USAGE,
            "serial_invalid",
            f"cannot read a serial from {named}",
            "--serial takes hexadecimal digits (`openssl x509 -serial`), --certificate a PEM file. Nothing was changed.",
        ) from error


def _human_revoked(made: Revoked) -> str:
    if not made.serials:
        return "Nothing to revoke: what was named is revoked already."
    return f"Revoked ({made.reason}):\n" + "\n".join(f"  {serial}" for serial in made.serials)


async def _renew(admin: Admin, args: Namespace) -> int:
    if args.service not in SERVICES_HERE:
        names = ", ".join(SERVICES_HERE)
        raise CliError(EXIT_USAGE, "service_unknown", f"no service {args.service!r} in this installation", names)
    folder: Path = args.dir / args.service / "tls"
    passphrase_file = admin.settings.path(admin.settings.passphrase_file)
    leaf = await renew_service(admin.assembly, args.service, folder, passphrase_file, admin.caller)
    made = Renewed(args.service, f"{leaf.serial_number:040x}", leaf.not_valid_after_utc, str(folder / CHAIN_FILE))
    emit(made, args.json, _human_fields)
    return 0


async def _crl(admin: Admin, args: Namespace) -> int:
    rows, shards, progress = [], await admin.shards.all(), _watcher(args)
    for done, shard in enumerate(shards, 1):
        crl = await admin.publisher.publish(shard.id) if args.publish else await admin.publisher.ensure_fresh(shard.id)
        file = ""
        if args.out and crl is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            path = args.out / f"{shard.id}.crl"
            path.write_bytes(crl.data)
            file = str(path)
        rows.append(
            CrlStatus(
                shard=shard.id,
                number=crl.number if crl else 0,
                this_update=crl.this_update if crl else None,
                next_update=crl.next_update if crl else None,
                entries=crl.entries if crl else 0,
                behind=crl is None or crl.next_update <= admin.now(),
                file=file,
            )
        )
        progress("CRLs", done, len(shards))
    emit(tuple(rows), args.json, _human_crls)
    return 0


def _human_crls(rows: tuple[CrlStatus, ...]) -> str:
    return table(
        ("shard", "number", "made", "next", "entries", "behind"),
        [(row.shard, row.number, row.this_update, row.next_update, row.entries, row.behind) for row in rows],
    )


async def _check(admin: Admin, args: Namespace) -> int:
    others: list[tuple[str, bytes]] = []
    chains = [args.dir / service / "tls" / CHAIN_FILE for service in SERVICES_HERE]
    for path in [*(chain for chain in chains if chain.exists()), *args.certificates]:
        try:
            leaf = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CliError(EXIT_USAGE, "certificate_unusable", f"cannot read {path}: {error}") from error
        others.append((str(path), leaf.public_bytes(Encoding.DER)))
    rows = await admin.rows()
    checker = Checker(admin.checking, rows, admin.now, sample=args.pkilint, progress=_watcher(args))
    report = await checker.run(others)
    emit(report, args.json, _human_report)
    return EXIT_VERIFICATION if report.errors else 0


def _watcher(args: Namespace) -> Progress:
    """Progress goes to a terminal, and to nobody else."""
    return _progress if sys.stderr.isatty() and not args.json else _silent


def _silent(_what: str, _done: int, _all: int) -> None:
    """Nobody watches."""


def _progress(what: str, done: int, total: int) -> None:
    if done % PROGRESS_EVERY == 0 or done == total or what != "certificates":
        print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr)


def _human_report(report: Report) -> str:
    lines = [
        f"{report.certificates} certificates and {report.crls} CRLs walked, {report.second_opinions} seen by pkilint."
    ]
    lines += [
        f"Waived {report.waived[waiver.code]} times: {waiver.code}. {waiver.reason}"
        for waiver in WAIVED
        if waiver.code in report.waived
    ]
    if report.clean:
        return "\n".join((*lines, "Clean: nothing was found."))
    rows = [(finding.severity, finding.check, finding.object, finding.detail) for finding in report.findings]
    counted = ", ".join(f"{name} {count}" for name, count in sorted(report.counts.items()))
    lines += [table(("severity", "check", "object", "what"), rows), f"Counted: {counted}"]
    return "\n".join((*lines, "What each check means, and what to do: docs/pki.md."))


async def _export(admin: Admin, args: Namespace) -> int:
    out = _new_folder(args.out, ("ca", "crl", *(("certificates",) if args.certificates else ())))
    rows = admin.authorities.rows()
    for row in rows:
        (out / "ca" / f"{row.id}.pem").write_bytes(_pem(row.certificate))
    for cross in admin.authorities.crosses():
        (out / "ca" / f"{cross.subject}-by-{cross.issuer}.pem").write_bytes(_pem(cross.certificate))
    crls = 0
    for shard in await admin.shards.all():
        crl = await admin.publisher.ensure_fresh(shard.id)
        if crl is not None:
            (out / "crl" / f"{shard.id}.crl").write_bytes(crl.data)
            crls += 1
    count = await _inventory(admin, out, args)
    made = Exported(str(out), len(rows), crls, count)
    emit(made, args.json, _human_fields)
    return 0


def _new_folder(out: Path, folders: tuple[str, ...]) -> Path:
    if out.exists() and any(out.iterdir()):
        raise CliError(EXIT_USAGE, "directory_in_use", f"cannot export to {out}: it is not empty")
    for folder in folders:
        (out / folder).mkdir(parents=True, exist_ok=True)
    return out


async def _inventory(admin: Admin, out: Path, args: Namespace) -> int:
    """One JSON line a certificate; what was given up is in it, since its serial is revoked."""
    after, count, progress, total = "", 0, _watcher(args), await admin.checking.count()
    with (out / "inventory.jsonl").open("wb") as lines:
        while page := await admin.checking.records(after):
            for record in page:
                count += 1
                line = msgspec.to_builtins(record)
                for field in ("tbs", "certificate", "request_key", "closed_up_to", "closed_alone"):
                    del line[field]
                lines.write(msgspec.json.encode(line) + b"\n")
                if args.certificates and record.certificate:
                    (out / "certificates" / f"{record.serial}.pem").write_bytes(_pem(record.certificate))
            after = page[-1].serial
            progress("certificates", count, max(count, total))
    return count


def _human_fields(made: msgspec.Struct) -> str:
    return pairs([(name.replace("_", " "), getattr(made, name)) for name in made.__struct_fields__])


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


_WITHOUT_KEYS = ("check",)
"""What only reads. It must work when nothing else does."""

_ACTIONS: dict[str, Callable[[Admin, Namespace], Awaitable[int]]] = {
    "status": _status,
    "issue": _issue,
    "revoke": _revoke,
    "renew": _renew,
    "rotate": rotate,
    "crl": _crl,
    "check": _check,
    "export": _export,
}
