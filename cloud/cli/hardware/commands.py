"""Command group: `cascade hardware`, which shows and changes the hardware that a tenant trusts.

Each change is one operation. A file that is larger than a request is sent in parts, each of which is one transaction. A
repeat of an interrupted import sends all parts again, and parts that are known already change nothing.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import get_args

from cloud.cli.arguments import id_argument
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_REFUSED
from cloud.cli.hardware import imports
from cloud.cli.hardware.shown import trust_lines, two_types
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.show import columns, complain, emit
from cloud.fabric import schemas
from protocol.endorsement import EkHash, EkType

_ATTESTED = "A node is `attested` if its EK certificate chains to a trusted root, or if its EK is allowed by name."
_KEPT = "Nodes keep their leases until they activate again, or renew with new TPM evidence."


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    showing = actions.add("show", "show the hardware that a tenant trusts, and its policies", _ATTESTED, run=show)
    _add_tenant(showing)
    _add_imports(actions)
    removing = actions.add("remove-root", "trust CA certificates no more", _KEPT, run=remove_roots)
    _add_tenant(removing)
    removing.add_argument(
        "sha256", nargs="+", metavar="SHA256", help="SHA-256 of a CA certificate; `cascade hardware show` has them"
    )
    allowing = actions.add(
        "allow-ek",
        "allow one RSA-2048 EK without a certificate",
        "`cascadia identity ek` shows its name.",
        run=allow_ek,
    )
    _add_tenant(allowing)
    allowing.add_argument("ek", metavar="NAME", help="TPM name of the EK (hex)")
    _add_note(allowing)
    _add_list_of_eks(actions)
    forgetting = actions.add("remove-ek", "allow an EK no more", _KEPT, run=remove_ek)
    _add_tenant(forgetting)
    forgetting.add_argument("ek", metavar="EK", help="the EK, in a form that `allow-eks` reads")
    _add_tenant(actions.add("list-eks", "list the EKs that a tenant allows by name", run=list_eks))


def _add_imports(actions: Commands) -> None:
    adding = actions.add(
        "add-root",
        "trust the root of a TPM maker",
        f"{_ATTESTED} Certificates of the file that cannot be used are named, and the exit code is 77; the others are "
        "trusted.",
        run=add_root,
    )
    _add_tenant(adding)
    adding.add_argument(
        "file",
        type=Path,
        metavar="PEM",
        help="file with the root and, if needed, its intermediates, in PEM, or one certificate in DER",
    )
    _add_ek_type(adding)
    importing = actions.add(
        "import-bundle",
        "trust the CA certificates of makers, as public collections publish them",
        "Prints what was taken, what was not, and why. A certificate that cannot be used does not keep the others out; the "
        "exit code is then 77. A large bundle is sent in parts.",
        run=import_bundle,
    )
    _add_tenant(importing)
    importing.add_argument("bundle", type=Path, nargs="+", metavar="PATH", help="file or folder of CA certificates")
    importing.add_argument(
        "--maker",
        action="append",
        default=[],
        metavar="NAME",
        help="take only the certificates of this maker, for example infineon or IFX (repeatable)",
    )
    importing.add_argument(
        "--dry-run", action="store_true", help="show the makers in the bundle and what would be taken; change nothing"
    )
    _add_ek_type(importing)


def _add_list_of_eks(actions: Commands) -> None:
    listing = actions.add(
        "allow-eks",
        "allow the RSA-2048 EKs of a list",
        "The list has one EK a line, or a column of a CSV file with them. Bad lines are named, and the exit code is 77; "
        "the others are allowed. A long list is sent in parts.",
        run=allow_eks,
    )
    _add_tenant(listing)
    listing.add_argument("file", type=Path, metavar="FILE", help="the list; each EK by its TPM name, or by a SHA-256")
    listing.add_argument("--column", default="", metavar="NAME", help="heading of the column with the keys")
    listing.add_argument(
        "--ek-hash",
        choices=get_args(EkHash),
        default="public",
        help="what a SHA-256 is over: the EK's TPMT_PUBLIC (public, the default), its SubjectPublicKeyInfo in DER (spki), "
        "or its certificate in DER (certificate)",
    )
    _add_note(listing)


def _add_tenant(parser: ArgumentParser) -> None:
    parser.add_argument("tenant", metavar="TENANT", help="id of the tenant")


def _add_ek_type(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--ek-type",
        choices=get_args(EkType),
        default="rsa2048",
        help="type of the EK that identifies the chips below these roots (default rsa2048)",
    )


def _add_note(parser: ArgumentParser) -> None:
    parser.add_argument("--note", default="", metavar="TEXT", help="reason why the EK is allowed")


def _path(args: Namespace) -> str:
    return f"/v1/tenants/{id_argument('ten', args.tenant)}/trust"


def show(args: Namespace) -> None:
    """Print the hardware that a tenant trusts, and its policies. Raises CliError."""
    emit(Server(args).call("GET", _path(args), schemas.TenantTrust), args.json, trust_lines)


def add_root(args: Namespace) -> int:
    """Trust the CA certificates of a file, and print how many are new. Raises CliError.

    Returns the exit code: `EXIT_REFUSED` if a certificate of the file cannot be used. The others are trusted then.
    """
    server, path = Server(args), _path(args)
    added, trusted = imports.add_roots(server, path, imports.read_blocks(args.file), args)
    emit(
        added,
        args.json,
        lambda shown: f"{shown.added} added, {shown.known} known already, {len(shown.refused)} refused",
    )
    for each in added.refused:
        complain(f"cannot use certificate {each.number} of {args.file} (line {each.line}): {each.reason}")
    for text in two_types(trusted) if trusted is not None else ():
        complain(text)
    return EXIT_REFUSED if added.refused else 0


def import_bundle(args: Namespace) -> int:
    """Trust the certificates of a bundle, and print the report. Raises CliError. Returns the exit code."""
    server, path = Server(args), _path(args)
    report, trusted = imports.import_bundles(server, path, args)
    emit(report, args.json, imports.bundle_lines)
    faults = imports.unusable(report)
    for text in (*faults, *two_types(trusted)):
        complain(text)
    return EXIT_REFUSED if faults else 0


def remove_roots(args: Namespace) -> int:
    """Remove CA certificates, and print what the tenant trusts then. Raises CliError. Returns the exit code."""
    server, path = Server(args), _path(args)
    absent, trusted = imports.remove_roots(server, path, args.sha256)
    emit(trusted, args.json, trust_lines)
    for text in absent:
        complain(text)
    return EXIT_REFUSED if absent else 0


def allow_ek(args: Namespace) -> None:
    """Allow one EK, and print what the tenant trusts then. Raises CliError."""
    body = schemas.AllowEk(ek_name=args.ek, note=args.note)
    emit(Server(args).call("POST", _path(args) + "/ek-allowed", schemas.TenantTrust, body), args.json, trust_lines)


def allow_eks(args: Namespace) -> int:
    """Allow the EKs of a list, and print the report. Raises CliError. Returns the exit code."""
    report = imports.import_eks(Server(args), _path(args), args)
    emit(report, args.json, imports.list_lines)
    faults = imports.bad_lines(report)
    for text in faults:
        complain(text)
    return EXIT_REFUSED if faults else 0


def remove_ek(args: Namespace) -> None:
    """Remove an allowed EK, and print what the tenant trusts then. Raises CliError."""
    path, body = _path(args) + "/ek-allowed/remove", schemas.RemoveEk(ek=args.ek)
    emit(Server(args).call("POST", path, schemas.TenantTrust, body), args.json, trust_lines)


def list_eks(args: Namespace) -> None:
    """Print the EKs that a tenant allows by name. Raises CliError."""
    allowed = Server(args).pages(_path(args) + "/ek-allowed", schemas.Page[schemas.AllowedEk])
    emit(allowed, args.json, columns(("allowed ek", "note", "added"), "ek_name", "note", "added_at"))
