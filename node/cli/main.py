"""Command line: `cascadia`. Parses a command, runs it, and exits with the exit code of its outcome.

While the agent runs, `status`, `license`, `entitlement`, `renew`, `recover`, `request` and `deactivate` ask the agent
over its socket.
Without an agent, all but `entitlement` use the state directory themselves; `entitlement` fails. Exit codes are stable
(`node/exits.py`). With `--json` a command prints one JSON document, also for an error.
"""

import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec

from node.cli.show import emit, fail, human_entitlement, human_license, human_status, print_document
from node.config import Config, load_settings
from node.errors import NodeError
from node.exits import Exit, run_exit
from node.system.logs import never_blocking, to_stderr
from node.system.openssl import forget_settings
from node.system.signals import strays_ignored
from node.text import shown

if TYPE_CHECKING:
    from argparse import Namespace

_COLLECTED_USUALLY = gc.get_threshold()
_COLLECTED_AT_A_START = (50_000, 1_000, 1_000)
"""Thresholds of garbage collection. A start collects young objects only: a collection of all objects walks everything
that was imported, and the usual thresholds take 7 % of the start."""


async def _with_state(
    config: Config, work: Callable[..., Awaitable[Any]], *, creates: bool = False, owns: bool = True
) -> Any:
    """Run `work(state, tpm)`, and return its result.

    Args:
        config: the settings.
        work: the work to do.
        creates: the state directory may be missing, and is then made.
        owns: hold the lock of the state directory meanwhile. A running agent lends the state. Work that only reads needs no
            lock.

    Raises NotActivated if the directory is missing; NotPermitted, StateError, TctiRefused, and the errors of `work`.
    """
    from node.cli.borrowing import owned
    from node.cli.user import check_permitted
    from node.disk.files import exists
    from node.state import NotActivated, State

    check_permitted(config, creates=creates)
    async with _tpm(config) as tpm:
        if not creates and not exists(config.state_dir):
            # A command that only asks must not make the directory: it would belong to the user who asked.
            raise NotActivated("cannot find an identity: this machine is not activated")
        state = State(config.state_dir)
        async with owned(config, state) if owns else nullcontext():
            return await work(state, tpm)


@asynccontextmanager
async def _tpm(config: Config) -> AsyncIterator[Any]:
    """The TPM of the settings, closed at the end of the block. Raises TctiRefused."""
    from node.disk.credentials import hierarchy_passwords
    from node.hwbind.tpm import Tpm, check_tcti
    from node.system.hardening import no_core_dumps

    # A session key may be in the memory of every command that owns the state.
    try:
        no_core_dumps()
    except OSError as error:
        # A sandbox can forbid the call. The licence does not depend on it.
        logging.getLogger("cascadia").error("cannot forbid core dumps: %s", os.strerror(error.errno or 0))
    check_tcti(config.tpm, config.mode)
    passwords = hierarchy_passwords(config.tpm_owner_auth, config.tpm_endorsement_auth)
    tpm = Tpm(config.tpm, mode=config.mode, passwords=passwords)
    try:
        yield tpm
    finally:
        await tpm.aclose()


async def _activate(config: Config, args: "Namespace") -> int:
    from node.cli.approval import carried_out
    from node.cli.starting import starts_by_itself, to_person, wait_for_agent
    from node.cli.user import become_agent_user
    from node.clock import utc_now
    from node.exchanges.activation import activate
    from node.exchanges.activation_file import read_activation_file
    from node.local.documents import license_document

    # Before the state directory is made: a refused file changes nothing. And as root: others may not read the file.
    given = read_activation_file(args.file)
    become_agent_user(config, creates=True)

    def say(text: str) -> None:
        if not args.json:
            print(f"  {shown(text)} ...", file=sys.stderr, flush=True)

    async def work(state: Any, tpm: Any) -> Any:
        in_software = config.identity == "software"
        return await activate(state, tpm, given, utc_now, say, in_software=in_software, wait=False)

    async def attempt() -> Any:
        return await _with_state(config, work, creates=True)

    snapshot = (await (attempt() if args.no_wait else carried_out(config, attempt, say))).snapshot()
    document = msgspec.to_builtins(license_document(snapshot))
    print_document(document, args.json, human_license)
    if starts_by_itself(config):
        await wait_for_agent(config, snapshot.holder.generation, to_person(args.json))
    return 0 if snapshot.verdict.gate_open else int(snapshot.verdict.exit)


async def _run(config: Config, args: "Namespace") -> int:
    from node.startup import run
    from node.system.listening import passed_descriptors

    passed = passed_descriptors()
    async with _tpm(config) as tpm:
        await run(config, tpm, ready=_collect_garbage, waiting=_collect_garbage, passed=passed)
    return 0


def _collect_garbage() -> None:
    """Exempt the objects of the start from garbage collection, and collect as usual from now on.

    A full collection would stop the event loop for some tens of milliseconds.
    """
    gc.collect(0)
    gc.freeze()
    gc.set_threshold(*_COLLECTED_USUALLY)


async def _own_status(config: Config) -> dict[str, Any]:
    """Status without a running agent: from the stored statements, and a check of the TPM."""

    from node.clock import utc_now
    from node.disk.boot import BootRecord
    from node.hwbind.errors import TpmError
    from node.licensing.boot_time import machine_clocks
    from node.licensing.hardware import HardwareCheck
    from node.licensing.waiting import next_step, waiting_snapshot, waiting_text
    from node.local.documents import absent_status
    from node.state import NotActivated

    async def work(state: Any, tpm: Any) -> Any:
        waiting = state.identities.approval_wait()
        hardware = HardwareCheck(tpm, BootRecord(config.socket.parent), state.conditions)
        try:
            licence = state.load_licence(hardware, machine_clocks())
        except NotActivated:
            if waiting is None:
                raise
            return absent_status(waiting_snapshot(waiting, utc_now()), config.mode, state.conditions.current())
        if waiting is not None:
            text, step = waiting_text(waiting), next_step(waiting)
            if waiting.recovery is msgspec.UNSET:
                state.conditions.report("approval_pending", text, step)
            else:
                state.conditions.report("recovery_pending", text, step)
        try:
            await licence.check_hardware()
        except TpmError as error:
            # `status` works in every state. The exit code in the document reports the TPM's fault.
            logging.getLogger("cascadia").error("%s", error)
            hardware.report_fault(error)
        return absent_status(licence.snapshot(), config.mode, state.conditions.current())

    # Without the lock: an agent that starts at this moment must find the state free.
    return dict(msgspec.to_builtins(await _with_state(config, work, owns=False)))


async def _status_document(config: Config) -> dict[str, Any]:
    from node.local.client import AgentAbsent, expect, request
    from node.local.documents import StatusDocument

    try:
        return expect(await request(config.socket, "GET", "/v1/status"), {200}, StatusDocument)
    except AgentAbsent:
        return await _own_status(config)


async def _status(config: Config, args: "Namespace") -> int:
    document = await _status_document(config)
    print_document(document, args.json, human_status)
    return int(document["license"]["exit_code"])


async def _license(config: Config, args: "Namespace") -> int:
    if args.action == "import":
        from node.cli.carried import import_answer

        return await import_answer(config, args, _with_state)
    from node.cli.user import become_agent_user

    become_agent_user(config)
    document = (await _status_document(config))["license"]
    print_document(document, args.json, human_license)
    return int(document["exit_code"])


async def _entitlement(config: Config, args: "Namespace") -> int:
    from node.local.client import entitlement_path, expect, request
    from node.local.documents import EntitlementDocument

    reply = await request(config.socket, "GET", entitlement_path(args.name))
    answer = expect(reply, {200, 403}, EntitlementDocument)
    print_document(answer, args.json, human_entitlement)
    return int(Exit.OK) if answer["granted"] else int(Exit.DENIED)


async def _schema(_config: Config, _args: "Namespace") -> int:
    from node.local.openapi import encoded

    emit(encoded().decode().removesuffix("\n"))
    return int(Exit.OK)


async def _renew(config: Config, args: "Namespace") -> int:
    from node.local.client import AgentAbsent, expect, request
    from node.local.documents import LicenseDocument

    try:
        path = "/v1/renew/rekey" if args.rekey else "/v1/renew"
        document = expect(await request(config.socket, "POST", path, seconds_max=130), {200}, LicenseDocument)
    except AgentAbsent:
        document = await _own_renewal(config, rekey=args.rekey)
    print_document(document, args.json, human_license)
    return int(document["exit_code"])


async def _own_renewal(config: Config, *, rekey: bool) -> dict[str, Any]:
    from node.clock import utc_now
    from node.disk.boot import BootRecord
    from node.exchanges.contact import Contact
    from node.licensing.boot_time import machine_clocks
    from node.licensing.hardware import HardwareCheck
    from node.local.documents import license_document

    async def work(state: Any, tpm: Any) -> Any:
        hardware = HardwareCheck(tpm, BootRecord(config.socket.parent), state.conditions)
        licence = state.load_licence(hardware, machine_clocks())
        await licence.check_hardware()
        state.floors.tpm = tpm
        contact = Contact(state, tpm, hardware, licence, utc_now)
        try:
            # Another machine's TPM cannot make the proof. The document then shows the state `hardware-mismatch`.
            if hardware.status != "other":
                await contact.renew(rekey=rekey)
        finally:
            await contact.connection.close()
            unstored = await state.saver.flush()
        if unstored is not None:
            raise unstored
        await state.floors.raise_now()
        return license_document(contact.licence.snapshot())

    return dict(msgspec.to_builtins(await _with_state(config, work)))


async def _recover(config: Config, args: "Namespace") -> int:
    from node.cli.recover import run

    return await run(config, args, _tpm)


async def _request(config: Config, args: "Namespace") -> int:
    from node.cli.carried import request

    return await request(config, args, _with_state)


async def _deactivate(config: Config, args: "Namespace") -> int:
    from node.cli.deactivate import deactivate

    return await deactivate(config, args, _with_state)


async def _config(config: Config, args: "Namespace") -> int:
    from node.cli.settings import check

    return check(config, args)


async def _identity(config: Config, args: "Namespace") -> int:
    from node.cli.identity import human_keys, survey

    async with _tpm(config) as tpm:
        document = msgspec.to_builtins(await survey(tpm))
    print_document(document, args.json, human_keys)
    return int(document["exit_code"])


_COMMANDS = {
    "activate": _activate,
    "run": _run,
    "status": _status,
    "license": _license,
    "entitlement": _entitlement,
    "schema": _schema,
    "renew": _renew,
    "recover": _recover,
    "request": _request,
    "identity": _identity,
    "deactivate": _deactivate,
    "config": _config,
}

_ASKS = ("status", "license", "entitlement", "schema")
"""Commands of every user. They ask the agent, at the built-in socket if the settings are for root and the agent only."""
_READS_FILES = ("activate", "license", "recover", "request")
"""Commands that name files, which only root may be able to read or write. They call `become_agent_user` themselves."""


def _node_error(error: BaseException) -> NodeError | None:
    """The error to report: the first known error in a group of a nursery; a TPM fault as a NodeError; or None."""
    from node.hwbind.errors import TpmError

    if isinstance(error, NodeError):
        return error
    if isinstance(error, TpmError):
        return NodeError.of(
            str(error),
            exit=next(member for member in Exit if member == error.exit_code),
            code=error.code,
            next=error.advice,
        )
    if isinstance(error, BaseExceptionGroup):
        known = [_node_error(inner) for inner in error.exceptions]
        return known[0] if len(known) == 1 else next((one for one in known if one is not None), None)
    return None


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code.

    `argv` are the arguments after the program's name; by default those of the process. Exits through SystemExit after
    an error it has printed, and after a usage error.
    """
    forget_settings()
    gc.set_threshold(*_COLLECTED_AT_A_START)
    try:
        arguments = sys.argv[1:] if argv is None else argv
        args = _parsed(arguments)
        if args.command != "run":
            # The command's own output has the outcome. A warning on the way to it would be noise. `recover` also shows
            # the faults that it found.
            with to_stderr(logging.CRITICAL if args.command == "recover" else logging.ERROR):
                return _execute(args)
        with never_blocking(logging.INFO), strays_ignored():
            return _execute(args)
    finally:
        gc.set_threshold(*_COLLECTED_USUALLY)


def _parsed(arguments: list[str]) -> "Namespace":
    """The arguments by name.

    The agent of a unit has no options. Its process lives for months, so it imports no parser, which has 0.3 MiB.
    """
    if arguments == ["run"]:
        run = SimpleNamespace(command="run", config=None, state_dir=None, socket=None, tpm=None, json=False)
        return cast("Namespace", run)
    from node.cli.arguments import parser

    return parser(only=arguments[0] if arguments and arguments[0] in _COMMANDS else "").parse_args(arguments)


def _execute(args: "Namespace") -> int:
    """Run the parsed command. Raises SystemExit after an error it has printed."""
    try:
        import trio

        settings = load_settings(vars(args), others=args.command in _ASKS and os.geteuid() != 0)
        config, args.sources = settings.config, settings.sources
        if args.command not in _READS_FILES:
            from node.cli.user import become_agent_user

            become_agent_user(config)
        return trio.run(_COMMANDS[args.command], config, args)
    except KeyboardInterrupt:
        # A signal stopped the agent before its own signal handling had started.
        return int(Exit.OK) if args.command == "run" else 130
    except BaseException as error:
        # Every error ends here. A known error is printed. An unknown error is a bug, and is logged with its traceback.
        known = _node_error(error)
        if known is None:
            if isinstance(error, SystemExit):
                raise
            logging.getLogger("cascadia").critical("internal error", exc_info=error)
            return int(Exit.INTERNAL)
        if args.command == "run":
            known.exit = run_exit(known.exit)
        fail(known, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
