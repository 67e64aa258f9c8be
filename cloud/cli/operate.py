"""The operators' commands: each one call of Fabric's API, printed. No decision is made here."""

from argparse import Namespace
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.cli.show import emit, pairs, table
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, write_secret
from cloud.fabric import schemas
from protocol.encoding import json_encode
from protocol.ids import IdError, NodeId, Prefix, parse_id
from protocol.messages.activation import ACTIVATION_FILE_FORMAT, ActivationFile

PAGE_SIZE = 200


def _pages(server: Server, path: str, kind: Any, limit: int = 10_000, **query: str) -> tuple[Any, ...]:
    """All items of a list, up to `limit`."""
    items: list[Any] = []
    cursor = ""
    while len(items) < limit:
        asked = {name: value for name, value in {**query, "cursor": cursor}.items() if value}
        asked["limit"] = str(min(PAGE_SIZE, limit - len(items)))
        page = server.call("GET", f"{path}?{urlencode(asked)}", kind)
        items.extend(page.items)
        cursor = page.next_cursor
        if not cursor:
            break
    return tuple(items)


def _id(prefix: Prefix, text: str) -> str:
    """An id as it goes into a path: anything else could make it another path. Raises CliError."""
    try:
        return parse_id(prefix, text)
    except IdError as error:
        raise CliError(
            EXIT_USAGE, "id_invalid", f"cannot use {text!r}: {error}", "The `list` command shows the ids."
        ) from error


def _rows(headings: tuple[str, ...], *fields: str) -> Callable[[tuple[Any, ...]], str]:
    """How a list is printed: columns of the named fields."""
    return lambda items: table(headings, [[getattr(item, field) for field in fields] for item in items])


def _fields(value: Any) -> str:
    return pairs([(name.replace("_", " "), getattr(value, name)) for name in value.__struct_fields__])


# Tenants


def tenant_create(server: Server, args: Namespace) -> None:
    tenant = server.call("POST", "/v1/tenants", schemas.Tenant, schemas.CreateTenant(name=args.name))
    emit(tenant, args.json, _fields)


def tenant_list(server: Server, args: Namespace) -> None:
    tenants = _pages(server, "/v1/tenants", schemas.Page[schemas.Tenant])
    emit(tenants, args.json, _rows(("id", "name", "tiers", "created"), "id", "name", "tiers", "created_at"))


def tenant_show(server: Server, args: Namespace) -> None:
    emit(server.call("GET", f"/v1/tenants/{_id('ten', args.tenant)}", schemas.Tenant), args.json, _fields)


def tenant_trust(server: Server, args: Namespace) -> None:
    path = f"/v1/tenants/{_id('ten', args.tenant)}/trust"
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


def _human_trust(trust: schemas.TenantTrust) -> str:
    roots = _rows(("root", "ek type", "until"), "subject", "ek_type", "not_after")(trust.ek_roots)
    allowed = _rows(("allowed ek", "note"), "ek_name", "note")(trust.ek_allowed)
    return f"tiers: {', '.join(trust.tiers)}\n\n{roots}\n\n{allowed}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot read {path}: {error}") from error


# Codes


def code_create(server: Server, args: Namespace) -> None:
    path = f"/v1/tenants/{_id('ten', args.tenant)}/codes"
    _refuse_existing(args.out)
    body = schemas.CreateCode(
        profile=args.profile,
        expires_at=_in_days(args.days),
        entitlements=tuple(args.entitlement),
        seats=args.seats,
        readmit_node=NodeId(_id("node", args.readmit)) if args.readmit else None,
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
    _write_secret(args.out, json_encode(file) + b"\n", f"The code {created.code.id} was made: revoke it.")
    # The secret is in the file and nowhere else: not on the screen, not in a log.
    emit({"code": msgspec.to_builtins(created.code), "file": str(args.out)}, args.json, _human_created_code)


def _human_created_code(document: dict[str, Any]) -> str:
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


def _in_days(days: float) -> datetime:
    """A time from now. Whether it is a sensible one is for the server to say."""
    try:
        return utc_now() + timedelta(days=days)
    except (OverflowError, ValueError) as error:
        raise CliError(EXIT_USAGE, "days_invalid", f"cannot use --days {days}: it is out of the calendar") from error


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


def code_list(server: Server, args: Namespace) -> None:
    codes = _pages(server, f"/v1/tenants/{_id('ten', args.tenant)}/codes", schemas.Page[schemas.Code])
    headings = ("id", "state", "profile", "taken", "seats", "expires", "readmits")
    emit(
        codes,
        args.json,
        _rows(headings, "id", "state", "profile", "seats_taken", "seats", "expires_at", "readmit_node"),
    )


def code_revoke(server: Server, args: Namespace) -> None:
    emit(server.call("POST", f"/v1/codes/{_id('code', args.code)}/revoke", schemas.Code, {}), args.json, _fields)


# Nodes


def node_list(server: Server, args: Namespace) -> None:
    nodes = _pages(server, "/v1/nodes", schemas.Page[schemas.Node], tenant=args.tenant)
    headings = ("id", "standing", "tier", "generation", "seat", "lease until", "closing")
    emit(
        nodes,
        args.json,
        _rows(headings, "id", "standing", "tier", "generation", "seat_held", "lease_until", "closing"),
    )


def node_show(server: Server, args: Namespace) -> None:
    emit(server.call("GET", f"/v1/nodes/{_id('node', args.node)}", schemas.NodeDetail), args.json, _human_node)


def _human_node(detail: schemas.NodeDetail) -> str:
    headings = ("generation", "state", "statement", "seq", "issued", "terminates", "certificate until")
    rows = _rows(headings, "number", "state", "statement", "seq", "issued_at", "terminate_at", "certificate_not_after")
    return f"{_fields(detail.node)}\n\n{rows(detail.generations)}"


def node_change(server: Server, args: Namespace) -> None:
    """suspend, resume, revoke and release: the action is the route's name."""
    body = schemas.ChangeStanding(reason=args.reason)
    path = f"/v1/nodes/{_id('node', args.node)}/{args.action}"
    emit(server.call("POST", path, schemas.Node, body), args.json, _fields)


# Tokens and audit


def token_create(server: Server, args: Namespace) -> None:
    _refuse_existing(args.out)
    expires_at = _in_days(args.days) if args.days else None
    body = schemas.CreateToken(name=args.name, expires_at=expires_at)
    created = server.call("POST", "/v1/tokens", schemas.CreatedToken, body)
    _write_secret(args.out, created.secret.encode() + b"\n", f"The token {created.token.id} was made: revoke it.")
    emit({"token": msgspec.to_builtins(created.token), "file": str(args.out)}, args.json, _human_created_token)


def _human_created_token(document: dict[str, Any]) -> str:
    return pairs([("token", document["token"]["id"]), ("name", document["token"]["name"]), ("file", document["file"])])


def token_list(server: Server, args: Namespace) -> None:
    tokens = _pages(server, "/v1/tokens", schemas.Page[schemas.Token])
    headings = ("id", "name", "created", "expires", "revoked")
    emit(tokens, args.json, _rows(headings, "id", "name", "created_at", "expires_at", "revoked_at"))


def token_revoke(server: Server, args: Namespace) -> None:
    emit(server.call("POST", f"/v1/tokens/{_id('tok', args.token)}/revoke", schemas.Token, {}), args.json, _fields)


def audit_list(server: Server, args: Namespace) -> None:
    entries = _pages(
        server,
        "/v1/audit",
        schemas.Page[schemas.AuditEntry],
        limit=args.limit,
        tenant=args.tenant,
        object=args.object,
    )
    emit(
        entries,
        args.json,
        _rows(("at", "actor", "action", "object", "outcome"), "at", "actor", "action", "object", "outcome"),
    )


def _refuse_existing(path: Path) -> None:
    """Asked before the secret is made: afterwards it would be lost."""
    if path.exists() or not path.parent.is_dir():
        raise CliError(
            EXIT_USAGE,
            "file_in_the_way",
            f"cannot write {path}: it exists, or its directory does not",
            "Name another file.",
        )


def _write_secret(path: Path, content: bytes, consequence: str) -> None:
    try:
        write_secret(path, content)
    except KeyFileError as error:
        raise CliError(EXIT_INTERNAL, "file_not_written", str(error), consequence) from error


COMMANDS: dict[tuple[str, str], Callable[[Server, Namespace], None]] = {
    ("tenant", "create"): tenant_create,
    ("tenant", "list"): tenant_list,
    ("tenant", "show"): tenant_show,
    ("tenant", "trust"): tenant_trust,
    ("code", "create"): code_create,
    ("code", "list"): code_list,
    ("code", "revoke"): code_revoke,
    ("node", "list"): node_list,
    ("node", "show"): node_show,
    ("node", "suspend"): node_change,
    ("node", "resume"): node_change,
    ("node", "revoke"): node_change,
    ("node", "release"): node_change,
    ("token", "create"): token_create,
    ("token", "list"): token_list,
    ("token", "revoke"): token_revoke,
    ("audit", "list"): audit_list,
}
