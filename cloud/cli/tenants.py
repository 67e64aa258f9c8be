"""Command group: `cascade tenant`, which manages tenants and their policies for machines."""

from argparse import ArgumentParser, Namespace
from typing import Any, get_args

from cloud.cli.arguments import id_argument, lease_terms, tier_list
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.hardware.shown import policy_lines
from cloud.cli.options import Commands, changing_path, dry_run_option, json_option, server_options
from cloud.cli.show import columns, emit, fields
from cloud.fabric import schemas
from cloud.fabric.bodies.clones import ClonePolicy, SetClonePolicy


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    making = actions.add(
        "create",
        "make a tenant",
        "A new tenant admits `attested` hardware only. `cascade tenant tiers` changes this.",
        run=create,
    )
    making.add_argument("name", metavar="NAME", help="name of the tenant, for people")
    actions.add("list", "list tenants", run=list_all)
    actions.add("show", "show a tenant", run=show).add_argument("tenant", metavar="TENANT", help="id of the tenant")
    _add_policies(actions)
    _add_clone_policy(actions)


def _add_policies(actions: Commands) -> None:
    tiers = actions.add(
        "tiers",
        "set the tiers that a tenant admits",
        "Leases of nodes that are activated already stay in force.",
        run=set_tiers,
    )
    dry_run_option(tiers)
    tiers.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    tiers.add_argument("tiers", metavar="TIERS", help="exactly these tiers, separated by commas: attested,tpm,software")
    approving = actions.add(
        "approve-tiers",
        "set the tiers whose activations an operator must approve",
        "A code can demand an approval for its machines as well (`cascade code create --approval`).",
        run=set_approval_tiers,
    )
    dry_run_option(approving)
    approving.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    approving.add_argument("tiers", metavar="TIERS", help="these tiers, separated by commas; `none` for no tier")
    lease = actions.add(
        "lease",
        "set the dates of the leases of a tier",
        "They are for activations from now on whose code sets no dates. A node takes them over at its next activation.",
        run=set_lease,
    )
    dry_run_option(lease)
    lease.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    lease.add_argument("tier", metavar="TIER", help="the tier: attested, tpm or software")
    lease.add_argument(
        "dates",
        metavar="R,E,G,T",
        help="dates in seconds after the issue: refresh after, expires, grace until, terminates; `default` for the default",
    )
    quotes = actions.add(
        "pcr-policy",
        "set what a quote of a machine's PCRs decides",
        "ignore: nothing. report (the default): nothing, but it is recorded. require: whether the machine gets a session; "
        "a machine without a TPM is not activated.",
        run=set_pcr_policy,
    )
    dry_run_option(quotes)
    quotes.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    quotes.add_argument("policy", choices=get_args(schemas.PcrPolicy), help="the policy")
    quotes.add_argument(
        "--profile", default="", metavar="NAME", help="profile that the policy is for; without it every other profile"
    )


def _add_clone_policy(actions: Commands) -> None:
    policy = actions.add(
        "clone-policy",
        "set what follows when a clone of a tenant's node is suspected",
        "newest-in-grace (the default): the newest machine runs on, in grace, and the older one gets no new lease. "
        "suspend-both: the node is suspended until `cascade node settle`.",
        run=set_clone_policy,
    )
    dry_run_option(policy)
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
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}"
    body = SetClonePolicy(policy=args.policy)
    emit(
        Server(args).put(changing_path(f"{path}/clone-policy", args), schemas.Tenant, body, read=path),
        args.json,
        fields,
    )


def set_tiers(args: Namespace) -> None:
    """Set the tiers that the tenant admits, and print its policies. Raises CliError."""
    _set(args, "tiers", schemas.SetTiers(tiers=tier_list(args.tiers)))


def set_approval_tiers(args: Namespace) -> None:
    """Set the tiers that a person approves, and print the tenant's policies. Raises CliError."""
    _set(args, "approval", schemas.SetApprovalTiers(() if args.tiers == "none" else tier_list(args.tiers)))


def set_lease(args: Namespace) -> None:
    """Set the dates of the leases of a tier, and print the tenant's policies. Raises CliError."""
    tiers = tier_list(args.tier)
    if len(tiers) != 1:
        raise CliError(EXIT_USAGE, "tiers_invalid", f"cannot set the dates of {args.tier!r}: name one tier")
    lease = None if args.dates == "default" else lease_terms(args.dates)
    _set(args, "lease", schemas.SetLeaseTerms(tier=tiers[0], lease=lease))


def set_pcr_policy(args: Namespace) -> None:
    """Set the policy for PCR quotes, and print the tenant's policies. Raises CliError."""
    _set(args, "pcr-policy", schemas.SetPcrPolicy(policy=args.policy, profile=args.profile))


def _set(args: Namespace, setting: str, body: Any) -> None:
    """Send a setting, and print the tenant's policies. `setting` is the last part of the path. Raises CliError."""
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/trust"
    emit(
        Server(args).put(changing_path(f"{path}/{setting}", args), schemas.TenantTrust, body, read=path),
        args.json,
        policy_lines,
    )
