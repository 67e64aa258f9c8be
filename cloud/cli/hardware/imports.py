"""Adapter: imports the files of trusted hardware into Fabric, in parts that fit a request, and removes hardware."""

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.hardware.ek_lists import BAD_LINES_SHOWN, BadLine, EkList, ListError, parts, read_list
from cloud.cli.hardware.ek_lists import FILE_BYTES_MAX as LIST_BYTES_MAX
from cloud.cli.hardware.maker_bundles import Bundle, BundleReport, Entry, NotTaken, Result, Taken, read_bundles
from cloud.cli.hardware.pem_parts import FILE_BYTES_MAX, Block, blocks, text_of
from cloud.cli.hardware.pem_parts import parts as pem_parts
from cloud.cli.show import columns, is_watched, progress
from cloud.fabric import schemas
from cloud.fabric.attestation.ek_makers import NoSuchMaker, maker_named
from protocol.endorsement import EkType


class ListReport(msgspec.Struct, frozen=True):
    """What was taken of a list of endorsement keys, and which lines were not. `bad` has the first of `bad_lines`."""

    file: str
    added: int
    known: int
    repeated: int
    bad_lines: int
    bad: tuple[BadLine, ...]
    total: int


def chosen_makers(args: Namespace) -> tuple[str, ...]:
    """The makers that `--maker` names. Raises CliError."""
    try:
        return tuple(dict.fromkeys(maker_named(name) for name in args.maker))
    except NoSuchMaker as error:
        raise CliError(
            EXIT_USAGE,
            "maker_unknown",
            f"cannot choose the makers: {error}",
            "`--dry-run` without --maker shows the makers in a bundle.",
        ) from error


def import_bundles(server: Server, path: str, args: Namespace) -> tuple[BundleReport, schemas.TenantTrust]:
    """Trust the certificates of bundles. `path` is that of the tenant's trust.

    Returns the report, and the trust as it is then. Raises CliError.
    """
    makers = chosen_makers(args)
    bundle = read_bundles(args.bundle)
    chosen = bundle.chosen(makers)
    if makers and not chosen:
        there = ", ".join(each.maker for each in bundle.counts(())) or "none"
        raise CliError(
            EXIT_USAGE,
            "maker_not_in_bundle",
            f"cannot import: the bundle has no certificate of {', '.join(makers)}",
            f"It has certificates of these makers: {there}.",
        )
    usable = [entry for entry in chosen if not entry.fault]
    refused = [_not_taken(entry, entry.fault) for entry in chosen if entry.fault]
    trusted = server.call("GET", path, schemas.TenantTrust)
    there_now = {each.sha256: each for each in trusted.ek_roots}
    known = [
        entry
        for entry in usable
        if entry.sha256 in there_now
        and (entry.role == "intermediate" or there_now[entry.sha256].ek_type == args.ek_type)
    ]
    taken = [_taken(entry, "known") for entry in known]
    waiting = [entry for entry in usable if entry not in known]
    if args.dry_run:
        taken += [_taken(entry, "chosen") for entry in waiting]
    else:
        added, faults, trusted = _send(server, path, waiting, trusted, args)
        taken += [_taken(entry, "added") for entry in added]
        refused += faults
    return _report(bundle, makers, taken, refused, dry_run=args.dry_run), trusted


def _send(
    server: Server, path: str, entries: Sequence[Entry], trusted: schemas.TenantTrust, args: Namespace
) -> tuple[list[Entry], list[NotTaken], schemas.TenantTrust]:
    """Send certificates in parts that fit a request.

    Returns those that were taken, those that were not, and the trust as it is then; `trusted` is that of before.
    """
    ek_type: EkType = args.ek_type
    added: list[Entry] = []
    refused: list[NotTaken] = []
    rest = list(entries)
    for part in pem_parts(entry.block for entry in entries):
        sent, rest = rest[: len(part)], rest[len(part) :]
        body = schemas.AddEkRoots(pem="".join(block.text for block in part), ek_type=ek_type)
        trusted = server.call("POST", path + "/ek-roots", schemas.TenantTrust, body)
        refusals = trusted.upload.refused if trusted.upload is not None else ()
        reasons = {each.number: each.reason for each in refusals}
        for number, entry in enumerate(sent, start=1):
            if number in reasons:
                refused.append(_not_taken(entry, reasons[number]))
            else:
                added.append(entry)
        _tell("certificates", len(entries) - len(rest), len(entries), args)
    return added, refused, trusted


def add_roots(
    server: Server, path: str, found: list[Block], args: Namespace
) -> tuple[schemas.AddedEkRoots, schemas.TenantTrust | None]:
    """Send the PEM blocks in parts that fit a request.

    Returns the sum of the answers, and the trust as it is then. Numbers and lines are those of the file.
    """
    done = schemas.AddedEkRoots(0, 0)
    sent = 0
    trusted = None
    for part in pem_parts(iter(found)):
        body = schemas.AddEkRoots(pem="".join(block.text for block in part), ek_type=args.ek_type)
        trusted = server.call("POST", path + "/ek-roots", schemas.TenantTrust, body)
        answer = trusted.upload
        if answer is not None:
            refused = [
                msgspec.structs.replace(each, number=sent + each.number, line=part[each.number - 1].line)
                for each in answer.refused
                if 0 < each.number <= len(part)
            ]
            done = schemas.AddedEkRoots(done.added + answer.added, done.known + answer.known, (*done.refused, *refused))
        sent += len(part)
        _tell("certificates", sent, len(found), args)
    return done, trusted


def read_blocks(path: Path) -> list[Block]:
    """The PEM blocks of a file, or its one certificate in DER. Raises CliError."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot read {path}: {error.strerror}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot use {path}: it has more than {FILE_BYTES_MAX} bytes")
    found = list(blocks(text_of(raw)))
    if not found:
        raise CliError(
            EXIT_USAGE,
            "file_unreadable",
            f"cannot use {path}: it contains no certificate",
            "Name a file with CA certificates in PEM, or with one certificate in DER.",
        )
    return found


def _tell(what: str, done: int, total: int, args: Namespace) -> None:
    """Show the progress of an import of several parts, unless the output is for a program."""
    if is_watched(as_json=args.json):
        progress(f"{what}: {done} of {total}", last=done >= total)


def import_eks(server: Server, path: str, args: Namespace) -> ListReport:
    """Allow the endorsement keys of a list. Raises CliError."""
    found = _read_list(args.file, args)
    added = known = total = sent = 0
    for part in parts(found.identifiers, schemas.ALLOW_EKS_MAX):
        body = schemas.AllowEks(eks=part, note=args.note)
        answer = server.call("POST", path + "/ek-allowed/import", schemas.AllowedEks, body)
        added, known, total = added + answer.added, known + answer.known, answer.total
        sent += len(part)
        _tell("EKs", sent, len(found.identifiers), args)
    return ListReport(str(args.file), added, known, found.repeated, len(found.bad), found.bad[:BAD_LINES_SHOWN], total)


def remove_roots(server: Server, path: str, wanted: Sequence[str]) -> tuple[list[str], schemas.TenantTrust]:
    """Remove CA certificates by their SHA-256 in hex. Raises CliError.

    Returns a line for each that the tenant does not trust, and the trust as it is then.
    """
    absent = []
    digests = [_digest(each) for each in wanted]
    trusted = server.call("GET", path, schemas.TenantTrust)
    there = {each.sha256 for each in trusted.ek_roots}
    for digest in digests:
        if digest in there:
            trusted = server.call("POST", f"{path}/ek-roots/{digest}/remove", schemas.TenantTrust)
        else:
            absent.append(f"cannot remove {digest}: the tenant trusts no CA certificate with this SHA-256")
    return absent, trusted


def _digest(text: str) -> str:
    """A SHA-256 in hex, for a path. Raises CliError."""
    digits = text.strip().lower().replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise CliError(EXIT_USAGE, "arguments_invalid", f"cannot remove {text!r}: a SHA-256 has 64 hex digits")
    return digits


def _read_list(file: Path, args: Namespace) -> EkList:
    try:
        with file.open("rb") as opened:
            found = read_list(opened.read(LIST_BYTES_MAX + 1), args.ek_hash, args.column)
    except OSError as error:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot read {file}: {error.strerror}") from error
    except ListError as error:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot use {file}: {error}") from error
    if not found.identifiers:
        first = f" (line {found.bad[0].line}: {found.bad[0].reason})" if found.bad else ""
        raise CliError(
            EXIT_USAGE,
            "file_unreadable",
            f"cannot use {file}: no line identifies an endorsement key{first}",
            "Each line is an EK name (68 hex digits), or a SHA-256 as --ek-hash says. `cascadia identity ek` shows the name.",
        )
    return found


def bundle_lines(report: BundleReport) -> str:
    """The report about a bundle, for people."""
    makers = columns(("maker", "roots", "intermediates", "unusable", "chosen"), *_MAKER_FIELDS)(report.makers)
    results = [each.result for each in report.taken]
    roots = sum(each.role == "root" for each in report.taken)
    counts = f"{results.count('added')} added, {results.count('known')} known already"
    if report.dry_run:
        counts = (
            f"{results.count('chosen')} would be added, {results.count('known')} known already. Nothing was changed"
        )
    lines = [
        f"bundle: {report.blocks} certificates in {report.files} files, {report.repeated} of them repeated",
        makers,
        f"{counts}: {roots} roots, {len(report.taken) - roots} intermediates; {len(report.not_taken)} cannot be used",
    ]
    return "\n".join(lines)


_MAKER_FIELDS = ("maker", "roots", "intermediates", "unusable", "chosen")


def list_lines(report: ListReport) -> str:
    """The report about a list of endorsement keys, for people."""
    return (
        f"{report.file}: {report.added} EKs added, {report.known} known already, {report.repeated} repeated in the file, "
        f"{report.bad_lines} bad lines; the tenant allows {report.total}"
    )


def unusable(bundle: BundleReport) -> list[str]:
    """A line for each certificate of a bundle that was not taken."""
    return [
        f"cannot use the certificate in {each.file}, line {each.line} ({each.subject or each.maker}): {each.reason}"
        for each in bundle.not_taken
    ]


def bad_lines(listed: ListReport) -> list[str]:
    """A line for each line of a list that was not taken."""
    found = [f"cannot use line {each.line} of {listed.file}: {each.reason}" for each in listed.bad]
    if listed.bad_lines > len(listed.bad):
        found.append(f"and {listed.bad_lines - len(listed.bad)} more lines of {listed.file}")
    return found


def _report(
    bundle: Bundle, makers: Sequence[str], taken: list[Taken], refused: list[NotTaken], *, dry_run: bool
) -> BundleReport:
    return BundleReport(
        files=bundle.files,
        blocks=bundle.blocks,
        repeated=bundle.blocks - len(bundle.entries),
        makers=bundle.counts(makers),
        taken=tuple(taken),
        not_taken=tuple(refused),
        dry_run=dry_run,
    )


def _taken(entry: Entry, result: Result) -> Taken:
    return Taken(entry.sha256, entry.subject, entry.maker, entry.role, result)


def _not_taken(entry: Entry, reason: str) -> NotTaken:
    return NotTaken(entry.file, entry.block.line, entry.maker, entry.subject, reason)
