"""Command group: `cascade tenant`, which manages tenants and the hardware that they trust."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from cloud.cli.arguments import id_argument
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.show import columns, emit, fields
from cloud.fabric import schemas


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    making = actions.add(
        "create",
        "make a tenant",
        "A new tenant admits `attested` hardware only. `cascade tenant trust TENANT --tiers` changes this.",
        run=create,
    )
    making.add_argument("name", metavar="NAME", help="name of the tenant, for people")
    actions.add("list", "list tenants", run=list_all)
    actions.add("show", "show a tenant", run=show).add_argument("tenant", metavar="TENANT", help="id of the tenant")
    trusting = actions.add(
        "trust",
        "show or change which hardware a tenant trusts",
        "Makes the changes that the options name, then shows what the tenant trusts. A node is `attested` if its EK "
        "certificate chains to a trusted root, or if its EK is allowed by name.",
        run=trust,
    )
    trusting.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    trusting.add_argument(
        "--ek-root",
        type=Path,
        metavar="PEM",
        help="trust the root of a TPM maker: file with the root and, if needed, its intermediates",
    )
    trusting.add_argument(
        "--ek-type",
        choices=["rsa2048", "ecc_p256"],
        default="rsa2048",
        help="type of the EK that identifies the chips below --ek-root (default rsa2048)",
    )
    trusting.add_argument(
        "--allow-ek", metavar="NAME", help="allow one RSA-2048 EK without a certificate, by its TPM name (hex)"
    )
    trusting.add_argument(
        "--note", default="", metavar="TEXT", help="reason why --allow-ek is allowed; shown with the tenant's trust"
    )
    trusting.add_argument(
        "--tiers", metavar="TIERS", help="admit exactly these tiers, separated by commas: attested,tpm"
    )


def create(args: Namespace) -> None:
    """Make a tenant and print it. Raises CliError."""
    tenant = Server(args).call("POST", "/v1/tenants", schemas.Tenant, schemas.CreateTenant(name=args.name))
    emit(tenant, args.json, fields)


def list_all(args: Namespace) -> None:
    """Print all tenants. Raises CliError."""
    tenants = Server(args).pages("/v1/tenants", schemas.Page[schemas.Tenant])
    emit(tenants, args.json, columns(("id", "name", "tiers", "created"), "id", "name", "tiers", "created_at"))


def show(args: Namespace) -> None:
    """Print a tenant. Raises CliError."""
    server = Server(args)
    emit(server.call("GET", f"/v1/tenants/{id_argument('ten', args.tenant)}", schemas.Tenant), args.json, fields)


def trust(args: Namespace) -> None:
    """Make the changes that the options name, one request each, then print the tenant's trust. Raises CliError."""
    server = Server(args)
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/trust"
    changes: list[tuple[str, str, Any]] = []
    if args.ek_root:
        body = schemas.AddEkRoots(pem=_read_text(args.ek_root), ek_type=args.ek_type)
        changes.append(("POST", "/ek-roots", body))
    if args.allow_ek:
        changes.append(("POST", "/ek-allowed", schemas.AllowEk(ek_name=args.allow_ek, note=args.note)))
    if args.tiers:
        changes.append(("PUT", "/tiers", {"tiers": [tier.strip() for tier in args.tiers.split(",")]}))
    for method, suffix, body in changes:
        server.call(method, path + suffix, schemas.TenantTrust, body)
    emit(server.call("GET", path, schemas.TenantTrust), args.json, _human_trust)


def _human_trust(found: schemas.TenantTrust) -> str:
    roots = columns(("root", "ek type", "until"), "subject", "ek_type", "not_after")(found.ek_roots)
    allowed = columns(("allowed ek", "note"), "ek_name", "note")(found.ek_allowed)
    return f"tiers: {', '.join(found.tiers)}\n\n{roots}\n\n{allowed}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot read {path}: {error}") from error
