"""In-memory state: the floor record of one node, as it was read from the disk and compared with the counter in the TPM.

`node.licensing.raising` writes the next records.
"""

import logging
import math
from collections.abc import Callable, Iterable

import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from node.hwbind import counter as nv
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Esys
from node.licensing import floors
from node.licensing.floor_store import FloorStore
from node.licensing.floors import Answer, Entry, Fit, FloorStatus, FloorView, Found, Record, Silent
from node.licensing.trusted_time import TimeFloor
from protocol.evidence import NvCounter
from protocol.signed.envelope import KeyRing
from protocol.signed.statements import Holder

log = logging.getLogger("cascadia.floors")


class FloorMemory:
    """The floor record of one state directory. `boot_id` gives the id of the boot, `elapsed` the seconds of one clock."""

    def __init__(self, store: FloorStore, boot_id: Callable[[], str], elapsed: Callable[[], float]) -> None:
        self.store = store
        self._boot_id = boot_id
        self._boot = ""
        self._elapsed = elapsed
        self._raised_at = elapsed()
        self._wake = trio.Event()

    def _begin(self, holder: Holder | None) -> None:
        """Begin with no record, for a start or for another node."""
        self._loaded = holder
        self._found = Found()
        self._record: Record | None = None
        self._counter: NvCounter | None = None
        self._judged: Fit | None = None
        self._entries: tuple[Entry, ...] = ()
        # Whether a fresh answer came since the start.
        self._confirmed = False

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
    def fits(self) -> bool:
        """Whether a stored record fits the counter."""
        return self._judged is not None and self._judged.state in ("current", "unfinished")

    @property
    def stale(self) -> bool:
        """Whether the record does not fit, and no fresh answer of the cloud has come since."""
        return self._judged is not None and self._judged.state == "stale" and not self._confirmed

    def view(self, holder: Holder, ring: KeyRing, answer: Answer, *, promised: bool) -> FloorView:
        """The floors for a verdict about `holder`. The first answer of the TPM is judged once for this start.

        Later the record and the counter move together, and only a fresh answer of the cloud changes the judgement. For
        a node that is not in force yet nothing is judged.
        """
        if not self._is_of(holder):
            return FloorView(Fit("unjudged"))
        if self._judged is None or self._judged.state == "unjudged":
            self._judge(holder, answer, promised=promised)
        judged = self._judged or Fit("unjudged")
        if self._confirmed and judged.state == "stale":
            judged = Fit("current")
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
            if self._judged.state == "stale":
                log.error("%s. The cloud has to answer", self._judged.reason)
            self._wake.set()

    def revocations(self, ring: KeyRing) -> tuple[str, ...]:
        """The tokens of the revocations in the record. The caller verifies them."""
        return floors.revocations(floors.valid_entries(self._record, ring))

    def status(self) -> FloorStatus:
        """The floor for `cascadia status`."""
        judged, record, counter = self._judged or Fit("unjudged"), self._record, self._counter
        known = counter or (record.counter if record is not None else None)
        present = counter is not None or (record is not None and judged.state in ("current", "unfinished"))
        return FloorStatus(
            present=present,
            undefended=floors.undefended(record, present=present),
            record_state="current" if self._confirmed and judged.state == "stale" else judged.state,
            reason=judged.reason,
            index=f"{known.index:#010x}" if known is not None else "",
            value=known.value if known is not None else 0,
            writes=record.writes if record is not None else 0,
            writes_per_day=math.ceil(floors.writes_per_day(record)) if record is not None else 0,
            years_left=int(floors.years_left(record)) if record is not None else 0,
        )

    def _adopt(self, record: Record, judged: Fit) -> None:
        self._record, self._found, self._judged = record, Found((record,)), judged
        missing = 1 if judged.state == "unfinished" else 0
        self._counter = msgspec.structs.replace(record.counter, value=record.counter.value - missing)
        self._raised_at = self._elapsed()


def label_of(holder: Holder) -> str:
    """The holder of a counter: trust domain and node. All generations of a node share it."""
    return f"{holder.trust_domain}/{holder.node}"


def same_node(one: Holder | None, other: Holder) -> bool:
    """Whether two holders are generations of one node."""
    return one is not None and label_of(one) == label_of(other)


def holder_of(record: Record) -> Holder:
    """The holder of a record."""
    return Holder(record.trust_domain, record.tenant, record.node, record.generation)


def read_counter(esys: Esys, label: str, index: int | None) -> Answer:
    """The TPM's answer about the counter of `label` at `index`, or at any of its places. It runs in the TPM's thread.

    A refusal is an answer as well. Raises the library's error if the connection is lost.
    """
    answer = nv.answer(esys, label, index)
    return Silent(str(answer)) if isinstance(answer, TpmError) else answer
