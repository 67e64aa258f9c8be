"""Background task: raises the floor. It signs the next floor record, stores it, and advances the counter in the TPM.

The steps of one raise, and what a crash after each of them leaves behind:

1. The TPM reads the counter and signs a record with its value + 1. Nothing has changed.
2. Both copies of the record are written. The record fits, because its value is one above the counter.
3. The TPM increments the counter. The record fits, and every earlier record is too old.

The first record is written before the first lease exists (`FloorKeeper.begin`). So a crash between the first value of
the counter and the first record leaves no lease behind, and the next start asks the cloud. A counter that the TPM
refuses then, and makes later, has this gap; the cloud closes it.

A record that was signed is completed before the next one is signed, so that no value has two contents. A refusal of the
disk or of the TPM leaves the floor in memory. It is reported as a condition and retried with back-off.

A counter that another process has advanced belongs to another state directory of this node on the same chip. This
task then waits for a fresh answer of the cloud, which says whether this generation is still in force.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import trio

from node.clock import monotonic, utc_now
from node.conditions import Conditions
from node.disk.boot import BootRecord
from node.disk.identity import Identity
from node.errors import NodeError
from node.hwbind import counter as nv
from node.hwbind.errors import TpmError, TpmHierarchyDisabled, TpmHierarchyPassword, TpmNvFull, TpmNvTaken
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Esys, Tpm
from node.licensing import floor_writing as writing
from node.licensing import floors
from node.licensing.floor_memory import FloorMemory, holder_of, label_of, same_node
from node.licensing.floor_store import FloorStore
from node.licensing.floor_writing import CounterMoved, Signed
from node.licensing.floors import Entry, Fit, Found, Record, RecordState
from node.licensing.trusted_time import TimeFloor, low_of
from protocol.evidence import NvCounter
from protocol.faults import fault_point
from protocol.signed.statements import Holder, Revocation, Verified

log = logging.getLogger("cascadia.floors")

NOT_RAISED = "floor_not_raised"
"""Code of the condition that the record or the counter cannot be written."""
NO_COUNTER = "floor_counter_missing"
"""Code of the condition that the TPM has no counter, and refuses to make one."""
RETRY_SECONDS_FIRST = 2.0
RETRY_SECONDS_MAX = 300.0
WAIT_SECONDS_MAX = 3600.0
"""How long a raise that is over the day's bound waits before it is checked again."""
TPM_SECONDS_MAX = 30.0
"""How long a command that ends waits for the TPM: a signature and two NV commands on a slow chip, and other programs."""

_REFUSALS = (TpmNvFull, TpmNvTaken, TpmHierarchyPassword, TpmHierarchyDisabled)
"""The errors with which a TPM refuses to make a counter. The agent goes on without a hardware floor."""


class FloorKeeper(FloorMemory):
    """The floors of one state directory.

    `tpm` is set by the process that raises the floor. `time` gives the floor of trusted time for the next record.
    `on_counter` is called after the first record of a counter that no session has reported yet.
    """

    def __init__(
        self,
        store: FloorStore,
        conditions: Conditions,
        *,
        clock: Callable[[], datetime] = utc_now,
        boot_id: Callable[[], str] | None = None,
        elapsed: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(store, boot_id or BootRecord(Path()).boot_id, elapsed)
        self.tpm: Tpm | None = None
        self.time: Callable[[], TimeFloor | None] = lambda: None
        self.on_counter: Callable[[], None] = lambda: None
        self._conditions = conditions
        self._clock = clock
        self._identity: Identity | None = None
        self._established: NvCounter | None = None
        self._begun: tuple[Record, Fit] | None = None
        self._begin(None)
        self._one_at_a_time = trio.Lock()

    def _begin(self, holder: Holder | None) -> None:
        super()._begin(holder)
        self._urgent = self._resign = False
        self._may_repair = False
        self._least = (0, 0, 0)
        self._signed: Signed | None = None

    # Changes

    def use(self, identity: Identity) -> None:
        """Sign with the node key of this identity from now on. It is in force. Another node's record is forgotten."""
        if not self._is_of(identity.holder):
            self._begin(identity.holder)
            self._counter = self._established
            if self._begun is not None and same_node(holder_of(self._begun[0]), identity.holder):
                self._adopt(*self._begun)
        self._identity = identity
        self._wake.set()

    def note(self, verified: Verified) -> None:
        """Record the position of a statement. A lease is noted after it is stored, any other statement at once.

        A statement of another generation than the one in force is not recorded.
        """
        identity = self._identity
        if identity is None or not identity.holder.holds(verified.statement):
            return
        if isinstance(verified.statement, Revocation):
            # Another state directory on this chip may be the one in force. Its record must keep fitting.
            self._may_repair = False
        entries = floors.with_entry(self._entries, floors.entry_of(verified))
        if entries != self._entries:
            self._entries = entries
            self._urgent = self._urgent or floors.is_urgent(verified.statement)
            self._wake.set()

    def confirm_fresh(self, current: Verified | None) -> None:
        """Record that the cloud has just confirmed the generation in force, by a freshness over our nonce.

        `current` is the statement in use. No record below it is written.
        """
        if current is not None:
            self._least = floors.entry_of(current).place
        known = self._confirmed and self._may_repair
        self._confirmed = self._may_repair = True
        if not known or (self._record is not None and self._signed is None and self._corrected(self._record)):
            self._wake.set()

    # Raising

    async def run(self) -> None:
        """Raise the floor when it is due, and retry what the disk or the TPM refuses. Runs until it is cancelled."""
        pause = RETRY_SECONDS_FIRST
        while True:
            self._wake = trio.Event()
            if await self.raise_now():
                pause, wait = RETRY_SECONDS_FIRST, WAIT_SECONDS_MAX
            else:
                longest = WAIT_SECONDS_MAX if self._stored_only else RETRY_SECONDS_MAX
                wait, pause = pause, min(2 * pause, longest)
            with trio.move_on_after(wait):
                await self._wake.wait()

    async def raise_now(self) -> bool:
        """Raise the floor if it is due. Returns False if the disk or the TPM has refused a part of it."""
        async with self._one_at_a_time:
            try:
                while self._signed is not None or self._due():
                    await self._step()
            except CounterMoved as moved:
                self._signed, self._may_repair = None, False
                step = "Connect the machine to the cloud; the agent asks by itself."
                if self._conditions.report(NOT_RAISED, str(moved), step):
                    log.warning("%s", moved)
                return False
            except (NodeError, TpmError) as error:
                self._report_refusal(error)
                return False
            self._conditions.clear(NOT_RAISED)
            return True

    async def finish(self) -> None:
        """At the end of a process: raise the floor if it is urgent. The caller bounds the time."""
        if self._signed is not None or self._urgent:
            await self.raise_now()

    async def establish(self, identity: Identity, beside: Holder | None) -> NvCounter | None:
        """Find or make the counter of a generation that the cloud has not confirmed. None without one. Raises nothing.

        `beside` is the holder in force in this state directory. Its own counter is only found: a counter without a
        record would make its lease stale.
        """
        self._established = None
        if self.tpm is None or identity.node_key.in_software:
            return None
        label, own = label_of(identity.holder), same_node(beside, identity.holder)
        try:
            with fault_point("node.floor.establish"):
                found = await self.tpm.run(lambda esys: (nv.find if own else nv.establish)(esys, label))
        except TpmError as error:
            self._report_no_counter(error)
            return None
        self._established = found
        if found is not None and self._is_of(identity.holder):
            self._counter = found
            self._conditions.clear(NO_COUNTER)
        return found

    async def begin(self, identity: Identity, beside: Holder | None) -> None:
        """Write the first record of a node, before the cloud signs its first lease. Raises nothing.

        The caller has asked the cloud in a session, and the generation has no statement yet. So the record takes nothing
        back. After a crash at any later point the lease is beside a record that fits.
        `beside` is as for `establish`. The node in force has a record of its own; another node in force keeps one copy.
        """
        tpm, counter = self.tpm, self._established
        if tpm is None or counter is None or same_node(beside, identity.holder):
            return
        async with self._one_at_a_time:
            ours = self._is_of(identity.holder)
            known = self._found.best(counter) if ours else self._begun and self._begun[0]
            if known and floors.fits(known, counter):
                return
            record = floors.next_record(
                self._record if ours else None,
                holder=identity.holder,
                counter=counter,
                entries=self._entries if ours else (),
                boot=self._boot or self._boot_id(),
                now=self._clock(),
                time=self.time(),
                first=True,
            )
            try:
                token = await tpm.run(partial(writing.sign, node_key=identity.node_key, record=record))
                paths = self.store.paths if beside is None else self.store.paths[1:]
                await writing.store_copies(self.store, Signed(record, token, paths))
                self._take_begun(record, "unfinished", ours=ours)
                await writing.count(tpm, record)
                self._take_begun(record, "current", ours=ours)
            except CounterMoved as moved:
                log.warning("%s", moved)
            except (NodeError, TpmError) as error:
                self._report_refusal(error)

    def _take_begun(self, record: Record, state: RecordState, *, ours: bool) -> None:
        self._begun = record, Fit(state)
        if ours:
            self._adopt(*self._begun)

    async def sign_again(self, node_key: WrappedKey, *, first: bool) -> None:
        """Sign the record with another node key of the generation, at a rekey. The content stays.

        Before the identity is replaced (`first`), one copy gets the new signature; afterwards the other one gets it. So
        at every moment one copy has the signature of the key on the disk. After a failure another record is due at once.
        Raises NodeError, TpmError.
        """
        async with self._one_at_a_time:
            if self.tpm is None or self._record is None:
                return
            self._resign = True
            if self._signed is None:
                token = await self.tpm.run(partial(writing.sign, node_key=node_key, record=self._record))
                await writing.store_one(self.store, token, self.store.paths[1 if first else 0])
                self._resign = False
            self._wake.set()

    @property
    def _stored_only(self) -> bool:
        """Whether a record is stored, and the TPM has refused its increment. Each try can wear an NV cell."""
        return self._signed is not None and not self._signed.left

    def _due(self) -> bool:
        """Whether another record is to be signed now."""
        identity, record = self._identity, self._record
        state = self._judged.state if self._judged is not None else "unjudged"
        if identity is None or self.tpm is None or identity.node_key.in_software:
            return False
        if state not in ("current", "unfinished") and not self._confirmed:
            return False
        if state == "unfinished":
            return True
        if floors.generation_of(record, self._entries) > identity.generation:
            return False  # A record of this generation would be below the later one, which was in force.
        # Until the disk has the statement in use, a record could only name an older one.
        if not any(one.generation == identity.generation and one.place >= self._least for one in self._entries):
            return False
        if state in ("none", "stale") or self._urgent or self._resign:
            return True
        if record is None or record.generation != identity.generation:
            return True
        changed = self._entries != record.streams.get(floors.STATEMENTS, ()) or record.boot != self._boot
        return (changed or self._corrected(record)) and floors.may_raise(
            record, self._clock(), self._elapsed() - self._raised_at
        )

    def _corrected(self, record: Record) -> bool:
        """Whether a signed time has corrected the time of the record, because the TPM's clock was set forward.

        Without another record, a restart of the agent in this boot takes the wrong time from this one.
        """
        now, stored = self.time(), record.time
        return (
            now is not None and stored is not None and now.signed_at > stored.signed_at and low_of(now) < low_of(stored)
        )

    async def _step(self) -> None:
        """Sign the next record, or complete the signed one. Raises NodeError, TpmError, CounterMoved."""
        tpm, identity = self.tpm, self._identity
        if tpm is None or identity is None:
            return
        if self._signed is None:
            entries = self._entries
            self._signed = await tpm.run(partial(self._sign_next, identity=identity, entries=entries))
            if self._signed.record is not self._record:  # A record that is completed first does not have these entries.
                self._urgent = self._urgent and entries is not self._entries
                self._resign = self._resign and identity is not self._identity
        signed = self._signed
        stored = await writing.store_copies(self.store, signed)
        if self._signed is not signed:
            return  # Meanwhile another node was put in force.
        # A counter that does not advance has no copy written again.
        self._signed = stored
        await writing.count(tpm, stored.record)
        if self._signed is not stored:
            return
        first = self._counter is None
        self._record, self._counter, self._signed = stored.record, stored.record.counter, None
        self._judged, self._raised_at, self._may_repair = Fit("current"), self._elapsed(), False
        if stored.whole:
            self._found = Found((stored.record,))
        self._conditions.clear(NO_COUNTER)
        if first:
            self.on_counter()

    def _sign_next(self, esys: Esys, identity: Identity, entries: tuple[Entry, ...]) -> Signed:
        """Step 1, in the TPM's thread. A stored record whose increment is missing is returned as it is.

        Raises CounterMoved if the counter does not fit the record, and no fresh answer allows a new record.
        """
        label, record = label_of(identity.holder), self._record
        if record is not None and not (self._judged is not None and self._judged.state == "stale"):
            found = nv.read(esys, record.counter.index, label)
            if found is None or not floors.fits(record, found):
                if not self._may_repair:
                    raise CounterMoved("another state directory on this machine has advanced the floor counter")
                found = nv.establish(esys, label)
            elif found.value != record.counter.value:
                return Signed(record, "", ())
        else:
            found = nv.establish(esys, label)
        next_record = floors.next_record(
            record,
            holder=identity.holder,
            counter=found,
            entries=entries,
            boot=self._boot,
            now=self._clock(),
            time=self.time(),
        )
        token = writing.sign(esys, node_key=identity.node_key, record=next_record)
        return Signed(next_record, token, self.store.paths)

    def _report_refusal(self, error: NodeError | TpmError) -> None:
        """Report why the floor cannot be raised. A TPM that refuses a counter has a code of its own."""
        step = error.next if isinstance(error, NodeError) else error.advice
        if self._counter is None and isinstance(error, _REFUSALS):
            self._report_no_counter(error)
            return
        stored = " (the record is stored; the TPM does not advance its counter)" if self._stored_only else ""
        if self._conditions.report(NOT_RAISED, f"cannot raise the floor: {error}{stored}", step):
            log.warning("cannot raise the floor: %s%s", error, stored)

    def _report_no_counter(self, error: TpmError) -> None:
        if self._conditions.report(NO_COUNTER, f"this machine has no hardware floor: {error}", error.advice):
            log.warning("this machine has no hardware floor: %s", error)
