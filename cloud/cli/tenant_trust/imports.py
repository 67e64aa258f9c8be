"""Command group: the options of `cascade tenant trust` that import and remove trusted hardware."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.show import columns
from cloud.cli.tenant_trust.ek_lists import BAD_LINES_SHOWN, BadLine, EkList, ListError, parts, read_list
from cloud.cli.tenant_trust.ek_lists import FILE_BYTES_MAX as LIST_BYTES_MAX
from cloud.cli.tenant_trust.maker_bundles import Bundle, BundleReport, Entry, NotTaken, Result, Taken, read_bundles
from cloud.cli.tenant_trust.pem_parts import parts as pem_parts
from cloud.fabric import schemas
from cloud.fabric.attestation.ek_makers import NoSuchMaker, maker_named
from protocol.endorsement import EkHash, EkType


class ListReport(msgspec.Struct, frozen=True):
    """What was taken of a list of endorsement keys, and which lines were not. `bad` has the first of `bad_lines`."""

    file: str
    added: int
    known: int
    repeated: int
    bad_lines: int
    bad: tuple[BadLine, ...]
    total: int


def add_hardware_options(trusting: ArgumentParser) -> None:
    trusting.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="trust the CA certificates of makers in a file or folder, as public collections publish them (repeatable)",
    )
    trusting.add_argument(
        "--maker",
        action="append",
        default=[],
        metavar="NAME",
        help="take only the certificates of this maker from --bundle, for example infineon or IFX (repeatable)",
    )
    trusting.add_argument(
        "--dry-run", action="store_true", help="show the makers in --bundle and what would be taken; change nothing"
    )
    trusting.add_argument(
        "--remove-root",
        action="append",
        default=[],
        metavar="SHA256",
        help="trust a CA certificate no more; its SHA-256 is in the output of this command (repeatable)",
    )
    trusting.add_argument(
        "--allow-eks",
        type=Path,
        metavar="FILE",
        help="allow the RSA-2048 EKs of a list: one a line, or a column of a CSV file; each by its TPM name, or by a SHA-256",
    )
    trusting.add_argument(
        "--column", default="", metavar="NAME", help="heading of the column of --allow-eks with the keys"
    )
    trusting.add_argument(
        "--ek-hash",
        choices=get_args(EkHash),
        default="public",
        help="what a SHA-256 in --allow-eks is over: the EK's TPMT_PUBLIC (public, the default), its "
        "SubjectPublicKeyInfo in DER (spki), or its certificate in DER (certificate)",
    )
    trusting.add_argument("--remove-ek", metavar="EK", help="allow this EK no more, in a form of --allow-eks")


def chosen_makers(args: Namespace) -> tuple[str, ...]:
    """The makers that `--maker` names. Raises CliError."""
    if (args.maker or args.dry_run) and not args.bundle:
        raise CliError(EXIT_USAGE, "arguments_invalid", "cannot choose makers: --maker and --dry-run need --bundle")
    changes = (
        args.ek_root,
        args.allow_ek,
        args.allow_eks,
        args.remove_root,
        args.remove_ek,
        args.tiers,
        args.pcr_policy,
    )
    if args.dry_run and any(changes):
        raise CliError(EXIT_USAGE, "arguments_invalid", "cannot change the trust: --dry-run changes nothing")
    try:
        return tuple(dict.fromkeys(maker_named(name) for name in args.maker))
    except NoSuchMaker as error:
        raise CliError(
            EXIT_USAGE,
            "maker_unknown",
            f"cannot choose the makers: {error}",
            "`--dry-run` without --maker shows the makers in a bundle.",
        ) from error


def import_bundles(server: Server, path: str, args: Namespace) -> BundleReport:
    """Trust the certificates of `--bundle`. `path` is that of the tenant's trust. Raises CliError."""
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
    there_now = {each.sha256: each for each in server.call("GET", path, schemas.TenantTrust).ek_roots}
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
        added, faults = _send(server, path, waiting, args.ek_type)
        taken += [_taken(entry, "added") for entry in added]
        refused += faults
    return _report(bundle, makers, taken, refused, dry_run=args.dry_run)


def _send(server: Server, path: str, entries: Sequence[Entry], ek_type: EkType) -> tuple[list[Entry], list[NotTaken]]:
    """Send certificates in parts that fit a request. Returns those that were taken, and those that were not."""
    added: list[Entry] = []
    refused: list[NotTaken] = []
    rest = list(entries)
    for part in pem_parts(entry.block for entry in entries):
        sent, rest = rest[: len(part)], rest[len(part) :]
        body = schemas.AddEkRoots(pem="".join(block.text for block in part), ek_type=ek_type)
        answer = server.call("POST", path + "/ek-roots", schemas.TenantTrust, body).upload
        reasons = {each.number: each.reason for each in answer.refused} if answer is not None else {}
        for number, entry in enumerate(sent, start=1):
            if number in reasons:
                refused.append(_not_taken(entry, reasons[number]))
            else:
                added.append(entry)
    return added, refused


def import_eks(server: Server, path: str, args: Namespace) -> ListReport:
    """Allow the endorsement keys of `--allow-eks`. Raises CliError."""
    found = _read_list(args.allow_eks, args)
    added = known = total = 0
    for part in parts(found.identifiers, schemas.ALLOW_EKS_MAX):
        body = schemas.AllowEks(eks=part, note=args.note)
        answer = server.call("POST", path + "/ek-allowed/import", schemas.AllowedEks, body)
        added, known, total = added + answer.added, known + answer.known, answer.total
    return ListReport(
        str(args.allow_eks), added, known, found.repeated, len(found.bad), found.bad[:BAD_LINES_SHOWN], total
    )


def remove(server: Server, path: str, args: Namespace) -> list[str]:
    """Remove the hardware of `--remove-root` and `--remove-ek`. Raises CliError.

    Returns a line for each CA certificate that the tenant does not trust. Its removal is no request.
    """
    absent = []
    wanted = [_digest(each) for each in args.remove_root]
    there = {each.sha256 for each in server.call("GET", path, schemas.TenantTrust).ek_roots} if wanted else set()
    for digest in wanted:
        if digest in there:
            server.call("POST", f"{path}/ek-roots/{digest}/remove", schemas.TenantTrust)
        else:
            absent.append(f"cannot remove {digest}: the tenant trusts no CA certificate with this SHA-256")
    if args.remove_ek:
        server.call("POST", path + "/ek-allowed/remove", schemas.TenantTrust, schemas.RemoveEk(ek=args.remove_ek))
    return absent


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


def complaints(bundle: BundleReport | None, listed: ListReport | None) -> list[str]:
    """A line for each certificate and each line of a list that was not taken."""
    found = [
        f"cannot use the certificate in {each.file}, line {each.line} ({each.subject or each.maker}): {each.reason}"
        for each in (bundle.not_taken if bundle else ())
    ]
    if listed is not None:
        found += [f"cannot use line {each.line} of {listed.file}: {each.reason}" for each in listed.bad]
        if listed.bad_lines > len(listed.bad):
            found.append(f"and {listed.bad_lines - len(listed.bad)} more lines of {listed.file}")
    return found


def two_types(trust: schemas.TenantTrust) -> list[str]:
    """A warning for each maker whose roots name several EK types: one of its chips could be two nodes."""
    types: dict[str, set[str]] = {}
    for each in trust.ek_roots:
        if each.root and each.maker:
            types.setdefault(each.maker, set()).add(each.ek_type)
    return [
        f"the roots of {maker} name several EK types: {', '.join(sorted(found))}. A chip with keys of several types "
        "could activate as several nodes. Trust the roots of one maker for one type."
        for maker, found in sorted(types.items())
        if len(found) > 1 and maker != "unknown"
    ]


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
