"""Command: `cascadia deactivate` hands the seat back and removes this machine's identity.

A running agent has the cloud release the node, stores that the machine is deactivated, and ends. This command then
removes the state and the floor counter. Without an agent the command does all of it.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import trio

from node.cli.show import VALUE_CHARACTERS_MAX, print_document
from node.clock import utc_now
from node.config import Config
from node.disk import deactivated
from node.disk.boot import BootRecord
from node.disk.deactivated import Deactivated
from node.disk.files import exists
from node.errors import NodeError, StateBusy, StateError, StateUnreadable
from node.exchanges import deactivation
from node.exchanges.contact import Contact
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.local import client
from node.local.documents import DeactivationDocument
from node.local.routes import deactivation_document
from node.state import NotActivated, State
from node.text import shown
from node.trust.errors import TrustError

WithState = Callable[..., Awaitable[Any]]
COMMAND_SECONDS_MAX = 130.0
"""How long the agent may take: longer than its own bound of a command."""
END_SECONDS_MAX = 20.0
"""How long the agent may take to end after its answer: it stores what waits, within some seconds."""
_RETRY_SECONDS = 0.1
_SEATS = {
    "free": "free",
    "revoked": "of a revoked node; free once its last lease has terminated",
    "elsewhere": "not changed: the node goes on elsewhere",
    "none": "none was taken",
    "taken": "STILL TAKEN",
}


class NotConfirmed(NodeError):
    """The deactivation was not confirmed."""

    exit = Exit.USAGE
    code = "not_confirmed"
    next = "Nothing was changed. Run the command again and answer `yes`, or use `--yes`."


async def deactivate(config: Config, args: argparse.Namespace, with_state: WithState) -> int:
    """Deactivate this machine, and show what became of its seat. Raises NodeError, TpmError."""
    if not exists(config.state_dir):
        raise NotActivated("cannot find an identity: this machine is not activated")
    if not args.yes:
        _confirm()
    path = "/v1/deactivate/forget" if args.forget else "/v1/deactivate"
    with suppress(client.AgentAbsent):
        reply = await client.request(config.socket, "POST", path, seconds_max=COMMAND_SECONDS_MAX)
        client.expect(reply, {200}, DeactivationDocument)

    async def work(state: State, tpm: Tpm) -> Deactivated:
        return await _own(config, state, tpm, forget=args.forget)

    record = await _once_free(lambda: with_state(config, work))
    document = msgspec.to_builtins(deactivation_document(record))
    print_document(document, args.json, human)
    return int(document["exit_code"])


def _confirm() -> None:
    """Ask the person at the terminal. Raises NotConfirmed."""
    if not sys.stdin.isatty():
        raise NotConfirmed("cannot ask for a confirmation: the input is no terminal")
    print("Licensed software on this machine stops, and the machine loses its identity. Type yes to go on: ", end="")
    sys.stdout.flush()
    if sys.stdin.readline().strip() != "yes":
        raise NotConfirmed("cannot deactivate this machine: it was not confirmed")


async def _once_free(work: Callable[[], Awaitable[Deactivated]]) -> Deactivated:
    """Do the work once the agent has ended. Raises StateBusy after END_SECONDS_MAX, and the errors of the work."""
    deadline = trio.current_time() + END_SECONDS_MAX
    while True:
        try:
            return await work()
        except StateBusy:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(_RETRY_SECONDS)


async def _own(config: Config, state: State, tpm: Tpm, *, forget: bool) -> Deactivated:
    """Deactivate as the owner of the state, or go on with a deactivation. Raises NodeError."""
    if not _has_identity(state) and (done := await deactivation.complete(state, tpm)) is not None:
        return done
    hardware = HardwareCheck(tpm, BootRecord(config.socket.parent), state.conditions)
    try:
        licence = state.load_licence(hardware, machine_clocks())
    except NotActivated:
        if not exists(state.directory / "activation.json"):
            raise
        # An activation that was not proved, or waits for an approval, holds a seat until it lapses.
        deactivated.begin(state.directory, deactivation.record_of(state, utc_now(), "none"))
    except (StateError, TrustError):
        if not forget:
            raise
        deactivated.begin(state.directory, deactivation.record_of(state, utc_now(), "taken"))
    else:
        with suppress(TpmError):  # The contact meets the fault again, and reports it.
            await licence.check_hardware()
        contact = Contact(state, tpm, hardware, licence, utc_now)
        try:
            await deactivation.begin(contact, hardware, utc_now(), forget=forget)
        finally:
            await contact.connection.close()
    record = await deactivation.complete(state, tpm)
    if record is None:
        raise StateUnreadable(state.directory / deactivated.NAME, "it has just been written, and cannot be used")
    return record


def _has_identity(state: State) -> bool:
    """Whether files of an identity are there, also damaged ones."""
    try:
        return bool(state.identities.generations()) or state.identities.current_generation() is not None
    except StateError:
        return True


def human(document: dict[str, Any]) -> str:
    """The document as text."""
    rows = [
        ("deactivated", document["deactivated_at"]),
        ("node", document["node"] or "not known"),
        ("seat", _SEATS[document["seat"]]),
        *(("left in TPM", f"NV index {each['index'] or 'not known'}: {each['reason']}") for each in document["left"]),
        ("next", document["next"]),
    ]
    return "\n".join(f"{name + ':':<14}{shown(str(value), VALUE_CHARACTERS_MAX)}" for name, value in rows if value)
