"""Command: `cascade pki check`, which checks all certificates, CRLs and records of the issuer."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.checks.checker import Checker, Report
from cloud.breakwater.checks.pkilint import WAIVED
from cloud.breakwater.store import Stores
from cloud.cli.errors import EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.cli.options import directory_option
from cloud.cli.pki.host import SERVICES_HERE, on_records
from cloud.cli.pki.progress import watcher
from cloud.cli.show import emit, table
from cloud.clock import utc_now
from cloud.mtls.identity import CHAIN_FILE


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Checks every certificate that was issued, and every CRL: form, chain, record. Changes nothing and needs no "
        "key, and can run beside a running Breakwater. Exit code 65 if something is wrong, 0 if there are only "
        "warnings. docs/pki.md says what each finding means."
    )
    directory_option(parser)
    parser.add_argument(
        "--pkilint",
        type=int,
        default=0,
        metavar="N",
        help="let pkilint check N random certificates as well (default 0; pkilint must be installed)",
    )
    parser.add_argument(
        "--certificates",
        type=Path,
        action="append",
        default=[],
        metavar="PEM",
        help="report this certificate if the issuer has no record of it; repeat the option for more",
    )
    # The command opens no key, so that it also works when the keys cannot be used.
    parser.set_defaults(run=on_records(check))


async def check(stores: Stores, args: Namespace) -> int:
    """Check everything and print the report. Returns exit code 65 if there are errors, otherwise 0.

    The chains of the services on this host must be on record too. Raises CliError.
    """
    others: list[tuple[str, bytes]] = []
    chains = [args.dir / service / "tls" / CHAIN_FILE for service in SERVICES_HERE]
    for path in [*(chain for chain in chains if chain.exists()), *args.certificates]:
        try:
            leaf = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CliError(EXIT_USAGE, "certificate_unusable", f"cannot read {path}: {error}") from error
        others.append((str(path), leaf.public_bytes(Encoding.DER)))
    rows = await stores.authorities.rows()
    root_crls = [await stores.root_crls.newest(row.id) for row in rows if row.ca == "root"]
    checker = Checker(
        stores.checker_reads,
        rows,
        utc_now,
        root_crls=[crl for crl in root_crls if crl is not None],
        sample=args.pkilint,
        progress=watcher(args),
    )
    report = await checker.run(others)
    emit(report, args.json, _human_report)
    return EXIT_VERIFICATION if report.errors else 0


def _human_report(report: Report) -> str:
    lines = [
        f"{report.certificates} certificates and {report.crls} CRLs checked, {report.pkilint_certificates} by pkilint."
    ]
    lines += [
        f"Waived {report.waived[waiver.code]} times: {waiver.code}. {waiver.reason}"
        for waiver in WAIVED
        if waiver.code in report.waived
    ]
    if report.clean:
        return "\n".join((*lines, "Clean: nothing is wrong."))
    rows = [(finding.severity, finding.check, finding.object, finding.detail) for finding in report.findings]
    counted = ", ".join(f"{name} {count}" for name, count in sorted(report.counts.items()))
    lines += [table(("severity", "check", "object", "what"), rows), f"Findings by check: {counted}"]
    return "\n".join((*lines, "docs/pki.md says what each check means and what to do."))
