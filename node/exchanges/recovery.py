"""Use case: find out what happened to this machine, and get its own node back.

`look` reads the state directory and asks the TPM. It changes nothing. `node.licensing.situation` chooses the way back.
`recover` is an activation (`node.exchanges.enrolment`) whose right is a recovery claim. `renew` is a contact with the
cloud, for all the faults that are no recovery.
"""

from contextlib import suppress
from datetime import UTC, datetime

import msgspec
from cryptography import x509

from node.clock import Clock, utc_now
from node.config import BUILT_AT
from node.disk.boot import BootRecord
from node.disk.identity import Identity
from node.errors import NodeError, StateDamaged, StateError, StateUnsafe
from node.exchanges.activation import enrol
from node.exchanges.contact import Contact
from node.exchanges.enrolment import Manner, Right, Say
from node.exits import Exit
from node.hwbind.errors import TpmCleared, TpmError
from node.hwbind.fingerprint import fingerprint
from node.hwbind.reading import components_in_time
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.situation import Chip, Fault, Found, NodeKey, Plan
from node.licensing.trusted_time import first_floor
from node.link.certificates import chain_of
from node.state import NotActivated, State
from node.trust import published
from node.trust.errors import TrustError, TrustUnreachable
from protocol.encoding import sha256_hex
from protocol.fingerprint import Judgement, judge
from protocol.messages.activation import TrustPin
from protocol.messages.recovery import AwaitedRecovery, RecoveryClaim


class TrustNeeded(NodeError):
    """The published trust is lost, and no file names the cloud."""

    exit = Exit.USAGE
    code = "file_needed"
    next = (
        "Give the activation file or a recovery file of this cloud: run the command again with `--file FILE`. The code "
        "in an old activation file does not matter; the file names the cloud."
    )


class NodeNeeded(NodeError):
    """Nothing names the node of this machine, so the cloud cannot know which node is meant."""

    exit = Exit.USAGE
    code = "node_needed"
    next = (
        "Ask the operator for the id of the node (`cascade node list`), for a recovery code, or for a recovery file. Run "
        "the command again with `--node NODE`, `--code-file FILE` or `--file FILE`."
    )


class Source(msgspec.Struct, frozen=True):
    """The cloud that a file names: URL and pin of the published trust, and the time at which the file was made."""

    repository_url: str
    pin: TrustPin
    created_at: datetime


class Look(msgspec.Struct):
    """What was found, and the licence, if one can be read. `hardware` is the check of the TPM behind it.

    `trust_damaged`: only the published trust is damaged. The node may be intact.
    """

    found: Found
    hardware: HardwareCheck
    licence: Licence | None = None
    trust_damaged: bool = False


async def look(state: State, tpm: Tpm, boot: BootRecord, clock: Clock, node: str = "") -> Look:
    """Find out what is left of this machine's node. `node` is the id that a person gave, or "". Raises nothing.

    The node key is used once, if there is one. The state directory is read only.
    """
    hardware = HardwareCheck(tpm, boot, state.conditions)
    found = Found(directory="lost", node=node, has_trust=_has_trust(state))
    try:
        licence = state.load_licence(hardware, machine_clocks(clock))
    except NotActivated:
        return Look(msgspec.structs.replace(found, waits=_waits(state, None)), hardware)
    except (StateDamaged, StateUnsafe, TrustError) as error:
        return Look(_damaged(state, found, error), hardware, trust_damaged=_is_of_trust(state, error))
    except StateError as error:
        fault = Fault(error.code, error.text, error.next, int(error.exit))
        return Look(msgspec.structs.replace(found, directory="damaged", damage=error.text, fault=fault), hardware)
    return Look(await _judged(state, hardware, licence, found), hardware, licence)


def _is_of_trust(state: State, error: NodeError) -> bool:
    """Whether a fault of the licence is one of the published trust alone."""
    if isinstance(error, TrustError):
        return True
    return isinstance(error, StateError) and state.directory / "trust" in error.path.parents


async def mend_trust(state: State, source: "Source | None", say: Say) -> bool:
    """Fetch a damaged published trust again: from the pin in the state directory, or from that of the file.

    It is no recovery: the node key and the identity may be intact. The caller owns the state. Trust from a file is stored
    only if it verifies the device certificate in the directory. Returns whether the trust is intact now.
    """
    state.start_time(first_floor(BUILT_AT), None, machine_clocks(utc_now))
    say("fetching the published trust again, because the stored one is damaged")
    try:
        if source is None:
            await published.repair(state.directory, clock=state.time.low)
            return True
        staged = await published.stage(source.repository_url, source.pin, state.directory, clock=state.time.low)
        chain_of(state.identities.load(max(state.identities.generations(), default=0)).chain[0], staged.value.bundle)
        await staged.keep()
    except NodeError as error:
        say(error.text)
        return False
    return True


def _has_trust(state: State) -> bool:
    try:
        published.load(state.directory)
    except (StateError, TrustError):
        return False
    return True


def _waits(state: State, in_force: Identity | None) -> AwaitedRecovery | None:
    """The recovery case that a stored activation waits for. One whose generation is in force has ended."""
    with suppress(StateError):
        pending = state.identities.load_activation()
        if pending is None or not pending.approval or (in_force and in_force.node_key == pending.node_key):
            return None
        return pending.approval.recovery or None
    return None


def _damaged(state: State, found: Found, error: NodeError) -> Found:
    """What is left if the files of the licence cannot be used."""
    identity: Identity | None = None
    generations: tuple[int, ...] = ()
    with suppress(StateError):
        generations = state.identities.generations()
    for generation in sorted(generations):
        with suppress(StateError):
            identity = state.identities.load(generation)
    return msgspec.structs.replace(
        found,
        directory="damaged",
        damage=error.text,
        tenant=identity.tenant if identity else "",
        node=found.node or (identity.node if identity else ""),
        generation=max(generations, default=0),
        in_software=identity is not None and identity.node_key.in_software,
        waits=_waits(state, None),
        statement=state.licences.latest_token(),
        last_ran_at=state.last_ran_at(),
    )


async def _judged(state: State, hardware: HardwareCheck, licence: Licence, found: Found) -> Found:
    """Complete the finding of a machine whose licence can be read: ask the TPM, and compare the hardware."""
    identity, fault = licence.identity, None
    ran = state.last_ran_at()
    try:
        await licence.check_hardware()
    except TpmError as error:
        hardware.report_fault(error)
    if hardware.fault is not None:
        caught = hardware.fault
        fault = Fault(caught.code, str(caught), caught.advice, caught.exit_code)
    chip, key = _chip(state, hardware, identity)
    until = _certificate_until(identity)
    lease = licence.lease
    return msgspec.structs.replace(
        found,
        directory="present",
        tenant=identity.tenant,
        node=identity.node,
        generation=identity.generation,
        in_software=identity.node_key.in_software,
        chip=chip,
        node_key=key,
        certificate_until=until,
        certificate_expired=until is not None and state.time.high() >= until,
        verdict=licence.verdict(),
        same=await _compared(licence, hardware),
        fault=fault,
        waits=_waits(state, identity),
        case=(lease.recovery or "") if lease is not None else "",
        last_ran_at=ran,
        statement=licence.presented,
    )


def _chip(state: State, hardware: HardwareCheck, identity: Identity) -> tuple[Chip, NodeKey]:
    """The TPM and the node key, from the last check."""
    if identity.node_key.in_software:
        return "none", "works"
    match hardware.status:
        case "ours":
            return "same", "works"
        case "other":
            cleared = any(each.code == TpmCleared.code for each in state.conditions.current())
            return ("cleared" if cleared else "other"), "refused"
        case _:
            return "silent", "unknown"


async def _compared(licence: Licence, hardware: HardwareCheck) -> Judgement | None:
    """The comparison with the enrolled fingerprint, if the lease has one."""
    if hardware.judgement is not None:
        return hardware.judgement
    lease = licence.lease
    if lease is None or lease.fingerprint is None:
        return None
    components = await components_in_time()
    return judge(lease.fingerprint, fingerprint(licence.identity.fingerprint_salt, components), components.unreadable)


def _certificate_until(identity: Identity) -> datetime | None:
    """The end of the device certificate; None if it cannot be read."""
    try:
        return x509.load_der_x509_certificate(identity.chain[0]).not_valid_after_utc
    except (ValueError, IndexError):
        return None


async def renew(state: State, tpm: Tpm, looked: Look, clock: Clock) -> Licence:
    """Ask the cloud now. It also confirms, renews an expired certificate and corrects the time. The caller owns the state.

    Raises NodeError with the cause if the cloud gave no signed statement; TpmError. `looked` has a licence.
    """
    if looked.licence is None:
        raise NotActivated("cannot renew: there is no licence")
    state.floors.tpm = tpm
    contact = Contact(state, tpm, looked.hardware, looked.licence, clock)
    try:
        if not await contact.attempt(new_session=True) and contact.last_failure is not None:
            raise contact.last_failure.error()
    finally:
        await contact.connection.close()
        unstored = await state.saver.flush()
    if unstored is not None:
        raise unstored
    await state.floors.raise_now()
    _clear_ended(state, contact.licence.identity)
    return contact.licence


def _clear_ended(state: State, in_force: Identity) -> None:
    """Remove a stored activation whose generation is in force: the contact has confirmed it."""
    with suppress(StateError):
        pending = state.identities.load_activation()
        if pending is not None and pending.node_key == in_force.node_key:
            state.identities.clear_activation()


async def recover(state: State, tpm: Tpm, found: Found, plan: Plan, clock: Clock, say: Say, asked: "Asked") -> Licence:
    """Recover, or continue a recovery that was interrupted or waits. The caller owns the state.

    Raises ApprovalPending if the case waits and the person does not; TrustNeeded, NodeNeeded; CloudRefused; NodeError,
    TpmError.
    """
    known = [BUILT_AT]
    if asked.source is not None:
        at = asked.source.created_at
        known.append(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    if found.last_ran_at is not None:
        known.append(found.last_ran_at)
    # As an activation: a TPM clock that was set forward must not prevent the recovery that repairs it.
    state.start_time(first_floor(*known), None, machine_clocks(clock))
    staged = await _trust(state, asked.source, say)
    if plan.way == "recovery" and not _has_activation(state):
        require_named(found, asked.code)
    claim = RecoveryClaim(
        node=found.node,
        statement=found.statement,
        situation=plan.situation or "reinstalled",
        last_ran_at=found.last_ran_at or msgspec.UNSET,
    )
    right = Right(asked.code, sha256_hex(asked.code.encode()), claim)
    manner = Manner(in_software=asked.in_software or found.in_software, wait=asked.wait)
    return await enrol(state, staged, tpm, clock, say, right, manner)


def require_named(found: Found, code: str) -> None:
    """Check that something names the node: the state directory, the person, or a recovery code. Raises NodeNeeded."""
    if not (found.node or found.statement or code):
        raise NodeNeeded("cannot ask for a recovery: nothing on this machine names its node, and no code is given")


def _has_activation(state: State) -> bool:
    """Whether an interrupted recovery is stored. It goes on, and names the node."""
    try:
        return state.identities.load_activation() is not None
    except StateError:
        return False


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the person gave: the file's cloud, a recovery code in its canonical form or "", and how to go on.

    `in_software` counts if the state directory does not say it. `wait`: wait for an approval.
    """

    source: Source | None = None
    code: str = ""
    in_software: bool = False
    wait: bool = True


async def _trust(state: State, source: Source | None, say: Say) -> published.Staged:
    """The published trust: from the pin of the file, or else from the stored pin; without its repository as stored.

    Raises TrustNeeded, TrustError, StateError.
    """
    if source is not None:
        say("fetching the published trust, from the pin in the file")
        return await published.stage(source.repository_url, source.pin, state.directory, clock=state.time.low)
    try:
        held = published.load(state.directory)
    except (StateError, TrustError) as error:
        raise TrustNeeded(f"cannot recover without the published trust: {error.text}") from error
    say("refreshing the published trust")
    try:
        return await published.stage(held.repository_url, held.pin, state.directory, clock=state.time.low)
    except (TrustError, TrustUnreachable) as error:
        say(f"{error.text}; using the stored trust")
        return published.stored(state.directory)
