"""Command: `cascade pki revoke`, which revokes certificates of services for good."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec
from cryptography import x509

from cloud.breakwater.admin import Admin
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import directory_option
from cloud.cli.pki.host import on_host
from cloud.cli.show import emit
from cloud.contracts.breakwater import REASON_NUMBERS


class Revoked(msgspec.Struct, frozen=True):
    """The serials (hexadecimal) that this command has revoked. Serials that were revoked before are not included."""

    serials: tuple[str, ...]
    reason: str


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Revokes certificates of services, and publishes their CRLs. OCSP and CRLs show the revocation at once; the "
        "other services refuse the certificate as soon as they have read the revocation feed. A node is revoked with "
        "`cascade node revoke`."
    )
    directory_option(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--serial", metavar="HEX", help="revoke the certificate with this serial (hexadecimal)")
    which.add_argument("--certificate", type=Path, metavar="PEM", help="revoke the certificate in this file")
    which.add_argument("--service", metavar="SERVICE", help="revoke every certificate of this service")
    parser.add_argument(
        "--reason",
        choices=tuple(REASON_NUMBERS),
        default="unspecified",
        help="reason in CRL and OCSP, RFC 5280 section 5.3.1 (default unspecified)",
    )
    parser.set_defaults(run=on_host(revoke))


async def revoke(admin: Admin, args: Namespace) -> None:
    """Revoke certificates, then publish the CRLs that are due. Raises CliError."""
    if args.service:
        serials = await admin.parts.service_certificates.revoke_all(admin.caller, args.service, args.reason)
    else:
        serial = _serial(args)
        revoked = await admin.parts.service_certificates.revoke(admin.caller, serial, args.reason)
        serials = (f"{serial:040x}",) if revoked else ()
    await admin.parts.crl_publisher.run_once()
    emit(Revoked(serials, args.reason), args.json, _human_revoked)


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
            f"cannot read a serial number from {named}",
            "Give --serial hexadecimal digits, as `openssl x509 -serial` prints them, or --certificate a PEM file. "
            "Nothing was changed.",
        ) from error


def _human_revoked(made: Revoked) -> str:
    if not made.serials:
        return "Nothing to revoke: all these certificates are revoked already."
    return f"Revoked ({made.reason}):\n" + "\n".join(f"  {serial}" for serial in made.serials)
