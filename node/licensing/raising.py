"""Background task: raises the floor. It signs the next floor record, stores it, and advances the counter in the TPM.

The steps of one raise, and what a crash after each of them leaves behind:

1. The TPM reads the counter and signs a record with its value + 1. Nothing has changed.
2. Both copies of the record are written. The record fits, because its value is one above the counter.
3. The TPM increments the counter. The record fits, and every earlier record is too old.

A record that was signed is completed before the next one is signed, so that no value has two contents. A refusal of the
disk or of the TPM leaves the floor in memory. It is reported as a condition and retried with back-off.

A counter that another process has advanced belongs to another state directory of this node on the same chip. This
task then waits for a fresh answer of the cloud, which says whether this generation is still in force.
"""

import logging
import math
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric import ec

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
from node.licensing.floor_store import FloorStore
from node.licensing.floor_writing import CounterMoved, Signed
from node.licensing.floors import Answer, Entry, FloorStatus, FloorView, Found, Judgement, Record, Silent
from node.licensing.trusted_time import TimeFloor
from protocol.evidence import NvCounter
from protocol.signed.envelope import KeyRing
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


class FloorKeeper:
    """The floors of one state directory.

    `tpm` is set by the process that raises the floor. `time` gives the floor of trusted time for the next record.
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
        self.store = store
        self.tpm: Tpm | None = None
        self.time: Callable[[], TimeFloor | None] = lambda: None
        self._conditions = conditions
        self._clock = clock
        self._boot_id = boot_id or BootRecord(Path()).boot_id
        self._boot = ""
        self._elapsed = elapsed
        self._raised_at = elapsed()
        self._identity: Identity | None = None
        self._established: NvCounter | None = None
        self._begin(None)
        self._wake = trio.Event()
        self._one_at_a_time = trio.Lock()

    def _begin(self, holder: Holder | None) -> None:
        """Begin with no record, for a start or for another node."""
        self._loaded = holder
        self._found = Found()
        self._record: Record | None = None
        self._counter: NvCounter | None = None
        self._judged: Judgement | None = None
        self._entries: tuple[Entry, ...] = ()
        self._urgent = self._resign = False
        # Whether a fresh answer came since the start, and since the last raise.
        self._confirmed = self._may_repair = False
        self._least = (0, 0, 0)
        self._signed: Signed | None = None

    # Reading

    def load(
        self,
        holder: Holder,
        node_key: ec.EllipticCurvePublicKey,
        others: Callable[[], Iterable[ec.EllipticCurvePublicKey]] = tuple,
        *,
        again: bool = False,
        in_force: bool = True,
    ) -> None:
        """Read the copies of the record, once for this node, or `again` for another start. It runs in the disk's thread.

        `others` gives further node keys of this node, for a record that `node_key` has not signed. A node that is not
        `in_force` yet leaves the record of the present node in use.
        """
        if not again and self._loaded is not None and (self._is_of(holder) or not in_force):
            return
        self._begin(holder)
        self._boot = self._boot_id()
        self._found = self.store.load(holder, node_key, others)
        self._record = self._found.best(None)
        self._entries = self._record.streams.get(floors.STATEMENTS, ()) if self._record is not None else ()
        for text in self._found.damaged:
            log.warning("%s", text)

    def _is_of(self, holder: Holder) -> bool:
        """Whether the loaded record is that of this node, in any generation."""
        return self._loaded is None or label_of(self._loaded) == label_of(holder)

    @property
    def place(self) -> int | None:
        """The NV index of the record's counter; None without a record."""
        return self._record.counter.index if self._record is not None else None

    @property
    def time_floor(self) -> TimeFloor | None:
        """The floor of trusted time in the stored record; None without one."""
        return self._record.time if self._record is not None else None

    @property
    def counter(self) -> NvCounter | None:
        """The counter of this node as the TPM has last shown it; None if it has shown none."""
        return self._counter

    @property
    def stale(self) -> bool:
        """Whether the record does not fit, and no fresh answer of the cloud has come since."""
        return self._judged is not None and self._judged.standing == "stale" and not self._confirmed

    def view(self, holder: Holder, ring: KeyRing, answer: Answer, *, promised: bool) -> FloorView:
        """The floors for a verdict about `holder`. The first answer of the TPM is judged once for this start.

        Later the record and the counter move together, and only a fresh answer of the cloud changes the judgement. For
        a node that is not in force yet nothing is judged.
        """
        if not self._is_of(holder):
            return FloorView(Judgement("unjudged"))
        if self._judged is None or self._judged.standing == "unjudged":
            self._judge(holder, answer, promised=promised)
        judged = self._judged or Judgement("unjudged")
        if self._confirmed and judged.standing == "stale":
            judged = Judgement("current")
        entries = floors.valid_entries(self._record, ring)
        highest = floors.generation_of(self._record, entries)
        return FloorView(judged, floors.floor_of(entries, holder.generation), highest, self._found.damaged)

    def _judge(self, holder: Holder, answer: Answer, *, promised: bool) -> None:
        name = nv.name_of(answer.index, label_of(holder)) if isinstance(answer, NvCounter) else ""
        self._judged = floors.judge(self._found, answer, name, promised=promised)
        if isinstance(answer, NvCounter) and answer.name == name:
            self._counter = answer
        if not isinstance(answer, Silent):
            self._record = self._found.best(answer)
            if self._judged.standing == "stale":
                log.error("%s. The cloud has to answer", self._judged.reason)
            self._wake.set()

    def revocations(self, ring: KeyRing) -> tuple[str, ...]:
        """The tokens of the revocations in the record. The caller verifies them."""
        return floors.revocations(floors.valid_entries(self._record, ring))

    def status(self) -> FloorStatus:
        """The floor for `cascadia status`."""
        judged, record, counter = self._judged or Judgement("unjudged"), self._record, self._counter
        known = counter or (record.counter if record is not None else None)
        present = counter is not None or (record is not None and judged.standing in ("current", "unfinished"))
        return FloorStatus(
            present=present,
            undefended=floors.UNDEFENDED if present else floors.UNDEFENDED_WITHOUT_COUNTER,
            standing="current" if self._confirmed and judged.standing == "stale" else judged.standing,
            reason=judged.reason,
            index=f"{known.index:#010x}" if known is not None else "",
            value=known.value if known is not None else 0,
            writes=record.writes if record is not None else 0,
            writes_per_day=math.ceil(floors.writes_per_day(record)) if record is not None else 0,
            years_left=int(floors.years_left(record)) if record is not None else 0,
        )

    # Changes

    def use(self, identity: Identity) -> None:
        """Sign with the node key of this identity from now on. It is in force. Another node's record is forgotten."""
        if not self._is_of(identity.holder):
            self._begin(identity.holder)
            self._counter = self._established
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
        if not (self._confirmed and self._may_repair):
            self._confirmed = self._may_repair = True
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

    async def establish(self, identity: Identity) -> NvCounter | None:
        """Find or make the counter of a node, perhaps of the next one; None if the TPM refuses. Nothing is raised."""
        self._established = None
        if self.tpm is None or identity.node_key.in_software:
            return None
        label = label_of(identity.holder)
        try:
            found = self._established = await self.tpm.run(lambda esys: nv.establish(esys, label))
        except TpmError as error:
            self._report_no_counter(error)
            return None
        if self._is_of(identity.holder):
            self._counter = found
            self._conditions.clear(NO_COUNTER)
        return found

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
        standing = self._judged.standing if self._judged is not None else "unjudged"
        if identity is None or self.tpm is None or identity.node_key.in_software:
            return False
        if standing not in ("current", "unfinished") and not self._confirmed:
            return False
        if standing == "unfinished":
            return True
        if floors.generation_of(record, self._entries) > identity.generation:
            return False  # A record of this generation would be below the later one, which was in force.
        # Until the disk has the statement in use, a record could only name an older one.
        if not any(one.generation == identity.generation and one.place >= self._least for one in self._entries):
            return False
        if standing in ("none", "stale") or self._urgent or self._resign:
            return True
        if record is None or record.generation != identity.generation:
            return True
        changed = self._entries != record.streams.get(floors.STATEMENTS, ()) or record.boot != self._boot
        return changed and floors.may_raise(record, self._clock(), self._elapsed() - self._raised_at)

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
        self._record, self._counter, self._signed = stored.record, stored.record.counter, None
        self._judged, self._raised_at, self._may_repair = Judgement("current"), self._elapsed(), False
        if stored.whole:
            self._found = Found((stored.record,))
        self._conditions.clear(NO_COUNTER)

    def _sign_next(self, esys: Esys, identity: Identity, entries: tuple[Entry, ...]) -> Signed:
        """Step 1, in the TPM's thread. A stored record whose increment is missing is returned as it is.

        Raises CounterMoved if the counter does not fit the record, and no fresh answer allows a new record.
        """
        label, record = label_of(identity.holder), self._record
        if record is not None and not (self._judged is not None and self._judged.standing == "stale"):
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


def label_of(holder: Holder) -> str:
    """The holder of a counter: trust domain and node. All generations of a node share it."""
    return f"{holder.trust_domain}/{holder.node}"


def read_counter(esys: Esys, label: str, index: int | None) -> Answer:
    """The TPM's answer about the counter of `label` at `index`, or at any of its places. It runs in the TPM's thread.

    A refusal is an answer as well. Raises the library's error if the connection is lost.
    """
    answer = nv.answer(esys, label, index)
    return Silent(str(answer)) if isinstance(answer, TpmError) else answer
