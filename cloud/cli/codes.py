"""Command group: `cascade code`, activation codes."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import msgspec

from cloud.cli.arguments import days_from, id_argument
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.secret_files import refuse_existing, write_secret_file
from cloud.cli.show import columns, emit, fields, pairs
from cloud.clock import utc_now
from cloud.fabric import schemas
from protocol.encoding import json_encode
from protocol.ids import NodeId
from protocol.messages.activation import ACTIVATION_FILE_FORMAT, ActivationFile


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    making = actions.add(
        "create",
        "make an activation code and its file",
        "Writes the activation file (mode 0600) that `cascadia activate FILE` takes. The code is a secret; it is "
        "stored here as a hash only.",
        run=create,
    )
    making.add_argument("tenant", metavar="TENANT", help="id")
    making.add_argument("--out", type=Path, required=True, metavar="FILE", help="activation file to write")
    making.add_argument("--profile", default="default", help="name of the profile (default: default)")
    making.add_argument("--entitlement", action="append", default=[], metavar="NAME", help="may be given repeatedly")
    making.add_argument("--seats", type=int, default=1, help="machines that may hold a seat (default 1)")
    making.add_argument("--days", type=float, default=30.0, help="how long the code is open (default 30)")
    making.add_argument("--readmit", metavar="NODE", help="readmit this revoked node, and no other machine")
    making.add_argument(
        "--lease-seconds",
        metavar="R,E,G,T",
        help="refresh after, expires, grace, terminates; seconds from issue (default: by tier)",
    )
    listing = actions.add("list", "list a tenant's codes", run=list_all)
    listing.add_argument("tenant", metavar="TENANT", help="id")
    closing = actions.add("revoke", "close a code for good", run=revoke)
    closing.add_argument("code", metavar="CODE", help="id, not the secret")


def create(args: Namespace) -> None:
    server = Server(args)
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/codes"
    refuse_existing(args.out)
    body = schemas.CreateCode(
        profile=args.profile,
        expires_at=days_from(utc_now(), args.days),
        entitlements=tuple(args.entitlement),
        seats=args.seats,
        readmit_node=NodeId(id_argument("node", args.readmit)) if args.readmit else None,
        lease=_lease_terms(args.lease_seconds),
    )
    created = server.call("POST", path, schemas.CreatedCode, body)
    file = ActivationFile(
        format=ACTIVATION_FILE_FORMAT,
        repository_url=server.url,
        pin=server.pin,
        code=created.secret,
        created_at=utc_now(),
    )
    write_secret_file(args.out, json_encode(file) + b"\n", f"The code {created.code.id} was made: revoke it.")
    # The secret is in the file and nowhere else: not on the screen, not in a log.
    emit({"code": msgspec.to_builtins(created.code), "file": str(args.out)}, args.json, _human_created)


def _human_created(document: dict[str, Any]) -> str:
    code = document["code"]
    return pairs(
        [
            ("code", code["id"]),
            ("seats", code["seats"]),
            ("expires at", code["expires_at"]),
            ("file", document["file"]),
            ("next", f"on the machine: cascadia activate {Path(document['file']).name}"),
        ]
    )


def _lease_terms(text: str | None) -> schemas.LeaseTerms | None:
    if not text:
        return None
    try:
        refresh, expires, grace, terminate = (int(part) for part in text.split(","))
    except ValueError as error:
        raise CliError(
            EXIT_USAGE, "lease_invalid", "cannot read --lease-seconds: four whole numbers R,E,G,T"
        ) from error
    return schemas.LeaseTerms(
        refresh_after_seconds=refresh, expires_seconds=expires, grace_seconds=grace, terminate_seconds=terminate
    )


def list_all(args: Namespace) -> None:
    server = Server(args)
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/codes"
    headings = ("id", "state", "profile", "taken", "seats", "expires", "readmits")
    names = ("id", "state", "profile", "seats_taken", "seats", "expires_at", "readmit_node")
    emit(server.pages(path, schemas.Page[schemas.Code]), args.json, columns(headings, *names))


def revoke(args: Namespace) -> None:
    server = Server(args)
    path = f"/v1/codes/{id_argument('code', args.code)}/revoke"
    emit(server.call("POST", path, schemas.Code, {}), args.json, fields)
