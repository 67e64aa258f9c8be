"""Store: the agent's state directory, its lock and the stores of its parts.

lock                                      held by the one process that owns the state    node.disk.lock
trust/                                    verified copies of the published trust         node.trust
version                                   version of the format                        node.disk.version
deactivated.json                          the record of a deactivation                 node.disk.deactivated
identity/, current.json, activation.json, renewal.json
                                          identities of this machine, by generation      node.disk.identity
licence/, tombstones/                     signed statements of Fabric                    node.licensing.store
licence/floors.json, identity/floors.json the floor record, signed by the node key       node.licensing.floor_store
licence/time.json                         the time, on a machine without a floor record    node.licensing.kept_time

`current.json` names the generation in force. Signed statements have the last word: the cloud signs a lease or a
suspension only for a generation that it has confirmed, so such a statement puts its generation in force. If
`current.json` is torn or was open to other users, the statements alone decide. Damage of a generation that is not in
force is a condition (`node.conditions`), and stops nothing.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from node.clock import Clock, Seconds, monotonic, utc_now
from node.conditions import Conditions
from node.config import BUILT_AT
from node.disk import deactivated
from node.disk.identity import Identity, IdentityStore
from node.disk.lock import StateLock
from node.disk.modes import inspect
from node.disk.version import check_version, keep_version
from node.errors import NodeError, StateDamaged, StateError, StateUnsafe
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.hwbind.succession import other_key
from node.licensing.acceptance import voids_lower_generations
from node.licensing.boot_time import BootTimeRecord, machine_clocks
from node.licensing.floor_store import FloorStore
from node.licensing.hardware import HardwareCheck
from node.licensing.kept_time import KeptTime
from node.licensing.licence import Licence
from node.licensing.raising import FloorKeeper
from node.licensing.renewal_tokens import RenewalTokens
from node.licensing.saving import Saver
from node.licensing.store import LicenceStore
from node.licensing.trusted_time import Clocks, TimeFloor, TrustedTime, first_floor, least_high_of
from node.licensing.verdict import current_revocation
from node.link.certificates import CertificateRejected, chain_of, is_certificate_of
from node.trust.current import CurrentTrust
from node.trust.published import TrustSet
from protocol.ids import NodeSpiffeId

log = logging.getLogger("cascadia.state")


class NotActivated(NodeError):
    """This machine has no identity."""

    exit = Exit.UNACTIVATED
    code = "unactivated"


def not_activated(ended: deactivated.Deactivated | None = None) -> NotActivated:
    """The error of a machine without an identity. `ended` is the record of its deactivation."""
    text = "cannot find an identity: this machine is not activated"
    if ended is not None:
        text = f"cannot find an identity: this machine was deactivated at {ended.at:%Y-%m-%dT%H:%M:%SZ}"
        text += f" as node {ended.node}" if ended.node else ""
    return NotActivated(text)


CONDITION_CURRENT = "current_generation_unknown"
CONDITION_PENDING = "stored_generation_unusable"
CONDITION_OPEN = "state_open_to_others"
PATHS_SHOWN_MAX = 3


class State:
    """The stores of one state directory. A caller that only reads needs no lock; a caller that writes uses `owned`.

    `conditions` has the faults that do not stop the agent. `saver` has the statements that are not stored yet. `time` is
    trusted time.
    `trust_in_memory` is a verified trust that the disk refuses. It is used instead of the stored, damaged one.
    """

    def __init__(
        self,
        directory: Path,
        clock: Clock = utc_now,
        elapsed: Seconds = monotonic,
        boot_id: Callable[[], str] | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            directory: the state directory.
            clock: the wall clock of conditions and of the floor record.
            elapsed: seconds since an arbitrary start, for the pauses of the floor record.
            boot_id: the id of this boot, for the floor record; None reads the kernel's.
        """
        self.directory = directory
        self.conditions = Conditions(clock)
        self.identities = IdentityStore(directory)
        self.licences = LicenceStore(directory)
        floor_store = FloorStore(directory)
        self.floors = FloorKeeper(floor_store, self.conditions, clock=clock, boot_id=boot_id, elapsed=elapsed)
        self.saver = Saver(self.licences, self.conditions, self.floors)
        self.renewal_tokens = RenewalTokens(directory)
        self.time = TrustedTime(first_floor(BUILT_AT), machine_clocks())
        self.floors.time = lambda: self.time.floor
        self._boot_time: BootTimeRecord | None = None
        self._kept_time = KeptTime(directory)
        self._saving_time = threading.Lock()
        self.trust_in_memory: TrustSet | None = None
        self._owned = False

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the lock of the state directory for the length of the block, and make the directory if it is missing.

        What an interrupted deactivation has left is removed. Raises StateBusy if another process holds the lock,
        StateNewer if a newer version of Cascadia wrote the state, StateError if the directory cannot be used.
        """
        with StateLock(self.directory):
            keep_version(self.directory)
            deactivated.remove_rest(self.directory)
            self._owned = True
            try:
                yield
            finally:
                self._owned = False

    def inspect(self) -> None:
        """Report the paths that other users could change. The owner of the state makes them private, where possible.

        `node.disk.modes` has the rule. The condition of a path that is private now stays until the next start, so that
        an administrator sees what happened.
        """
        found = inspect(self.directory, mend=self._owned)
        if not found:
            return
        shown = "; ".join(f"{one.path} {one.reason}" for one in found[:PATHS_SHOWN_MAX])
        more = len(found) - PATHS_SHOWN_MAX
        text = f"other users could change the state: {shown}" + (f"; and {more} more" if more > 0 else "")
        if all(one.mended for one in found):
            text += ". The agent removed the permission"
        if self.conditions.report(CONDITION_OPEN, text, "Find out who changed the permissions or the owner."):
            log.warning("%s", text)

    def start_time(self, floor: TimeFloor, hardware: HardwareCheck | None, clocks: Clocks) -> None:
        """Begin trusted time from a floor and from the record of this boot."""
        boot = None if hardware is None else hardware.boot
        self._boot_time = None if boot is None else BootTimeRecord(boot)
        self.time = TrustedTime(floor, clocks, self._boot_time.load() if self._boot_time else None)
        if hardware is not None:
            hardware.time = self.time

    def _low(self) -> datetime:
        """The time at which the published trust must not have expired."""
        return self.time.low()

    def save_time(self) -> None:
        """Store what this boot knows about the time, for the next run of the agent. Uses the disk; raises nothing."""
        # A disk that is frozen holds one thread, however many contacts follow.
        if self._boot_time is None or not self._saving_time.acquire(blocking=False):
            return
        try:
            self._boot_time.save(self.time.boot)
            self.keep_time()
        finally:
            self._saving_time.release()

    def keep_time(self) -> None:
        """Keep the time of a machine without a floor record. Uses the disk; raises nothing."""
        if self._owned and self.floors.place is None:
            self._kept_time.save(self.time.kept)

    def last_ran_at(self) -> datetime | None:
        """Trusted time at which this machine last ran, as far as its files tell; None without a record.

        Call it after `load_licence`, which reads the floor record. A record is written about once a day.
        """
        kept = self.floors.time_floor or self._kept_time.load()
        return None if kept is None else least_high_of(kept)

    def licence_of(
        self, identity: Identity, trust: CurrentTrust, hardware: HardwareCheck, *, confirmed: bool
    ) -> Licence:
        """The licence of a stored generation.

        Raises StateDamaged if a file is damaged or the device certificate is not of this generation; StateError.
        """
        checked = self._checked(identity, trust.value)
        self._load_floors(checked, trust.value, in_force=confirmed)
        return Licence(self.saver, checked, trust, hardware, self.time, confirmed=confirmed)

    def _load_floors(self, identity: Identity, trust: TrustSet, *, again: bool = False, in_force: bool = True) -> None:
        others = partial(self._other_node_keys, identity, trust)
        node_key = identity.node_key.public_key()
        self.floors.load(identity.holder, node_key, others, again=again, in_force=in_force)

    def _other_node_keys(self, identity: Identity, trust: TrustSet) -> Iterator[ec.EllipticCurvePublicKey]:
        """The other node keys that may have signed the floor record: of a rekey that is not finished, and of others.

        An activation or a rekey that was cut off leaves a record of another key. The key of a rekey counts only if the
        present node key has signed the succession. The certificate of another generation counts only if the cloud has
        issued it to this node.
        """
        followed = [identity.succession]
        with suppress(StateError):
            renewal = self.identities.load_renewal()
            if renewal is not None and renewal.generation == identity.generation:
                followed.append(renewal.succession or None)
        for succession in followed:
            if succession is not None and (key := other_key(succession, identity.node_key)) is not None:
                yield key
        with suppress(StateError):
            for generation in sorted(set(self.identities.generations()) - {identity.generation}, reverse=True):
                with suppress(StateError, CertificateRejected, TpmError):
                    other = self._checked(self.identities.load(generation), trust)
                    if other.holder.of_generation(identity.generation) != identity.holder:
                        continue
                    chain_of(other.chain[0], trust.bundle)
                    yield other.node_key.public_key()

    def pending(self, trust: TrustSet, in_force: int | None = None) -> Identity | None:
        """The stored generation that is not confirmed yet; None if there is none, or if the cloud has revoked it.

        `in_force` is the number of the generation in force, 0 without one. By default the stored files decide.
        While a generation is in force, a generation above it that cannot be used is a condition, and so is a
        directory that cannot be listed. Without a generation in force they raise StateError.
        """
        if in_force is None:
            in_force = self.generation_in_force(trust)
        elif in_force:
            self.inspect()
            self._keep_recorded(in_force)
        return self._pending(trust, in_force)

    def _pending(self, trust: TrustSet, in_force: int) -> Identity | None:
        skipped: list[StateError] = []
        pending = self._first_usable(trust, in_force, skipped)
        if not skipped:
            self.conditions.clear(CONDITION_PENDING)
        elif pending is None and not in_force:
            raise skipped[0]
        else:
            self._report(CONDITION_PENDING, skipped[0])
        if pending is None:
            return None
        evidence = self.licences.load(pending.holder, trust.signing_keys)
        return None if current_revocation(evidence, pending.holder) else pending

    def generation_in_force(self, trust: TrustSet) -> int:
        """The number of the generation in force, or 0. Signed statements decide if `current.json` cannot be read.

        Raises StateError if neither can be read.
        """
        recorded, fault = self._recorded()
        found = self._in_force(trust, recorded, fault) if fault else None
        return found.generation if found else recorded or 0

    def _first_usable(self, trust: TrustSet, above: int, skipped: list[StateError]) -> Identity | None:
        """The highest generation above `above` whose files are intact. The errors of the others go to `skipped`."""
        try:
            generations = self.identities.generations()
        except StateError as error:
            skipped.append(error)
            return None
        for generation in sorted((number for number in generations if number > above), reverse=True):
            try:
                return self._checked(self.identities.load(generation), trust)
            except StateError as error:
                skipped.append(error)
        return None

    def load_licence(self, hardware: HardwareCheck, clocks: Clocks) -> Licence:
        """The licence of the generation in force, or of the pending generation. It begins trusted time.

        The pending generation is used when no generation is in force, or when the one in force is revoked. A stored
        statement that proves the confirmation of a higher generation counts more than `current.json`.
        Raises NotActivated if it is certain that there is neither; StateError, TrustError.
        """
        check_version(self.directory)
        self.inspect()
        recorded, fault = self._recorded()
        ended = deactivated.usable_record(self.directory)
        has_none = recorded is None and fault is None and not self.identities.generations()
        if has_none or (ended is not None and not ended.complete):
            raise not_activated(ended)
        held = self.trust_in_memory
        trust = (
            CurrentTrust.load(self.directory, self._low)
            if held is None
            else CurrentTrust(self.directory, held, self._low)
        )
        current = self._in_force(trust.value, recorded, fault)
        if current is None and fault is not None:
            raise fault
        if current is not None:
            self._keep_recorded(current.generation)
        pending = self._pending(trust.value, current.generation if current else 0)
        if found := current or pending:
            self._load_floors(found, trust.value, again=True)
        kept = self.floors.time_floor or self._kept_time.load() or first_floor(BUILT_AT)
        self.start_time(kept, hardware, clocks)
        licence = None
        if current is not None:
            licence = self.licence_of(current, trust, hardware, confirmed=True)
        if pending is not None and (licence is None or licence.revoked):
            licence = self.licence_of(pending, trust, hardware, confirmed=False)
        if licence is not None:
            # The dates of the stored statements have moved the time. The owner of the state makes the record.
            if self._owned:
                self.save_time()
            return licence
        raise not_activated()

    def make_current(self, generation: int) -> None:
        """Make a confirmed generation the current one on the disk, unless a higher one is. Raises StateError."""
        with suppress(ValueError):  # A higher generation is the current one.
            self.identities.switch_to(generation)
        deactivated.forget(self.directory)

    def _recorded(self) -> tuple[int | None, StateError | None]:
        """The number in `current.json`, or None with the fault that hides the number. None without a file."""
        try:
            recorded = self.identities.current_generation()
        except StateError as error:
            self._report(CONDITION_CURRENT, error)
            return None, error
        self.conditions.clear(CONDITION_CURRENT)
        return recorded, None

    def _in_force(self, trust: TrustSet, recorded: int | None, fault: StateError | None) -> Identity | None:
        """The generation in force: the highest of the recorded one and those with a statement that confirms them.

        `fault` is why the record cannot be read. A generation with damaged evidence may then have been in force. A
        lower generation must not be used in its place.
        Raises StateError if the recorded generation, or without a record the directory, cannot be read.
        """
        try:
            generations = {*self.identities.generations(), *([recorded] if recorded else [])}
        except StateError:
            if recorded is None:
                raise
            generations = {recorded}
        for generation in sorted(generations, reverse=True):
            if generation == recorded:
                return self._checked(self.identities.load(generation), trust)
            try:
                identity = self._checked(self.identities.load(generation), trust)
            except StateError:
                continue  # `pending` reports the error.
            stored = self.licences.load(identity.holder, trust.signing_keys)
            records = (stored.tombstone, stored.statement)
            confirmed = any(voids_lower_generations(verified.statement) for verified in records if verified)
            if confirmed or (fault is not None and stored.damaged):
                return identity
        return None

    def _keep_recorded(self, in_force: int) -> None:
        """Record the generation in force, if `current.json` is lower, damaged or open to others. Reports a failure."""
        recorded, fault = self._recorded()
        if not self._owned or (fault is None and recorded is not None and recorded >= in_force):
            return
        try:
            self.identities.switch_to(in_force)
        except StateError as error:
            self._report(CONDITION_CURRENT, error)
        else:
            log.warning("recorded again that generation %d is in force", in_force)
            self.conditions.clear(CONDITION_CURRENT)

    def _report(self, condition: str, error: StateError) -> None:
        if self.conditions.report(condition, error.text, error.next):
            log.warning("%s", error.text)

    def _checked(self, identity: Identity, trust: TrustSet) -> Identity:
        """Check that the device certificate names this node, generation and key.

        If other users could have written the files, the certificate's issuer is verified too, and the owner of the
        state writes the files again. Raises StateDamaged, StateUnsafe.
        """
        spiffe = NodeSpiffeId(identity.trust_domain, identity.tenant, identity.node)
        public_key = identity.node_key.public_key()
        directory = self.identities.generation_dir(identity.generation)
        if not is_certificate_of(
            identity.chain[0], spiffe=spiffe, generation=identity.generation, public_key=public_key
        ):
            raise StateDamaged(directory / "device.pem", "it is not the certificate of this node, generation and key")
        if not identity.doubtful:
            return identity
        try:
            chain_of(identity.chain[0], trust.bundle)
        except CertificateRejected as error:
            raise StateUnsafe(
                directory, "could be changed by other users, and its device certificate is not from the cloud"
            ) from error
        if self._owned:
            try:
                return self.identities.make_private(identity)
            except StateError as error:
                self._report(CONDITION_OPEN, error)
        return identity
