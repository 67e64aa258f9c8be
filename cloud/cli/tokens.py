"""Command group: `cascade token`, which makes, lists and revokes operators' tokens."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import msgspec

from cloud.cli.arguments import days_from, id_argument
from cloud.cli.connection import Server
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.secret_files import refuse_existing, write_secret_file
from cloud.cli.show import columns, emit, fields, pairs
from cloud.clock import utc_now
from cloud.fabric import schemas


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    making = actions.add(
        "create",
        "make a token and write it to a file (mode 0600)",
        "The token is a secret. Fabric stores only a hash of it, so a lost file cannot be written again.",
        run=create,
    )
    making.add_argument("name", metavar="NAME", help="the token's holder or purpose; shown in the list and the audit")
    making.add_argument("--out", type=Path, required=True, metavar="FILE", help="token file to write; must not exist")
    making.add_argument(
        "--days", type=float, default=0.0, metavar="DAYS", help="days until the token expires (default: never)"
    )
    actions.add("list", "list tokens", run=list_all)
    closing = actions.add("revoke", "revoke a token at once and for good", run=revoke)
    closing.add_argument("token", metavar="TOKEN", help="id of the token (not the secret)")


def create(args: Namespace) -> None:
    """Make a token and write it to `--out`.

    The file is checked first, because the secret is returned only once. Raises CliError.
    """
    server = Server(args)
    refuse_existing(args.out)
    expires_at = days_from(utc_now(), args.days) if args.days else None
    body = schemas.CreateToken(name=args.name, expires_at=expires_at)
    created = server.call("POST", "/v1/tokens", schemas.CreatedToken, body)
    write_secret_file(
        args.out,
        created.secret.encode() + b"\n",
        f"The token {created.token.id} exists, but its secret is lost: revoke it with `cascade token revoke`.",
    )
    emit({"token": msgspec.to_builtins(created.token), "file": str(args.out)}, args.json, _human_created)


def _human_created(document: dict[str, Any]) -> str:
    return pairs([("token", document["token"]["id"]), ("name", document["token"]["name"]), ("file", document["file"])])


def list_all(args: Namespace) -> None:
    """Print all tokens. Raises CliError."""
    tokens = Server(args).pages("/v1/tokens", schemas.Page[schemas.Token])
    headings = ("id", "name", "created", "expires", "revoked")
    emit(tokens, args.json, columns(headings, "id", "name", "created_at", "expires_at", "revoked_at"))


def revoke(args: Namespace) -> None:
    """Revoke a token and print it. Raises CliError."""
    server = Server(args)
    path = f"/v1/tokens/{id_argument('tok', args.token)}/revoke"
    emit(server.call("POST", path, schemas.Token, {}), args.json, fields)
