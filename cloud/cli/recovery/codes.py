"""Commands: `cascade recovery codes issue`, `list` and `revoke`."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from cloud.cli.arguments import days_from, id_argument, tenant_filter
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import Commands, repeated_server_options
from cloud.cli.secret_files import refuse_existing, write_secret_file
from cloud.cli.show import columns, emit, fields, pairs, table
from cloud.clock import utc_now
from cloud.fabric import schemas
from cloud.fabric.bodies.recovery_codes import CODES_AT_ONCE_MAX, IssuedRecoveryCodes, IssueRecoveryCodes, RecoveryCode
from protocol.encoding import json_encode
from protocol.ids import NodeId, RecoveryId, TenantId
from protocol.messages.activation import ACTIVATION_FILE_FORMAT, ActivationFile

_LOST = "The codes {} exist, but their texts are lost: revoke each with `cascade recovery codes revoke`."


def add_options(group: ArgumentParser) -> None:
    """Add the steps of `cascade recovery codes`."""
    steps = Commands(group, "step", repeated_server_options)
    issuing = steps.add(
        "issue",
        "issue recovery codes for a node, a case, or any node of a tenant",
        "Prints the codes once; Fabric stores only keyed hashes. A code can be read out on the phone: case, spaces and "
        "hyphens do not matter, and o is 0, i and l are 1. If the node had another code in the period of the tenant's "
        "policy, the new ones are accepted only after a delay (`cascade recovery policy`).",
        run=issue,
    )
    scope = issuing.add_mutually_exclusive_group(required=True)
    scope.add_argument("--node", metavar="NODE", help="id of the node that each code recovers")
    scope.add_argument("--case", metavar="CASE", help="id of a case that waits; the code is for the node of the case")
    scope.add_argument(
        "--tenant",
        metavar="TENANT",
        help="id of a tenant; each code recovers any of its nodes whose fingerprint matches",
    )
    issuing.add_argument(
        "--count", type=int, default=1, metavar="K", help=f"number of codes, 1 to {CODES_AT_ONCE_MAX} (default 1)"
    )
    issuing.add_argument(
        "--expires-in", type=float, default=30.0, metavar="DAYS", help="days until the codes expire (default 30)"
    )
    issuing.add_argument(
        "--out", type=Path, metavar="FILE", help="write the codes to this file (mode 0600) instead of printing them"
    )
    issuing.add_argument(
        "--recovery-file",
        type=Path,
        metavar="FILE",
        help="write a recovery file (mode 0600) for `cascadia recover --file FILE` on a machine whose disk is lost: it has the "
        "code, the trust pin and the installation's URL; not with --out, --tenant or several codes",
    )
    listing = steps.add("list", "list recovery codes, without their texts", run=list_all)
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only codes of this tenant (id)")
    listing.add_argument("--node", default="", metavar="NODE", help="only codes of this node (id)")
    listing.add_argument(
        "--delayed", action="store_true", help="only codes that were issued again and are not accepted yet"
    )
    closing = steps.add("revoke", "revoke a recovery code for good", run=revoke)
    closing.add_argument("code", metavar="CODE", help="id of the code (not its text)")


def issue(args: Namespace) -> None:
    """Issue codes, and print them or write them to a file.

    The file is checked first, because the texts are returned only once. Raises CliError.
    """
    server = Server(args)
    file = args.recovery_file or args.out
    if args.recovery_file is not None and (args.out is not None or args.tenant is not None or args.count != 1):
        raise CliError(
            EXIT_USAGE,
            "recovery_file_invalid",
            "cannot write a recovery file: it has one code, for one node",
            "Name --node or --case, leave out --out, and issue one code.",
        )
    if file is not None:
        refuse_existing(file)
    body = IssueRecoveryCodes(
        expires_at=days_from(utc_now(), args.expires_in),
        node=NodeId(id_argument("node", args.node)) if args.node else None,
        case=RecoveryId(id_argument("rcv", args.case)) if args.case else None,
        tenant=TenantId(id_argument("ten", args.tenant)) if args.tenant else None,
        count=args.count,
    )
    issued = server.call("POST", "/v1/recovery/codes", IssuedRecoveryCodes, body)
    if file is not None:
        content = _recovery_file(server, issued) if args.recovery_file else _text_file(issued)
        write_secret_file(file, content, _LOST.format(", ".join(each.code.id for each in issued.codes)))
    emit(_document(issued, file, recovery=args.recovery_file is not None), args.json, _human_issued)


def _recovery_file(server: Server, issued: IssuedRecoveryCodes) -> bytes:
    (made,) = issued.codes
    file = ActivationFile(
        format=ACTIVATION_FILE_FORMAT,
        repository_url=server.url,
        pin=server.pin,
        code=made.secret,
        created_at=utc_now(),
        node=NodeId(made.code.node),
    )
    return json_encode(file) + b"\n"


def _text_file(issued: IssuedRecoveryCodes) -> bytes:
    """One code a line, to print."""
    return "".join(f"{each.secret}\n" for each in issued.codes).encode()


def _document(issued: IssuedRecoveryCodes, file: Path | None, *, recovery: bool) -> dict[str, Any]:
    """The printed values. The texts of codes that are in a file are neither printed nor logged."""
    codes = [
        msgspec.to_builtins(each.code) | ({} if file is not None else {"secret": each.secret}) for each in issued.codes
    ]
    return {
        "codes": codes,
        "reissued": issued.reissued,
        "file": "" if file is None else str(file),
        "recovery_file": recovery,
    }


def _human_issued(document: dict[str, Any]) -> str:
    codes = document["codes"]
    first = codes[0]
    if document["file"]:
        shown = table(("id",), [(code["id"],) for code in codes])
    else:
        shown = table(("code", "id"), [(code["secret"], code["id"]) for code in codes])
    rows: list[tuple[str, object]] = [
        ("for", first["node"] or "any node of the tenant whose fingerprint matches"),
        ("accepted from", datetime.fromisoformat(first["usable_from"])),
        ("expires at", datetime.fromisoformat(first["expires_at"])),
    ]
    if document["reissued"]:
        rows.append(("note", "other codes were issued before, so these are accepted later"))
    if document["file"]:
        rows.append(("file", document["file"]))
    command = (
        f"cascadia recover --file {Path(document['file']).name}" if document["recovery_file"] else "cascadia recover"
    )
    rows.append(("next", f"on the machine: {command}"))
    return f"{shown}\n\n{pairs(rows)}"


def list_all(args: Namespace) -> None:
    """Print the codes that the filters match. Raises CliError."""
    codes = Server(args).pages(
        "/v1/recovery/codes",
        schemas.Page[RecoveryCode],
        tenant=tenant_filter(args.tenant),
        node=id_argument("node", args.node) if args.node else "",
        state="delayed" if args.delayed else "",
    )
    headings = ("id", "state", "node", "case", "accepted from", "expires", "used", "used by")
    names = ("id", "state", "node", "case", "usable_from", "expires_at", "used_at", "used_case")
    emit(codes, args.json, columns(headings, *names))


def revoke(args: Namespace) -> None:
    """Revoke a code and print it. Raises CliError."""
    path = f"/v1/recovery/codes/{id_argument('rcc', args.code)}/revoke"
    emit(Server(args).call("POST", path, RecoveryCode, {}), args.json, fields)
