"""Command: `cascade node rebuild`, which brings nodes back after the loss of Fabric's database."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from cryptography import x509

from cloud.cli.arguments import days_from, id_argument
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.cli.options import Commands, repeated_server_options
from cloud.cli.show import emit, fields
from cloud.clock import utc_now
from cloud.fabric.bodies.restored import (
    ENTRIES_MAX,
    BeginRebuild,
    ChangeRebuild,
    ClosedGenerations,
    ImportClosed,
    Rebuild,
)
from protocol.ids import NodeId, TenantId

T = TypeVar("T")

FILE_BYTES_MAX = 16 * 1024 * 1024
"""Largest CRL or list. A CRL of Breakwater has less than 1 MB."""


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "While a rebuild runs, nodes that Fabric does not know come back: Fabric makes their rows from their device "
        "certificates and signed statements. They keep their leases, and get no later dates until `cascade node confirm`."
    )
    steps = Commands(parser, "step", repeated_server_options)
    begin = steps.add("begin", "begin the rebuild", run=start)
    end = steps.add("end", "end the rebuild: unknown nodes are refused again; nodes that wait stay", run=change)
    begin.add_argument(
        "--days",
        type=float,
        metavar="N",
        help="end by itself after N days, at most 90 (default: 30); a repeat with it sets another end",
    )
    for each in (begin, end):
        each.add_argument("--reason", default="", metavar="TEXT", help="recorded in the audit")
    steps.add("show", "show whether a rebuild runs, and how many nodes wait", run=show)
    importing = steps.add(
        "import",
        "import what is known to be closed, before or while nodes come back",
        "Certificates in the CRLs, and the closed generations, stay closed. The CRLs are verified with the published "
        "trust. Import the last CRLs of nodes' CAs before the first node comes back.",
        run=import_closed,
    )
    importing.add_argument("--crl", type=Path, action="append", default=[], metavar="FILE", help="CRL, in DER or PEM")
    importing.add_argument(
        "--closed",
        type=Path,
        metavar="FILE",
        help="list with NODE TENANT GENERATION a line: closed up to this generation",
    )


def start(args: Namespace) -> None:
    """Begin the rebuild, or set its end. Raises CliError."""
    until = days_from(utc_now(), args.days) if args.days is not None else None
    emit(Server(args).call("POST", "/v1/rebuild/begin", Rebuild, BeginRebuild(args.reason, until)), args.json, fields)


def change(args: Namespace) -> None:
    """End the rebuild. Raises CliError."""
    emit(Server(args).call("POST", "/v1/rebuild/end", Rebuild, ChangeRebuild(args.reason)), args.json, fields)


def show(args: Namespace) -> None:
    """Print the state of the rebuild. Raises CliError."""
    emit(Server(args).call("GET", "/v1/rebuild", Rebuild), args.json, fields)


def import_closed(args: Namespace) -> None:
    """Verify the CRLs, read the list, and import both in parts. Raises CliError."""
    server = Server(args)
    generations = _closed_in(args.closed) if args.closed is not None else ()
    serials: list[str] = []
    if args.crl:
        bundle, _ = server.trust()
        issuers = [x509.load_der_x509_certificate(der) for der in bundle.node_issuers]
        for path in args.crl:
            serials += _serials_in(path, issuers)
    if not generations and not args.crl:
        raise CliError(EXIT_USAGE, "import_empty", "cannot import: neither --crl nor --closed names an entry")
    imported, state = 0, Rebuild(None, 0)
    bodies = [ImportClosed(generations=part) for part in _parts(generations)]
    bodies += [ImportClosed(serials=part) for part in _parts(serials)]
    for body in bodies or [ImportClosed()]:
        state = server.call("POST", "/v1/rebuild/closed", Rebuild, body)
        imported += state.imported
    emit(msgspec.structs.replace(state, imported=imported), args.json, fields)


def _parts(items: Sequence[T]) -> list[tuple[T, ...]]:
    return [tuple(items[start : start + ENTRIES_MAX]) for start in range(0, len(items), ENTRIES_MAX)]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CliError(EXIT_USAGE, "file_unusable", f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:  # a part of a list would leave revoked nodes in force
        raise CliError(EXIT_USAGE, "file_too_large", f"cannot read {path}: it has more than {FILE_BYTES_MAX} bytes")
    return content


def _serials_in(path: Path, issuers: Sequence[x509.Certificate]) -> list[str]:
    """The serial numbers (hex) of a CRL that one of `issuers` signed. Raises CliError."""
    content = _read(path)
    try:
        is_pem = content.lstrip().startswith(b"-----BEGIN")
        crl = x509.load_pem_x509_crl(content) if is_pem else x509.load_der_x509_crl(content)
    except ValueError as error:
        raise CliError(EXIT_USAGE, "crl_unusable", f"cannot read {path}: it is not a CRL") from error
    if not any(_signed(crl, issuer) for issuer in issuers):
        raise CliError(
            EXIT_VERIFICATION,
            "crl_unverified",
            f"cannot use {path}: no trusted CA of nodes signed the CRL",
            "Name a CRL of a CA that `cascade trust show` lists.",
        )
    return [f"{entry.serial_number:x}" for entry in crl]


def _signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    # The CAs of nodes have EC or RSA keys; Breakwater makes no other.
    key = cast(Any, issuer.public_key())
    return crl.issuer == issuer.subject and crl.is_signature_valid(key)


def _closed_in(path: Path) -> tuple[ClosedGenerations, ...]:
    """The lines of a list of closed generations. Raises CliError."""
    found = []
    for number, line in enumerate(_read(path).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 3 or not words[2].isdecimal():
            raise CliError(
                EXIT_USAGE,
                "list_unusable",
                f"cannot read line {number} of {path}: it is not NODE TENANT GENERATION",
                "Write one node a line, for example `node_... ten_... 3`.",
            )
        node, tenant = id_argument("node", words[0]), id_argument("ten", words[1])
        found.append(ClosedGenerations(NodeId(node), TenantId(tenant), int(words[2])))
    return tuple(found)
