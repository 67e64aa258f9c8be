"""Use case: activate this machine, from an activation file to a confirmed generation.

The activation can be repeated after an interruption at any point (`node.exchanges.enrolment`). The present generation
and the present trust stay in force until the new generation is confirmed, so a refused activation changes neither the
licence nor the repository and the pin.
"""

from contextlib import suppress
from datetime import UTC, datetime

import trio

from node.clock import Clock
from node.config import BUILT_AT
from node.errors import NodeError, StateDamaged, StateUnsafe
from node.exchanges.enrolment import Enrolment, Manner, Right, Say
from node.exits import Exit
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.licence import Licence
from node.licensing.raising import TPM_SECONDS_MAX
from node.licensing.trusted_time import first_floor
from node.state import State
from node.trust import published
from node.trust.published import TrustSet
from protocol.messages.activation import ActivationFile


class OtherCloud(NodeError):
    """The file is from another cloud than the generation in force. Its trust would end the present licence."""

    exit = Exit.VERIFICATION
    code = "state_of_another_cloud"
    next = (
        "Use a file from the cloud that this machine belongs to. To change to the other cloud, move the state "
        "directory aside first."
    )


async def activate(
    state: State,
    tpm: Tpm,
    given: tuple[ActivationFile, str],
    clock: Clock,
    say: Say,
    *,
    in_software: bool = False,
    wait: bool = True,
) -> Licence:
    """Activate this machine, or continue an interrupted activation with the same file. The caller owns the state.

    `given` is the activation file and its digest (`read_activation_file`). `say` is called with a text for each step, for the user who waits. `in_software`: the user wants an identity without
    a TPM; otherwise the machine must have one. If an operator must approve the activation, the function waits; without
    `wait` it raises ApprovalPending. Returns the licence of the confirmed generation. Raises NodeError, TpmError.
    """
    file, file_sha256 = given
    # Not from the stored floor: a TPM clock that was set forward must not prevent the activation that repairs it.
    state.start_time(first_floor(BUILT_AT, _aware(file.created_at)), None, machine_clocks(clock))
    say("fetching the published trust, from the pin in the file")
    staged = await published.stage(file.repository_url, file.pin, state.directory, clock=state.time.low)
    return await enrol(
        state, staged, tpm, clock, say, Right(file.code, file_sha256), Manner(in_software=in_software, wait=wait)
    )


async def enrol(
    state: State, staged: published.Staged, tpm: Tpm, clock: Clock, say: Say, right: Right, manner: Manner
) -> Licence:
    """Carry out an activation or a recovery under a staged trust. The caller owns the state and has begun its time.

    Returns the licence of the confirmed generation. Raises NodeError, TpmError.
    """
    in_force = trust_in_force(state)
    if in_force is not None:
        check_cloud(state, in_force, staged.value)
    state.floors.tpm = tpm
    try:
        exchange = Enrolment(state, staged, tpm, clock, say, manner, first=in_force is None)
        licence = await exchange.carry_out(right)
        await staged.keep()
    finally:
        unstored = await state.saver.flush()
    if unstored is not None:
        raise unstored
    await _raise_first(state, say)
    state.keep_time()
    state.identities.clear_activation()
    return licence


async def _raise_first(state: State, say: Say) -> None:
    """Raise the floor to the first statement. A counter without a record closes the gate at a start without the cloud."""
    raised = False
    with trio.move_on_after(TPM_SECONDS_MAX):
        raised = await state.floors.raise_now()
    if state.floors.counter is None:
        say("this machine has no hardware floor: an old copy of its state directory works to its lease's end")
    if not raised and state.floors.counter is not None and not state.floors.fits:
        say("the floor record is not complete: start the agent and let it reach the cloud before it works offline")


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def trust_in_force(state: State) -> TrustSet | None:
    """The stored trust, if a generation is in force. None if it is damaged: no licence can be verified without it.

    Raises StateError.
    """
    with suppress(StateDamaged, StateUnsafe):
        if state.identities.current_generation() is None:
            return None
    with suppress(StateDamaged, StateUnsafe, published.TrustError):
        return published.load(state.directory)
    return None


def check_cloud(state: State, before: TrustSet, verified: TrustSet) -> None:
    """Check that the trust in force is of the file's cloud. Otherwise the new trust would end the present licence.

    Two clouds are the same if their trust domains are equal and they share a root; roots rotate one at a time.
    Raises OtherCloud.
    """
    same = before.bundle.trust_domain == verified.bundle.trust_domain
    if not (same and set(before.bundle.roots) & set(verified.bundle.roots)):
        raise OtherCloud(f"cannot use this file: the licence in {state.directory} is from another cloud")
