"""Command group: `cascade code`, which makes, lists and revokes activation codes."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import msgspec

from cloud.cli.arguments import TIERS, days_from, id_argument, lease_terms
from cloud.cli.connection import Server
from cloud.cli.entitlements import read_entitlements
from cloud.cli.options import Commands, changing_path, dry_run_option, json_option, server_options
from cloud.cli.secret_files import refuse_existing, write_secret_file
from cloud.cli.show import columns, emit, fields, pairs
from cloud.clock import utc_now
from cloud.fabric import schemas
from protocol.encoding import json_encode
from protocol.ids import NodeId
from protocol.limits import (
    EVENT_WAIT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MIN,
    WAKE_SECONDS_MIN,
)
from protocol.messages.activation import ACTIVATION_FILE_FORMAT, ActivationFile


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    making = actions.add(
        "create",
        "make an activation code and write its activation file",
        "Writes the activation file (mode 0600). `cascadia activate FILE` on the machine uses it. The file contains "
        "the code, which is a secret. Fabric stores only a hash of it, so a lost file cannot be written again.",
        run=create,
    )
    making.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    making.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="activation file to write; must not exist"
    )
    making.add_argument("--profile", default="default", metavar="NAME", help="name of the profile (default: default)")
    making.add_argument(
        "--entitlement",
        action="append",
        default=[],
        metavar="NAME[:TERM,...]",
        help="entitlement of the nodes; repeat the option for more (default: none); terms are limit=N, not-before=DATE, "
        "until=DATE and KEY=VALUE, such as cameras:limit=8,until=2027-06-30,site=north",
    )
    making.add_argument(
        "--seats", type=int, default=1, metavar="N", help="number of machines that can hold a seat (default 1)"
    )
    making.add_argument(
        "--days", type=float, default=30.0, metavar="DAYS", help="days until the code expires (default 30)"
    )
    making.add_argument(
        "--readmit",
        metavar="NODE",
        help="id of a revoked node, or of a node without a TPM; only the machine of this node can use the code",
    )
    _add_lease_options(making)
    making.add_argument(
        "--approval",
        action="store_true",
        help="an operator must approve each machine (`cascade activation approve`); without it the tenant's setting decides",
    )
    making.add_argument(
        "--tier-min",
        choices=TIERS,
        default="software",
        help="lowest tier of the machines; the tenant must admit the tier as well (default: any tier of the tenant)",
    )
    listing = actions.add("list", "list the codes of a tenant", run=list_all)
    listing.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    closing = actions.add(
        "revoke",
        "revoke a code for good",
        "No further machine can activate with the code. Nodes that were activated with it keep their licences.",
        run=revoke,
    )
    dry_run_option(closing)
    closing.add_argument("code", metavar="CODE", help="id of the code (not the secret)")


def _add_lease_options(making: ArgumentParser) -> None:
    making.add_argument(
        "--lease-seconds",
        metavar="R,E,G,T",
        help="dates of each lease in seconds after its issue: refresh after, expires, grace until, terminates; each at "
        "least as large as the one before; for machines of every tier (default: by the node's tier)",
    )
    making.add_argument(
        "--heartbeat-seconds",
        type=int,
        metavar="N",
        help=f"length of the nodes' heartbeat slots, {HEARTBEAT_SECONDS_MIN} to {HEARTBEAT_SECONDS_MAX} (default: the "
        "setting of each agent)",
    )
    making.add_argument(
        "--wake-seconds",
        type=int,
        metavar="N",
        help=f"longest long poll of the nodes, {WAKE_SECONDS_MIN} to {EVENT_WAIT_SECONDS_MAX} (default: the agent's own)",
    )


def create(args: Namespace) -> None:
    """Make a code, and write its activation file.

    The file is checked first, because the secret is returned only once. Raises CliError.
    """
    server = Server(args)
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/codes"
    refuse_existing(args.out)
    names, terms = read_entitlements(args.entitlement)
    intervals = schemas.LeaseIntervals(args.heartbeat_seconds, args.wake_seconds)
    body = schemas.CreateCode(
        profile=args.profile,
        expires_at=days_from(utc_now(), args.days),
        entitlements=names,
        seats=args.seats,
        readmit_node=NodeId(id_argument("node", args.readmit)) if args.readmit else None,
        lease=lease_terms(args.lease_seconds) if args.lease_seconds else None,
        entitlement_terms=terms,
        intervals=None if intervals == schemas.LeaseIntervals() else intervals,
        approval=args.approval,
        tier_min=args.tier_min,
    )
    created = server.call("POST", path, schemas.CreatedCode, body)
    file = ActivationFile(
        format=ACTIVATION_FILE_FORMAT,
        repository_url=server.url,
        pin=server.pin,
        code=created.secret,
        created_at=utc_now(),
    )
    write_secret_file(
        args.out,
        json_encode(file) + b"\n",
        f"The code {created.code.id} exists, but its secret is lost: revoke it with `cascade code revoke`.",
    )
    # Only the file has the secret. It is neither printed nor logged.
    emit({"code": msgspec.to_builtins(created.code), "file": str(args.out)}, args.json, _human_created)


def _human_created(document: dict[str, Any]) -> str:
    code = document["code"]
    return pairs(
        [
            ("code", code["id"]),
            ("seats", code["seats"]),
            ("entitlements", code["entitlements"]),
            ("expires at", code["expires_at"]),
            ("file", document["file"]),
            ("next", f"on the machine: cascadia activate {Path(document['file']).name}"),
        ]
    )


def list_all(args: Namespace) -> None:
    """Print all codes of a tenant. Raises CliError."""
    server = Server(args)
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/codes"
    headings = ("id", "state", "profile", "taken", "seats", "expires", "readmits", "approval", "lowest tier")
    names = ("id", "state", "profile", "seats_taken", "seats", "expires_at", "readmit_node", "approval", "tier_min")
    emit(server.pages(path, schemas.Page[schemas.Code]), args.json, columns(headings, *names))


def revoke(args: Namespace) -> None:
    """Revoke a code and print it. Raises CliError."""
    server = Server(args)
    path = changing_path(f"/v1/codes/{id_argument('code', args.code)}/revoke", args)
    emit(server.call("POST", path, schemas.Code, {}), args.json, fields)
