"""Command group: `cascade airgap`, which answers requests of nodes without a network and lists the exchanges."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import msgspec

from cloud.cli.arguments import id_argument, tenant_filter
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_INTERNAL, EXIT_TRY_AGAIN, EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.show import columns, emit, pairs, say
from cloud.fabric import schemas
from cloud.fabric.bodies.airgap import (
    VALID_DAYS_MAX,
    AirgapAnswer,
    AirgapExchange,
    AnswerAirgapRequest,
    ExchangeState,
)
from protocol.airgap.errors import AirgapError, DocumentDamaged
from protocol.airgap.forms import printed, read_answer, read_request, to_file
from protocol.limits import AIRGAP_CARRIED_BYTES_MAX

_ANSWER = (
    "FILE is the request of a machine without a network, as `cascadia request` writes or prints it. The answer goes back "
    "to the machine: `cascadia license import FILE`. An activation takes its seat now, and only the machine's own chip "
    "opens the answer. The same request gets the same answer, until the node's standing changes or a later request is "
    "answered."
)


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    answering = actions.add("answer", "answer the request of a machine without a network", _ANSWER, run=answer)
    answering.add_argument("file", type=Path, metavar="FILE", help="the request, in JSON or as text")
    answering.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the answer to this file (default: beside the request, with the ending .answer.json)",
    )
    answering.add_argument(
        "--text", action="store_true", help="write the answer as printable text; print it if there is no --out"
    )
    answering.add_argument(
        "--valid-days",
        type=int,
        metavar="DAYS",
        help=f"for how many days the machine can import the answer (1 to {VALID_DAYS_MAX}, default 14)",
    )
    listing = actions.add(
        "list",
        "list answered requests",
        "In the state `answered` the receipt is outstanding: the machine's next request carries it.",
        run=list_all,
    )
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only requests of this tenant (id)")
    listing.add_argument("--node", default="", metavar="NODE", help="only requests of this node (id)")
    listing.add_argument("--state", choices=get_args(ExchangeState), default="", help="only requests in this state")


def answer(args: Namespace) -> None:
    """Answer a request, and write the answer. Raises CliError."""
    body = AnswerAirgapRequest(
        request=_request(args.file),
        valid_days=msgspec.UNSET if args.valid_days is None else _days(args.valid_days),
    )
    found = Server(args).call("POST", "/v1/airgap/answers", AirgapAnswer, body)
    if found.activation is not None:
        raise _waits(args.file, found)
    try:
        document = read_answer(found.answer.encode())
        content = printed(document) if args.text else to_file(document).decode()
    except AirgapError as error:
        raise CliError(EXIT_INTERNAL, error.code, f"cannot write the answer: {error.text}") from error
    if args.text and args.out is None and not args.json:
        say(content.rstrip("\n"))
        return
    path = args.out or args.file.with_name(f"{args.file.stem}.answer{'.txt' if args.text else '.json'}")
    _write(path, content)
    emit({"file": str(path), "exchange": msgspec.to_builtins(found.exchange)}, args.json, _human)


def list_all(args: Namespace) -> None:
    """Print the exchanges that the filters match. Raises CliError."""
    node = id_argument("node", args.node) if args.node else ""
    page = schemas.Page[AirgapExchange]
    found = Server(args).pages(
        "/v1/airgap/exchanges", page, tenant=tenant_filter(args.tenant), node=node, state=args.state
    )
    headings = ("request", "kind", "state", "node", "generation", "statement", "answered", "until", "receipt")
    names = (
        "request",
        "kind",
        "state",
        "node",
        "generation",
        "statement",
        "answered_at",
        "valid_until",
        "received_at",
    )
    emit(found, args.json, columns(headings, *names))


def _request(path: Path) -> str:
    """The request in a file, as JSON. Raises CliError, which names the damaged lines of a text."""
    try:
        with path.open("rb") as file:
            data = file.read(AIRGAP_CARRIED_BYTES_MAX + 1)
        return to_file(read_request(data)).decode().strip()
    except OSError as error:
        raise CliError(
            EXIT_USAGE,
            "file_unusable",
            f"cannot read the request in {path}: {error.strerror}",
            "Name the file of a request.",
        ) from error
    except AirgapError as error:
        step = "Correct the named lines" if isinstance(error, DocumentDamaged) and error.lines else "Carry it again"
        raise CliError(
            EXIT_VERIFICATION,
            error.code,
            f"cannot read the request in {path}: {error.text}",
            f"{step}, and run the command again. `cascadia request` on the machine writes the same request again.",
        ) from error


def _write(path: Path, content: str) -> None:
    """Write an answer. Raises CliError."""
    try:
        path.write_text(content)
    except OSError as error:
        raise CliError(
            EXIT_USAGE,
            "file_unusable",
            f"cannot write the answer to {path}: {error}",
            "The same request gets the same answer: run the command again with another --out.",
        ) from error


def _days(days: int) -> int:
    if not 1 <= days <= VALID_DAYS_MAX:
        raise CliError(EXIT_USAGE, "days_invalid", f"cannot use --valid-days {days}: it is from 1 to {VALID_DAYS_MAX}")
    return days


def _waits(path: Path, found: AirgapAnswer) -> CliError:
    """The end of a command whose activation an operator must approve first."""
    until = _minutes(found.approve_by)
    if found.recovery is not None:
        return CliError(
            EXIT_TRY_AGAIN,
            "approval_needed",
            f"cannot answer the request yet: the recovery case {found.recovery} waits for a decision until {until}",
            f"`cascade recovery show {found.recovery}` has the evidence. Decide about it, and answer {path} again.",
        )
    return CliError(
        EXIT_TRY_AGAIN,
        "approval_needed",
        f"cannot answer the request yet: an operator must approve the activation {found.activation} until {until}",
        f"`cascade activation approve {found.activation}` approves it. Then answer {path} again.",
    )


def _minutes(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at is not None else "its end"


def _human(result: dict[str, Any]) -> str:
    exchange = result["exchange"]
    return pairs(
        [
            ("request", exchange["request"]),
            ("node", exchange["node"]),
            ("generation", exchange["generation"]),
            ("answer", exchange["statement"]),
            ("import until", exchange["valid_until"]),
            ("file", result["file"]),
            ("next", f"on the machine: cascadia license import {Path(result['file']).name}"),
        ]
    )
