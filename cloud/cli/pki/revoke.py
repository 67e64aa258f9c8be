"""Command: `cascade pki revoke`, certificates of services that end for good."""

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
    """Serials (hex) that this command has revoked; those that were revoked before are not among them."""

    serials: tuple[str, ...]
    reason: str


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Peers refuse them from their next request on, OCSP and CRL show them at once. Nodes are revoked with "
        "`cascade node revoke`."
    )
    directory_option(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--serial", metavar="HEX", help="one certificate")
    which.add_argument("--certificate", type=Path, metavar="PEM", help="the certificate in this file")
    which.add_argument("--service", metavar="SERVICE", help="every certificate of this service")
    parser.add_argument("--reason", choices=tuple(REASON_NUMBERS), default="unspecified", help="RFC 5280 section 5.3.1")
    parser.set_defaults(run=on_host(revoke))


async def revoke(admin: Admin, args: Namespace) -> None:
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
            f"cannot read a serial from {named}",
            "--serial takes hexadecimal digits (`openssl x509 -serial`), --certificate a PEM file. Nothing was changed.",
        ) from error


def _human_revoked(made: Revoked) -> str:
    if not made.serials:
        return "Nothing to revoke: what was named is revoked already."
    return f"Revoked ({made.reason}):\n" + "\n".join(f"  {serial}" for serial in made.serials)
