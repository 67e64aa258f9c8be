"""Command: `cascadia recover` leads a person through the way back of this machine.

It says what it found and what the machine needs, and does the right thing: nothing, a renewal, or a recovery. The last
line is one sentence that can be read out on the phone. A recovery code comes from a prompt, a file or stdin, and never
from an argument, which every user of the machine can read.

While the agent runs, it owns the state: the command asks it for a renewal. A recovery replaces the identity, as an
activation does, so the agent lends the state for it (`node.cli.borrowing`).
"""

import argparse
import getpass
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import trio

from node.cli import recovery_document as documents
from node.cli.approval import until_decided
from node.cli.borrowing import owned
from node.cli.recovery_document import RecoverDocument
from node.cli.show import emit, print_document
from node.cli.starting import starts_by_itself, to_person, wait_for_agent
from node.cli.user import become_agent_user, check_permitted
from node.clock import utc_now
from node.config import Config
from node.disk.boot import BootRecord
from node.disk.files import exists, read_bounded
from node.errors import NodeError, StateError
from node.exchanges.activation_file import read_recovery_source
from node.exchanges.approval import ApprovalPending
from node.exchanges.recovery import Asked, Look, Source, look, mend_trust, recover, renew
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.situation import Plan, plan
from node.link.api import CloudRefused
from node.local.client import AgentAbsent, expect, request
from node.local.documents import LicenseDocument, StatusDocument
from node.state import State
from node.text import shown
from protocol.codes import SecretFormatError, parse_recovery_code
from protocol.ids import IdError, parse_id

CODE_BYTES_MAX = 1024
PROMPTS_MAX = 3
"""How often a mistyped code is asked for again."""

Opened = Callable[[Config], AbstractAsyncContextManager[Tpm]]
Ask = Callable[[], str]


class CodeUnusable(NodeError):
    """A recovery code is mistyped or cannot be read. It was not sent, so it stays usable."""

    exit = Exit.USAGE
    code = "recovery_code_invalid"
    next = "Check the code, and run `cascadia recover` again. The code was not sent and stays usable."


class NodeUnknown(NodeError):
    """The text is no id of a node."""

    exit = Exit.USAGE
    code = "malformed"
    next = "The operator finds the id of the node with `cascade node list`."


def read_code(path: str) -> str:
    """The recovery code in a file, or on stdin for `-`, in its canonical form. Raises CodeUnusable."""
    try:
        raw = sys.stdin.buffer.read(CODE_BYTES_MAX + 1) if path == "-" else read_bounded(Path(path), CODE_BYTES_MAX)
    except FileNotFoundError as error:
        raise CodeUnusable(f"cannot read {path}: no such file") from error
    except StateError as error:
        raise CodeUnusable(error.text) from error
    return _canonical(raw.decode(errors="replace"))


def check_node(node: str) -> None:
    """Check that a text is the id of a node, or empty. Raises NodeUnknown."""
    if node:
        try:
            parse_id("node", node)
        except IdError as error:
            raise NodeUnknown(f"cannot use {shown(node)} as the id of a node: {error}") from error


def _canonical(text: str) -> str:
    try:
        return parse_recovery_code(text)
    except SecretFormatError as error:
        raise CodeUnusable(f"cannot use the recovery code: {error}") from error


def prompted(ask: Ask, tell: Callable[[str], None]) -> str:
    """The recovery code that a person types, or "" for none. A mistyped code is asked for again. Raises CodeUnusable."""
    for tries_left in range(PROMPTS_MAX - 1, -1, -1):
        text = ask().strip()
        if not text:
            return ""
        try:
            return _canonical(text)
        except CodeUnusable as error:
            if not tries_left:
                raise
            tell(error.text)
    raise AssertionError("unreachable")


def _ask_person() -> str:
    return getpass.getpass("recovery code (leave empty to ask the operator): ", stream=sys.stderr)


async def run(config: Config, args: argparse.Namespace, opened: Opened) -> int:
    """Run the command. `opened` opens the TPM of the settings. Returns the exit code; raises NodeError, TpmError."""
    source = read_recovery_source(args.file) if args.file is not None else None
    code = read_code(args.code_file) if args.code_file is not None else ""
    node = args.node or ""
    if source is not None and source.node is not msgspec.UNSET:
        code, node = code or source.code, node or source.node
    check_node(node)
    become_agent_user(config, creates=True)
    document = await _with_agent(config, has_code=bool(code))
    if document is None:
        check_permitted(config, creates=True)
        asked = Asked(
            source=None if source is None else Source(source.repository_url, source.pin, source.created_at),
            code=code,
            in_software=config.identity == "software",
            wait=not args.no_wait,
        )
        asks = sys.stdin.isatty() and not args.json and args.code_file is None
        async with opened(config) as tpm:
            document = await _without_agent(config, tpm, asked, node, _Person(args.json, asks=asks))
    print_document(msgspec.to_builtins(document), args.json, documents.human_recover)
    if document.outcome in documents.RECOVERED and document.license is not None and starts_by_itself(config):
        await wait_for_agent(config, document.license.generation, to_person(args.json))
    return document.exit_code


class _Person:
    """The person at the terminal. With `as_json` a program reads, so only the document is printed."""

    def __init__(self, as_json: bool, *, asks: bool) -> None:
        self._as_json = as_json
        self._asks = asks

    def silent(self) -> "_Person":
        """The same person, who is not asked again."""
        return _Person(self._as_json, asks=False)

    def say(self, text: str) -> None:
        """Tell a step that takes longer."""
        if not self._as_json:
            print(f"  {shown(text)} ...", file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """Show what was found."""
        if not self._as_json:
            emit(text + "\n")

    async def code(self) -> str:
        """The code that the person types; "" if there is no terminal, or no code."""
        if not self._asks:
            return ""

        def tell(text: str) -> None:
            print(f"  {shown(text)}", file=sys.stderr, flush=True)

        return await trio.to_thread.run_sync(prompted, _ask_person, tell)


async def _without_agent(config: Config, tpm: Tpm, asked: Asked, node: str, person: _Person) -> RecoverDocument:
    """Find out, and do the right thing, again after a wait for an approval."""
    while isinstance(done := await _attempt(config, tpm, asked, node, person), _Pause):
        recovery = done.pending.waits.recovery
        if recovery is msgspec.UNSET:
            raise done.pending
        if not asked.wait:
            return documents.waiting(done.looked.found, done.way, recovery, done.pending)
        # The state is free: an agent can continue the recovery too, and the first of both stores its end.
        try:
            await until_decided(config, done.pending, person.say)
        except NodeError as error:
            return _failed(done.looked, done.way, error)
        person = person.silent()
    return done


class _Pause(NamedTuple):
    """An attempt that waits for an approval, and what it has found."""

    looked: Look
    way: Plan
    pending: ApprovalPending


async def _attempt(config: Config, tpm: Tpm, asked: Asked, node: str, person: _Person) -> RecoverDocument | _Pause:
    """Find out, and do the right thing once. The state directory is made only for a recovery."""
    state = State(config.state_dir)
    async with AsyncExitStack() as held:
        if exists(config.state_dir):
            await held.enter_async_context(owned(config, state))
        person.say("looking at the state directory and the TPM")
        looked = await look(state, tpm, BootRecord(config.socket.parent), utc_now, node)
        if looked.trust_damaged and await mend_trust(state, asked.source, person.say):
            looked = await look(state, tpm, BootRecord(config.socket.parent), utc_now, node)
        way = plan(looked.found, has_code=bool(asked.code))
        person.show(documents.human_found(looked.found, way))
        if way.way in ("revoked", "superseded"):
            return documents.ended(looked.found, way, int(Exit.REVOKED))
        if looked.found.fault is not None and way.way in ("tpm", "disk"):
            return documents.ended(looked.found, way, looked.found.fault.exit_code)
        if way.way == "nothing" and looked.licence is not None:
            return documents.licence_outcome(looked.licence.snapshot(), looked.found, way)
        if not asked.code and (way.way in ("recovery", "wait") or looked.found.case):
            asked = msgspec.structs.replace(asked, code=await person.code())
            way = plan(looked.found, has_code=bool(asked.code))
        try:
            if way.way == "renewal":
                person.say("asking the cloud")
                licence = await renew(state, tpm, looked, utc_now)
            else:
                if not exists(config.state_dir):
                    await held.enter_async_context(owned(config, state))
                once = msgspec.structs.replace(asked, wait=False)
                licence = await recover(state, tpm, looked.found, way, utc_now, person.say, once)
        except ApprovalPending as error:
            return _Pause(looked, way, error)
        except (NodeError, TpmError) as error:
            return _failed(looked, way, error)
        return documents.licence_outcome(licence.snapshot(), looked.found, way)


def _failed(looked: Look, way: Plan, error: NodeError | TpmError) -> RecoverDocument:
    if isinstance(error, TpmError):
        exit_code = next(member for member in Exit if member == error.exit_code)
        error = NodeError.of(str(error), exit=exit_code, code=error.code, next=error.advice)
    allowed_at = error.problem.allowed_at if isinstance(error, CloudRefused) else None
    return documents.failed(looked.found, way, error, allowed_at)


async def _with_agent(config: Config, *, has_code: bool) -> RecoverDocument | None:
    """What a running agent says and does. None without an agent, and for a recovery, for which the agent lends its state.

    Raises AgentUnusable, AgentRefused.
    """
    try:
        status = expect(await request(config.socket, "GET", "/v1/status"), {200}, StatusDocument)
    except AgentAbsent:
        return None
    licence = status["license"]
    state, conditions = licence["state"], status.get("conditions", ())
    waits = next((each for each in conditions if each["code"] == "recovery_pending"), None)
    if state != "revoked" and waits is not None and not has_code:
        return _of_agent("recovery_pending", Exit.PENDING, "wait", f"{_upper(waits['text'])}.", waits["next"], licence)
    if state == "revoked":
        way = "superseded" if "superseded" in licence["flags"] else "revoked"
        text = "was activated again elsewhere" if way == "superseded" else "is revoked"
        undo = "that" if way == "superseded" else "a revocation"
        sentence = f"Node {licence['node']} {text}, and a recovery does not undo {undo}."
        return _of_agent(way, Exit.REVOKED, way, sentence, licence["next"], licence)
    if state == "hardware-mismatch" or (state == "recovery-pending" and has_code) or not licence["node"]:
        return None
    outcome, way = "not_needed", "nothing"
    if state != "active" or licence["flags"]:
        try:
            reply = await request(config.socket, "POST", "/v1/renew", seconds_max=130)
            licence, outcome, way = expect(reply, {200}, LicenseDocument), "renewed", "renewal"
        except NodeError as error:
            sentence = f"The renewal of node {licence['node']} did not succeed: {error.text.removesuffix('.')}."
            return _of_agent(error.code, error.exit, "renewal", sentence, error.next, licence)
    ends = msgspec.convert(licence, LicenseDocument).lease
    until = f", licensed until {documents.when(ends.terminate_at)}" if ends and licence["gate"] == "open" else ""
    closed = "" if licence["gate"] == "open" else f", and its gate is closed: {licence['reason']}"
    sentence = f"This machine is node {licence['node']}{until}{closed}; it needs no recovery."
    return _of_agent(outcome, licence["exit_code"], way, sentence, licence["next"], licence)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_agent(
    outcome: str, exit_code: int, way: Any, sentence: str, step: str, licence: dict[str, Any]
) -> RecoverDocument:
    return RecoverDocument(
        outcome=outcome,
        exit_code=int(exit_code),
        sentence=sentence,
        next=step,
        way=way,
        needs="",
        license=msgspec.convert(licence, LicenseDocument),
    )
