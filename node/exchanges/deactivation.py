"""Use case: deactivate this machine. The cloud releases the node, and the state and the TPM keep nothing of it.

The steps, and what a crash after each of them leaves behind:

1. The cloud releases the node. The next contact brings the signed revocation, so the gate closes.
2. The revocation is stored. The agent does not start any more, also without the cloud.
3. The record of the deactivation is stored. This machine has no identity from now on.
4. The files are removed, then the counters in the TPM. A repeat of the command, or the next activation, goes on.

A repeat of the command continues after each step.
"""

from contextlib import suppress
from datetime import datetime

import trio

from node.disk import deactivated
from node.disk.deactivated import NOT_YET, Deactivated, Seat
from node.disk.thread import DISK_SECONDS_MAX, on_disk
from node.disk.version import forget_version
from node.errors import NodeError, StateError
from node.exchanges.contact import Contact
from node.exchanges.session import fresh_nonce
from node.exits import Exit
from node.hwbind.counter_removal import Left, remove_counters
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.floor_memory import label_of
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.link import api
from node.state import State
from protocol.faults import fault_point
from protocol.messages.sessions import Ask, StatementAnswer

CLOUD_SECONDS_MAX = 45.0
"""How long the cloud may take for the session and the release. A removal of the package waits for it."""
_KEPT = (
    "Nothing was removed, and the seat is still taken. Run the command again once the cause is gone; or run `cascadia "
    "deactivate --forget`, which removes the state all the same, and have an operator run `cascade node release {node}`."
)


class SessionWithheld(NodeError):
    """The cloud opens no session for this machine, so the machine cannot ask for anything."""

    exit = Exit.REFUSED
    code = "session_withheld"


class NotReleased(NodeError):
    """The cloud did not release the node. Nothing was removed."""


async def hand_back(contact: Contact) -> Seat:
    """Have the cloud release the node, and store its signed revocation. Returns what became of the seat.

    Raises NodeError with the cause if there is no signed revocation, or it cannot be stored.
    """
    if not contact.licence.revoked and not await contact.attempt() and contact.last_failure is not None:
        raise contact.last_failure.error()
    if not contact.licence.revoked:
        await _release(contact)
    unstored = await contact.saver.flush()
    if unstored is not None:
        raise unstored
    return _seat_of(contact.licence)


async def _release(contact: Contact) -> None:
    """Send the release over the session. A repeat is refused with the same revocation."""
    async with contact.exclusive:
        licence, fabric = contact.licence, contact.connection.fabric
        if fabric is None:
            reason = licence.verdict().reason
            raise SessionWithheld(f"cannot hand the seat back: the cloud opens no session for this machine ({reason})")
        nonce = fresh_nonce()
        ask = Ask(nonce=nonce, presented=licence.presented, trust_version=licence.trust.value.version)
        try:
            with fault_point("node.release.send"):
                answer = await fabric.release(ask)
        except api.CloudRefused as refusal:
            if not refusal.problem.statement:
                raise
            answer, nonce = StatementAnswer(refusal.problem.statement, refusal.problem.freshness), ""
        licence.apply(answer, nonce)


def _seat_of(licence: Licence) -> Seat:
    revocation = licence.revocation
    seats: dict[str, Seat] = {"released": "free", "revoked": "revoked", "superseded": "elsewhere"}
    return "taken" if revocation is None else seats[revocation.reason]


async def begin(contact: Contact, hardware: HardwareCheck, now: datetime, *, forget: bool) -> Deactivated:
    """Hand the seat back, and store the record of the deactivation. The caller owns the state.

    With `forget` the machine is deactivated also if the cloud does not release the node. Otherwise raises NotReleased
    with the cause, and changes nothing. Raises StateError, DiskSilent.
    """
    seat: Seat = "taken"
    try:
        with trio.fail_after(CLOUD_SECONDS_MAX):
            seat = await hand_back(contact)
    except (NodeError, TpmError, trio.TooSlowError) as error:
        if not forget:
            raise _not_released(error, contact.licence.identity.node) from error
        if hardware.status == "other":
            seat = "elsewhere"
    record = record_of(contact.state, now, seat, contact.licence)
    await on_disk(lambda: deactivated.begin(contact.state.directory, record), seconds_max=DISK_SECONDS_MAX)
    return record


def _not_released(error: NodeError | TpmError | trio.TooSlowError, node: str) -> NotReleased:
    if isinstance(error, trio.TooSlowError):
        error = api.CloudUnreachable(f"cannot reach the cloud: it did not answer within {CLOUD_SECONDS_MAX:g} s")
    refused = NotReleased(str(error), next_step=_KEPT.format(node=node))
    refused.exit = error.exit if isinstance(error, NodeError) else next(one for one in Exit if one == error.exit_code)
    refused.code = error.code
    return refused


def record_of(state: State, now: datetime, seat: Seat, licence: Licence | None = None) -> Deactivated:
    """The record of a deactivation. Without `licence` it names what the stored generations say. Uses the disk.

    Counters of a node that goes on elsewhere stay: a later activation of this chip has the same counter.
    """
    identities = [] if licence is None else [licence.identity]
    with suppress(StateError):
        for generation in sorted(state.identities.generations(), reverse=True):
            with suppress(StateError):
                identities.append(state.identities.load(generation))
    holders = dict.fromkeys(label_of(each.holder) for each in identities if not each.node_key.in_software)
    first = identities[0] if identities else None
    revocation = None if licence is None else licence.revocation
    return Deactivated(
        trust_domain=first.trust_domain if first else "",
        tenant=first.tenant if first else "",
        node=first.node if first else "",
        generation=first.generation if first else 0,
        at=now,
        seat=seat,
        statement=licence.presented if licence is not None and revocation is not None else "",
        left=() if seat == "elsewhere" else tuple(Left(holder, "", NOT_YET) for holder in holders),
    )


async def complete(state: State, tpm: Tpm) -> Deactivated | None:
    """Remove what is left of a deactivated machine. Returns the record; None if this machine is not deactivated.

    The caller owns the state. A counter that the TPM keeps is in `left`. Raises StateError.
    """
    record = await on_disk(lambda: deactivated.remove_rest(state.directory))
    if record is None:
        return None
    await on_disk(lambda: forget_version(state.directory))
    if not record.left:
        return record
    left = await remove_counters(tpm, tuple(each.holder for each in record.left))
    return await on_disk(lambda: deactivated.note_left(state.directory, record, left))
