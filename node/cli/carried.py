"""Commands: `cascadia request` and `cascadia license import`, and their files: JSON, printable text, or a QR code.

A running agent does the work, because it owns the state. For an activation it lends the state to the command. A request
can have an activation code, so its file has the mode 0600. The QR code needs the library `segno`, which a node may lack;
the text needs nothing.
"""

import argparse
import os
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from node.airgap.answers import Imports
from node.airgap.errors import AgentInTheWay, AirgapRefused
from node.airgap.requests import TASK, activation_request, recovery_request, refresh_request
from node.airgap.store import StoredRequest
from node.cli.recover import check_node, read_code
from node.cli.show import emit, human_license, print_document
from node.cli.starting import starts_by_itself, to_person, wait_for_agent
from node.cli.user import become_agent_user, becomes_agent_user
from node.clock import utc_now
from node.config import Config
from node.disk.boot import BootRecord
from node.errors import NodeError
from node.exchanges.activation_file import read_activation_file, read_recovery_source
from node.exchanges.recovery import Source, look, require_named
from node.exits import Exit
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.licensing.situation import plan
from node.local import client
from node.local.documents import LicenseDocument, RequestDocument, license_document
from node.local.messages import PATH_IMPORT
from node.local.routes import request_document
from node.state import State
from protocol.airgap.errors import AirgapError, DocumentTooLarge
from protocol.airgap.forms import printed, qr_text, read_request
from protocol.limits import AIRGAP_CARRIED_BYTES_MAX
from protocol.messages.activation import ActivationFile
from protocol.messages.recovery import RecoveryClaim

WithState = Callable[..., Awaitable[Any]]
"""Runs work with the state directory and the TPM: `node.cli.main._with_state`."""
Form = Literal["file", "text", "qr"]


COMMAND_SECONDS_MAX = 130.0
"""How long the agent may take: longer than its own bound of a command."""


class FileUnusable(NodeError):
    """The named file cannot be read or written."""

    exit = Exit.USAGE
    code = "file_unusable"
    next = "Name another file."


class QrUnavailable(NodeError):
    """The library that draws QR codes is not installed."""

    exit = Exit.USAGE
    code = "qr_unavailable"
    next = "Install the Python library `segno`, or use `--text` or `--out FILE`."


def read_carried(name: str) -> bytes:
    """The content of a file, or of the standard input for `-`. Raises FileUnusable."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(AIRGAP_CARRIED_BYTES_MAX + 1)
        with Path(name).open("rb") as file:
            return file.read(AIRGAP_CARRIED_BYTES_MAX + 1)
    except OSError as error:
        raise FileUnusable(f"cannot read {name}: {error.strerror}") from error


def hand_out(file: str, form: Form, out: Path | None, opened: IO[bytes] | None = None) -> None:
    """Print a request, or write it to `out`. `file` is the request in JSON. Raises AirgapRefused, FileUnusable.

    `opened` is `out` if it is open already (`open_output`).
    """
    try:
        if form == "qr":
            _draw(qr_text(read_request(file.encode())), out, opened)
            return
        text = printed(read_request(file.encode())) if form == "text" else file.rstrip("\n") + "\n"
    except AirgapError as error:
        refused = AirgapRefused.of_error(error, TASK)
        if isinstance(error, DocumentTooLarge):
            refused.next = "Use `--out FILE`, or `--text`."
        raise refused from error
    if out is None:
        emit(text.removesuffix("\n"))
        return
    try:
        with opened or open_output(out) as written:
            _empty(written)
            written.write(text.encode())
    except OSError as error:
        raise FileUnusable(f"cannot write {out}: {error.strerror}") from error


def open_output(path: Path) -> IO[bytes]:
    """The file, open for writing, readable by its owner only. It keeps its content. Raises OSError.

    A device keeps its mode: /dev/null and a terminal are of every user, and root may name them.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if _is_file(descriptor):
            os.fchmod(descriptor, 0o600)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "wb")


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _empty(file: IO[bytes]) -> None:
    if _is_file(file.fileno()):
        file.truncate()


def _draw(text: str, out: Path | None, opened: IO[bytes] | None) -> None:
    """Draw a QR code to the terminal, or to a file (`.svg` or `.png`)."""
    try:
        import segno
    except ModuleNotFoundError as error:
        raise QrUnavailable("cannot draw a QR code: the library segno is not installed") from error
    code: Any = segno.make(text, error="l", boost_error=False, micro=False)
    if out is None:
        code.terminal(compact=True)
        return
    kind = out.suffix.removeprefix(".").lower()
    if kind not in ("svg", "png"):
        raise FileUnusable(f"cannot write {out}: a QR code is written as .svg or .png")
    try:
        with opened or open_output(out) as written:
            _empty(written)
            code.save(written, kind=kind, scale=4)
    except OSError as error:
        raise FileUnusable(f"cannot write {out}: {error.strerror}") from error


async def request(config: Config, args: argparse.Namespace, with_state: WithState) -> int:
    """Make a request, or show the outstanding one. Raises NodeError, TpmError."""
    # Before the state directory is made: a refused file changes nothing. And as root: others may not read the files.
    given = None if args.file is None or args.recover else read_activation_file(args.file)
    recovers = _Recovers.of(args) if args.recover else None
    opened = _opened_by_root(config, args.out)
    become_agent_user(config, creates=given is not None or recovers is not None)
    document = None
    if given is None and recovers is None:
        path = "/v1/requests/new" if args.new else "/v1/requests"
        with suppress(client.AgentAbsent):
            reply = await client.request(config.socket, "POST", path, seconds_max=COMMAND_SECONDS_MAX)
            document = client.expect(reply, {200}, RequestDocument)
    document = document or await _own_request(config, args.new, given, recovers, with_state)
    if args.json:
        print_document(document, as_json=True, human=str)
    if not args.json or args.out is not None:
        hand_out(document["file"], args.form or "file", args.out, opened)
    if args.out is not None and not args.json:
        emit(f"request {document['request']}, to be answered until {document['expires_at']}")
    return 0


def _opened_by_root(config: Config, out: Path | None) -> IO[bytes] | None:
    """The output file, opened before root becomes another user; None if it can be opened later. Raises FileUnusable."""
    if out is None or not becomes_agent_user(config):
        return None
    try:
        return open_output(out)
    except OSError as error:
        raise FileUnusable(f"cannot write {out}: {error.strerror}") from error


async def _own_request(
    config: Config,
    new: bool,
    given: "tuple[ActivationFile, str] | None",
    recovers: "_Recovers | None",
    with_state: WithState,
) -> dict[str, Any]:
    """A request without a running agent: for an activation, for a recovery, or for the licence in force."""
    flags = {"new": new, "development": config.mode == "development"}

    async def work(state: State, tpm: Tpm) -> StoredRequest:
        boot = BootRecord(config.socket.parent)
        if given is not None:
            return await activation_request(state, tpm, given, utc_now, **flags)
        if recovers is not None:
            claim = await recovers.claim(state, tpm, boot)
            return await recovery_request(
                state, tpm, claim, utc_now, source=recovers.source, code=recovers.code, **flags
            )
        hardware = HardwareCheck(tpm, boot, state.conditions)
        licence = state.load_licence(hardware, machine_clocks())
        await licence.check_hardware()
        return await refresh_request(state, licence, tpm, **flags)

    stored = await with_state(config, work, creates=given is not None or recovers is not None)
    return dict(msgspec.to_builtins(request_document(stored)))


class NoRecovery(NodeError):
    """The machine needs no recovery, or a recovery does not help it."""

    exit = Exit.USAGE
    code = "recovery_not_needed"
    next = "Run `cascadia recover`, which says what this machine needs. Without `--recover` a request asks for the licence."


class _Recovers(msgspec.Struct, frozen=True):
    """What the person gave for a recovery: the cloud of a file, a recovery code or "", the id of a node or ""."""

    source: Source | None
    code: str
    node: str

    @classmethod
    def of(cls, args: argparse.Namespace) -> "_Recovers":
        """Read the options. Raises CodeUnusable, NodeUnknown, ActivationFileInvalid."""
        code = read_code(args.code_file) if args.code_file is not None else ""
        node, source = args.node or "", None
        if args.file is not None:
            file = read_recovery_source(args.file)
            source = Source(file.repository_url, file.pin, file.created_at)
            if file.node is not msgspec.UNSET:
                code, node = code or file.code, node or file.node
        check_node(node)
        return cls(source, code, node)

    async def claim(self, state: State, tpm: Tpm, boot: BootRecord) -> RecoveryClaim:
        """What this machine says about the node that it was. Raises NoRecovery, NodeNeeded."""
        found = (await look(state, tpm, boot, utc_now, self.node)).found
        way = plan(found, has_code=bool(self.code))
        if way.situation is None:
            raise NoRecovery(f"cannot ask for a recovery: this machine needs {way.needs}")
        require_named(found, self.code)
        return RecoveryClaim(
            node=found.node,
            statement=found.statement,
            situation=way.situation,
            last_ran_at=found.last_ran_at or msgspec.UNSET,
        )


async def import_answer(config: Config, args: argparse.Namespace, with_state: WithState) -> int:
    """Import the answer in a file, and show the licence after that. Raises NodeError, TpmError."""
    if args.file is None:
        raise FileUnusable("cannot import an answer: no file is named", next_step="Run `cascadia license import FILE`.")
    data = read_carried(args.file)
    become_agent_user(config)
    alone = False
    try:
        reply = await client.request(config.socket, "POST", PATH_IMPORT, seconds_max=COMMAND_SECONDS_MAX, body=data)
        document = client.expect(reply, {200}, LicenseDocument)
    except (client.AgentAbsent, client.AgentRefused) as error:
        if isinstance(error, client.AgentRefused) and error.code != AgentInTheWay.code:
            raise

        async def work(state: State, tpm: Tpm) -> LicenseDocument:
            hardware = HardwareCheck(tpm, BootRecord(config.socket.parent), state.conditions)
            return license_document((await Imports(state, tpm, hardware).alone(data, utc_now)).snapshot())

        document = dict(msgspec.to_builtins(await with_state(config, work)))
        alone = True
    print_document(document, args.json, human_license)
    if alone and starts_by_itself(config):
        await wait_for_agent(config, document["generation"], to_person(args.json))
    return int(document["exit_code"])
