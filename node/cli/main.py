"""Command line: `cascadia`. Parses a command, runs it, and exits with the exit code of its outcome.

While the agent runs, `status`, `license`, `entitlement` and `renew` ask the agent over its socket. Without an agent,
`status`, `license` and `renew` use the state directory themselves; `entitlement` fails. Exit codes are stable
(`node/exits.py`). With `--json` a command prints one JSON document, also for an error.
"""

import argparse
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from node.cli.show import emit, fail, human_entitlement, human_license, human_status, print_document
from node.config import AGENT_VERSION, Config, load_config
from node.errors import NodeError
from node.exits import Exit, run_exit
from node.system.logs import never_blocking, to_stderr
from node.system.openssl import forget_settings
from node.system.signals import strays_ignored
from node.text import shown

EPILOG = """\
exit codes: 0 done or granted, 2 wrong usage or settings, 3 entitlement denied, 65 verification failed,
69 cloud or agent unreachable, 70 internal fault, 75 try again, 77 refused by the cloud, 80 not activated, 81 revoked,
82 suspended, 83 terminated, 84 hardware mismatch, 85 no trusted statement, 86 clock wrong, 87 TPM fault,
88 activation not approved or confirmed, 89 clone suspected.
"""


AGENT = "The Cascade agent. It binds this machine to its licence and tells licensed software whether it may run."


class _Parser(argparse.ArgumentParser):
    """A parser whose help and version are printed as every other output: a closed pipe or a full disk is no traceback."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not None and file is sys.stdout:
            emit(message.removesuffix("\n"))
        else:
            super()._print_message(message, file)


def _parser(only: str = "") -> argparse.ArgumentParser:
    """The parser of all commands, or of the command `only`: the parsers of the others would slow the agent's start."""
    parser = _Parser(
        prog="cascadia",
        description=AGENT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cascadia {AGENT_VERSION}")
    common = _Parser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="settings file (default /etc/cascadia/cascadia.toml)")
    common.add_argument("--state-dir", metavar="DIR", help="state directory (default /var/lib/cascadia)")
    common.add_argument("--socket", metavar="PATH", help="the agent's socket (default /run/cascadia/cascadia.sock)")
    common.add_argument("--tpm", metavar="TCTI", help="TPM connection (default device:/dev/tpmrm0)")
    common.add_argument("--json", action="store_true", help="print one JSON document")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str, text: str) -> argparse.ArgumentParser:
        if only not in ("", name):
            return _Parser(add_help=False)
        return commands.add_parser(name, help=summary, description=text, parents=[common])

    _activation_arguments(add("activate", "activate this machine with an activation file", _ACTIVATE))
    add(
        "run",
        "run the agent in the foreground",
        "Checks the TPM and the licence, asks the cloud, then serves the socket until it is stopped. Exits with code "
        "81 before it serves if this machine is revoked.",
    )
    add(
        "status",
        "show the state, the licence and the next step",
        "Works in every state of the licence, with and without a running agent.",
    )
    license_command = add("license", "show the licence", "Shows the licence of this machine.")
    license_command.add_argument("action", choices=["show"], help="show: print the licence")
    entitlement = add(
        "entitlement",
        "ask whether an entitlement is granted",
        "Asks the running agent. Exits with code 0 if the entitlement is granted now, and with code 3 if it is denied.",
    )
    entitlement.add_argument("name", metavar="NAME", help="the entitlement's name")
    add(
        "schema",
        "print the API document of the socket",
        "Prints an OpenAPI 3.1 document, made from the installed code. It asks no agent.",
    )
    identity = add(
        "identity",
        "show the endorsement keys of the TPM",
        "Shows each endorsement key (EK) that can identify this machine, with the name that `cascade hardware "
        "allow-ek TENANT NAME` takes, and the certificates in the NV memory of the TPM. It needs no activation, and "
        "works beside a running agent.",
    )
    identity.add_argument("action", choices=["ek"], help="ek: show the endorsement keys and their certificates")
    renew = add(
        "renew",
        "refresh licence, session and device certificate now",
        "Asks the cloud now. Without this command the agent asks when the licence, the session or the device "
        "certificate is due.",
    )
    renew.add_argument(
        "--rekey", action="store_true", help="also make a new node key in the TPM and get a device certificate for it"
    )
    return parser


_ACTIVATE = (
    "Proves to the cloud with the TPM which machine this is, and fetches its identity and licence. Without a TPM it needs "
    "--software. If the command is interrupted, repeat it with the same file; it then continues. If an operator must "
    "approve the activation, the command waits and shows the id to approve. The agent must not be running."
)


def _activation_arguments(activate: argparse.ArgumentParser) -> None:
    activate.add_argument("file", type=Path, metavar="FILE", help="the activation file, made by `cascade code create`")
    activate.add_argument(
        "--software",
        dest="identity",
        action="store_const",
        const="software",
        help="activate without a TPM: the node key is in a file, and the machine is known by its serial numbers; the "
        "cloud must admit the tier `software`",
    )
    activate.add_argument(
        "--no-wait",
        action="store_true",
        help="do not wait for an operator's approval: exit with code 88; the same command continues later",
    )


async def _with_state(
    config: Config, work: Callable[..., Awaitable[Any]], *, creates: bool = False, owns: bool = True
) -> Any:
    """Run `work(state, tpm)`, and return its result.

    Args:
        config: the settings.
        work: the work to do.
        creates: the state directory may be missing, and is then made.
        owns: hold the lock of the state directory meanwhile; work that only reads needs no lock.

    Raises NotActivated if the directory is missing; StateError, TctiRefused, and the errors of `work`.
    """
    from node.disk.files import exists, trusting_owner
    from node.state import NotActivated, State

    async with _tpm(config) as tpm:
        if not creates and not exists(config.state_dir):
            # A command that only asks must not make the directory: it would belong to the user who asked.
            raise NotActivated("cannot find an identity: this machine is not activated")
        state = State(config.state_dir)
        with state.owned() if owns else trusting_owner(config.state_dir):
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


async def _activate(config: Config, args: argparse.Namespace) -> int:
    from node.clock import utc_now
    from node.exchanges.activation import activate, read_activation_file
    from node.local.documents import license_document

    # Before the state directory is made: a refused file changes nothing.
    read_activation_file(args.file)

    def say(text: str) -> None:
        if not args.json:
            print(f"  {shown(text)} ...", file=sys.stderr, flush=True)

    async def work(state: Any, tpm: Any) -> Any:
        in_software = config.identity == "software"
        wait = not args.no_wait
        return await activate(state, tpm, args.file, utc_now, say, in_software=in_software, wait=wait)

    snapshot = (await _with_state(config, work, creates=True)).snapshot()
    document = msgspec.to_builtins(license_document(snapshot))
    print_document(document, args.json, human_license)
    return 0 if snapshot.verdict.gate_open else int(snapshot.verdict.exit)


async def _run(config: Config, args: argparse.Namespace) -> int:
    from node.startup import run

    async with _tpm(config) as tpm:
        await run(config, tpm, ready=_collect_garbage, waiting=_collect_garbage)
    return 0


def _collect_garbage() -> None:
    """Collect garbage once after the start, exempt the objects that remain, and collect automatically from now on."""
    gc.collect()
    gc.freeze()
    gc.enable()


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
            state.conditions.report("approval_pending", waiting_text(waiting), next_step(waiting.activation))
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


async def _status(config: Config, args: argparse.Namespace) -> int:
    document = await _status_document(config)
    print_document(document, args.json, human_status)
    return int(document["license"]["exit_code"])


async def _license(config: Config, args: argparse.Namespace) -> int:
    document = (await _status_document(config))["license"]
    print_document(document, args.json, human_license)
    return int(document["exit_code"])


async def _entitlement(config: Config, args: argparse.Namespace) -> int:
    from node.local.client import entitlement_path, expect, request
    from node.local.documents import EntitlementDocument

    reply = await request(config.socket, "GET", entitlement_path(args.name))
    answer = expect(reply, {200, 403}, EntitlementDocument)
    print_document(answer, args.json, human_entitlement)
    return int(Exit.OK) if answer["granted"] else int(Exit.DENIED)


async def _schema(_config: Config, _args: argparse.Namespace) -> int:
    from node.local.openapi import encoded

    emit(encoded().decode().removesuffix("\n"))
    return int(Exit.OK)


async def _renew(config: Config, args: argparse.Namespace) -> int:
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


async def _identity(config: Config, args: argparse.Namespace) -> int:
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
    "identity": _identity,
}


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
    arguments = sys.argv[1:] if argv is None else argv
    args = _parser(only=arguments[0] if arguments and arguments[0] in _COMMANDS else "").parse_args(arguments)
    # A start makes hardly any garbage. The collector would take 7 % of its time.
    gc.disable()
    try:
        if args.command != "run":
            # The command's own output has the outcome. A warning on the way to it would be noise.
            with to_stderr(logging.ERROR):
                return _execute(args)
        with never_blocking(logging.INFO), strays_ignored():
            return _execute(args)
    finally:
        gc.enable()


def _execute(args: argparse.Namespace) -> int:
    """Run the parsed command. Raises SystemExit after an error it has printed."""
    try:
        import trio

        config = load_config(vars(args))
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
