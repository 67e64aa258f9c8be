"""Command group: `cascade tenant`, which manages tenants and the hardware that they trust."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, get_args

import msgspec

from cloud.cli.arguments import id_argument, lease_terms, tier_list
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_REFUSED, EXIT_USAGE, CliError
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.show import columns, complain, emit, fields
from cloud.cli.tenant_trust.imports import (
    ListReport,
    add_hardware_options,
    bundle_lines,
    chosen_makers,
    complaints,
    import_bundles,
    import_eks,
    list_lines,
    remove,
    two_types,
)
from cloud.cli.tenant_trust.maker_bundles import BundleReport
from cloud.cli.tenant_trust.pem_parts import FILE_BYTES_MAX, Block, blocks, parts, text_of
from cloud.fabric import schemas
from cloud.fabric.bodies.clones import ClonePolicy, SetClonePolicy
from protocol.endorsement import EkType


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
    allowed = actions.add("allowed", "list the EKs that a tenant allows by name", run=list_allowed)
    allowed.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    _add_clone_policy(actions)
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
        help="trust the root of a TPM maker: file with the root and, if needed, its intermediates, in PEM, or one "
        "certificate in DER",
    )
    trusting.add_argument(
        "--ek-type",
        choices=get_args(EkType),
        default="rsa2048",
        help="type of the EK that identifies the chips below --ek-root (default rsa2048)",
    )
    trusting.add_argument(
        "--allow-ek", metavar="NAME", help="allow one RSA-2048 EK without a certificate, by its TPM name (hex)"
    )
    trusting.add_argument(
        "--note", default="", metavar="TEXT", help="reason why the EKs of --allow-ek or --allow-eks are allowed"
    )
    trusting.add_argument(
        "--tiers", metavar="TIERS", help="admit exactly these tiers, separated by commas: attested,tpm,software"
    )
    trusting.add_argument(
        "--approve-tiers",
        metavar="TIERS",
        help="an operator must approve each activation of these tiers, separated by commas; `none` for no tier",
    )
    trusting.add_argument(
        "--tier-lease",
        action="append",
        default=[],
        metavar="TIER=R,E,G,T",
        help="dates of the leases of a tier in seconds after the issue, for later activations whose code sets no dates: "
        "refresh after, expires, grace until, terminates; TIER=default for the default dates; may be repeated",
    )
    add_hardware_options(trusting)
    trusting.add_argument(
        "--pcr-policy",
        choices=get_args(schemas.PcrPolicy),
        help="what a quote of a machine's PCRs decides: nothing (ignore), nothing but it is recorded (report, the "
        "default), or whether the machine gets a session (require)",
    )
    trusting.add_argument(
        "--profile", default="", metavar="NAME", help="profile that --pcr-policy is for; without it every other profile"
    )


def _add_clone_policy(actions: Commands) -> None:
    policy = actions.add(
        "clone-policy",
        "set what follows when a clone of a tenant's node is suspected",
        "newest-in-grace (the default): the newest machine runs on, in grace, and the older one gets no new lease. "
        "suspend-both: the node is suspended until `cascade node settle`.",
        run=set_clone_policy,
    )
    policy.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    policy.add_argument("policy", choices=get_args(ClonePolicy), help="the policy")


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


def set_clone_policy(args: Namespace) -> None:
    """Set the tenant's policy for suspected clones, and print the tenant. Raises CliError."""
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/clone-policy"
    emit(Server(args).call("PUT", path, schemas.Tenant, SetClonePolicy(policy=args.policy)), args.json, fields)


def trust(args: Namespace) -> int:
    """Make the changes that the options name, then print the tenant's trust. Raises CliError.

    Returns the exit code: `EXIT_REFUSED` if a certificate of the file cannot be used. The others are trusted then.
    """
    server = Server(args)
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/trust"
    changes: list[tuple[str, str, Any]] = []
    upload: schemas.AddedEkRoots | None = None
    chosen_makers(args)
    absent = remove(server, path, args)  # first, so that one command can change the EK type of a root
    bundle = import_bundles(server, path, args) if args.bundle else None
    if args.ek_root:
        upload = _add_roots(server, path, _read_blocks(args.ek_root), args)
    if args.allow_ek:
        changes.append(("POST", "/ek-allowed", schemas.AllowEk(ek_name=args.allow_ek, note=args.note)))
    listed = import_eks(server, path, args) if args.allow_eks else None
    if args.tiers:
        changes.append(("PUT", "/tiers", schemas.SetTiers(tiers=tier_list(args.tiers))))
    if args.approve_tiers:
        approved = () if args.approve_tiers == "none" else tier_list(args.approve_tiers)
        changes.append(("PUT", "/approval", schemas.SetApprovalTiers(tiers=approved)))
    changes += [("PUT", "/lease", _tier_lease(text)) for text in args.tier_lease]
    if args.pcr_policy:
        changes.append(("PUT", "/pcr-policy", schemas.SetPcrPolicy(policy=args.pcr_policy, profile=args.profile)))
    for method, suffix, body in changes:
        server.call(method, path + suffix, schemas.TenantTrust, body)
    found = msgspec.structs.replace(server.call("GET", path, schemas.TenantTrust), upload=upload)
    emit(Imported.of(found, bundle, listed), args.json, _human_import)
    refused = upload.refused if upload else ()
    for each in refused:
        complain(f"cannot use certificate {each.number} of {args.ek_root} (line {each.line}): {each.reason}")
    faults = [*absent, *complaints(bundle, listed)]
    for text in (*faults, *two_types(found)):
        complain(text)
    return EXIT_REFUSED if refused or faults else 0


class Imported(schemas.TenantTrust, frozen=True, kw_only=True, omit_defaults=False):
    """The trust of a tenant, with the reports about the imported files."""

    bundle: BundleReport | None = None
    listed: ListReport | None = None

    @classmethod
    def of(cls, trust: schemas.TenantTrust, bundle: BundleReport | None, listed: ListReport | None) -> "Imported":
        """The same trust with these reports."""
        return cls(**msgspec.structs.asdict(trust), bundle=bundle, listed=listed)


def list_allowed(args: Namespace) -> None:
    """Print the EKs that a tenant allows by name. Raises CliError."""
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/trust/ek-allowed"
    allowed = Server(args).pages(path, schemas.Page[schemas.AllowedEk])
    emit(allowed, args.json, columns(("allowed ek", "note", "added"), "ek_name", "note", "added_at"))


def _tier_lease(text: str) -> schemas.SetLeaseTerms:
    """The dates of a tier in an argument TIER=R,E,G,T or TIER=default. Raises CliError."""
    name, _, dates = text.partition("=")
    tiers = tier_list(name)
    if len(tiers) != 1 or not dates:
        raise CliError(
            EXIT_USAGE,
            "lease_invalid",
            f"cannot read --tier-lease {text}: it is not TIER=R,E,G,T",
            "For example: --tier-lease software=21600,259200,432000,604800",
        )
    return schemas.SetLeaseTerms(tier=tiers[0], lease=None if dates == "default" else lease_terms(dates))


def _add_roots(server: Server, path: str, found: list[Block], args: Namespace) -> schemas.AddedEkRoots:
    """Send the PEM blocks in parts that fit a request. Numbers and lines in the result are those of the file."""
    done = schemas.AddedEkRoots(0, 0)
    sent = 0
    for part in parts(iter(found)):
        body = schemas.AddEkRoots(pem="".join(block.text for block in part), ek_type=args.ek_type)
        answer = server.call("POST", path + "/ek-roots", schemas.TenantTrust, body).upload
        if answer is not None:
            refused = [
                msgspec.structs.replace(each, number=sent + each.number, line=part[each.number - 1].line)
                for each in answer.refused
                if 0 < each.number <= len(part)
            ]
            done = schemas.AddedEkRoots(done.added + answer.added, done.known + answer.known, (*done.refused, *refused))
        sent += len(part)
    return done


def _human_import(found: Imported) -> str:
    reports = [bundle_lines(found.bundle)] if found.bundle else []
    reports += [list_lines(found.listed)] if found.listed else []
    return "\n\n".join([_human_trust(found), *reports])


def _human_trust(found: schemas.TenantTrust) -> str:
    roots = columns(
        ("root or intermediate", "maker", "root", "ek type", "until", "sha256"),
        *("subject", "maker", "root", "ek_type", "not_after", "sha256"),
    )(found.ek_roots)
    allowed = columns(("allowed ek", "note"), "ek_name", "note")(found.ek_allowed)
    policies = {"": "report", **found.pcr_policies}
    pcrs = ", ".join(f"{name or 'every other profile'}: {policies[name]}" for name in sorted(policies, reverse=True))
    lease = "".join(f"\nlease of {tier}: {_dates(terms)}" for tier, terms in sorted(found.lease_terms.items()))
    shown = (
        f"tiers: {', '.join(found.tiers)}\napproval: {', '.join(found.approval_tiers) or 'by the code'}{lease}\n"
        f"PCR quotes: {pcrs}\n\nroots: {_below(roots)}\n\n"
        f"allowed EKs: {_below(allowed)}"
    )
    if found.ek_allowed_total > len(found.ek_allowed):
        shown += f"\nand {found.ek_allowed_total - len(found.ek_allowed)} more: `cascade tenant allowed TENANT`"
    if found.upload is None:
        return shown
    counts = found.upload
    return f"{shown}\n\n{counts.added} added, {counts.known} known already, {len(counts.refused)} refused"


def _dates(terms: schemas.LeaseTerms) -> str:
    """The four dates of a lease in seconds, separated by commas."""
    return ",".join(map(str, msgspec.structs.astuple(terms)))


def _below(shown: str) -> str:
    """Return a table on the lines below its label, and the text of an empty table on the same line."""
    return f"\n{shown}" if "\n" in shown else shown


def _read_blocks(path: Path) -> list[Block]:
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
