"""Pure functions: the floor record. It says which statements are too old, although an old disk has them.

The record has the highest position of each stream of signed documents, the revocations, the generation in force and the
trusted time. The node key of the generation in force signs it. The value of a counter in the TPM's NV memory gives its
freshness: the record names the value that the counter has after the record was stored. An older record names a lower
value, so a restored disk is found out (`docs/adr/0033-signed-floors.md`).

The rules:

- The agent writes a record with the value of the counter + 1, syncs it, and then increments the counter. So a record
  fits if its value is that of the counter, or one above.
- Two records with different content never have one value. So a record whose increment is missing is completed first.
- An entry of a stream belongs to one signing key (`kid`). Once the published trust withdraws this key, the entry is
  void, because a stolen key can sign any position. The highest entry of the other keys counts.
- A record that fits no more opens no gate. It still closes it: its entries are signed, and were true once.
- Only a fresh answer of the cloud replaces a record that does not fit.
- A node has a record before it has its first lease. So a lease without a record was never an honest state.

Evolution: fields are added at the end with defaults. A reader ignores fields that it does not know, and keeps streams
that it does not know. A change that an old reader must not ignore is a new `typ`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from node.licensing.trusted_time import TimeFloor
from protocol.encoding import json_decode, json_encode
from protocol.evidence import NvCounter
from protocol.ids import NodeId, TenantId
from protocol.limits import SEQ_MAX
from protocol.signed import envelope
from protocol.signed.envelope import EnvelopeError, KeyRing
from protocol.signed.statements import Holder, Lease, Revocation, Statement, Verified

TYP_FLOORS = "cascade-floors+jws"

STATEMENTS = "statement"
"""The name of the stream of statements."""
ENTRIES_MAX = 32
"""Entries of one stream. A cloud has one or two signing keys at a time. The highest entries are kept."""
STREAMS_MAX = 8
RAISED_PER_DAY_MAX = 24
"""Increments a day that are not urgent. One NV cell of a common chip is rated for 500,000 writes."""
NV_WRITES_MAX = 500_000
"""Rated writes of one NV cell (ST33GTPMISPI data brief)."""
DEFAULT_WRITES_PER_DAY = 2.0
"""One new lease and one boot a day, at the default dates of the tier `attested`."""
_DAY = timedelta(days=1)

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
Position = tuple[int, int]
"""(`epoch`, `seq`)."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The highest position in a stream that one signing key has signed.

    `token` is the signed document itself if it must outlive every other file: a revocation.
    """

    kid: str
    generation: int
    epoch: int
    seq: int
    token: str = ""

    @property
    def place(self) -> tuple[int, int, int]:
        """The order of entries."""
        return self.generation, self.epoch, self.seq


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a floor record.

    Attributes:
        version: the version of the content.
        trust_domain, tenant, node: the holder of the record.
        generation: the generation in force, whose node key signs the record.
        counter: the NV counter, with the value that it has once the record is complete.
        streams: the entries of each stream by its name.
        boot: the id of the boot in which the record was written.
        raised: the times of the last increments, the oldest first, at most `RAISED_PER_DAY_MAX`.
        writes: how often this node has incremented the counter.
        since: the time of the first of these increments.
        written_at: the wall clock's time.
        time: the floor of trusted time; None without one.
        begun: the generation, if every lease of the node in this directory names the counter: the first record came
            before the first lease. 0 if the counter came later. It stays 0 in later generations, because the directory
            of an earlier one can be put back.
    """

    version: int = 1
    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int
    counter: NvCounter
    streams: dict[str, tuple[Entry, ...]]
    boot: str
    raised: tuple[AwareTime, ...]
    writes: int
    since: AwareTime
    written_at: AwareTime
    time: TimeFloor | None = None
    begun: int = 0


class FloorError(ValueError):
    """A floor record cannot be used. The text says why."""


def signing_input(record: Record, node_key: ec.EllipticCurvePublicKey) -> bytes:
    """The bytes that the node key signs. `protocol.signed.envelope.assemble` makes the token of them."""
    return envelope.signing_input(TYP_FLOORS, envelope.key_id(node_key), json_encode(record))


def open_record(token: str, holder: Holder, keys: Iterable[ec.EllipticCurvePublicKey]) -> Record:
    """The content of a record that one of the node keys `keys` has signed. Raises FloorError.

    1. One of the keys has signed the token, and its `typ` is that of a floor record.
    2. The payload can be decoded, its version is known, and its numbers are within bounds.
    3. It is for the trust domain, tenant and node of `holder`. Its generation may be another.
    """
    record = None
    for key in keys:
        try:
            opened = envelope.verify_signature(token, TYP_FLOORS, key)
            record = json_decode(opened.payload, Record)
            break
        except EnvelopeError:
            continue
        except msgspec.MsgspecError as error:
            raise FloorError(f"its content is not valid ({error})") from error
    if record is None:
        raise FloorError("no key of this node has signed it")
    if record.version != 1:
        raise FloorError(f"its version is {record.version}, and this version of Cascadia reads version 1")
    if not _within_bounds(record):
        raise FloorError("a number or a list in it is out of bounds")
    if (record.trust_domain, record.tenant, record.node) != (holder.trust_domain, holder.tenant, holder.node):
        raise FloorError("it is for another node")
    return record


def _within_bounds(record: Record) -> bool:
    entries = [entry for stream in record.streams.values() for entry in stream]
    return (
        record.generation >= 1
        and record.counter.value >= 1
        and record.writes >= 0
        and len(record.raised) <= RAISED_PER_DAY_MAX
        and len(record.streams) <= STREAMS_MAX
        and all(len(stream) <= ENTRIES_MAX for stream in record.streams.values())
        and all(one.generation >= 1 and 0 <= one.epoch <= SEQ_MAX and 0 <= one.seq <= SEQ_MAX for one in entries)
    )


class Found(msgspec.Struct, frozen=True):
    """The copies of the floor record as they were read.

    Attributes:
        records: the records that one of the node's keys has signed.
        damaged: a text for each copy that cannot be used.
    """

    records: tuple[Record, ...] = ()
    damaged: tuple[str, ...] = ()

    def best(self, answer: "Answer") -> Record | None:
        """The record that fits the counter, or else the one with the highest value; None without a record.

        A copy that a crash left behind is the older one. A copy that the disk refused to replace may be ahead.
        """
        return max(self.records, key=lambda one: (fits(one, answer), one.counter.value, one.generation), default=None)


class Silent(msgspec.Struct, frozen=True):
    """The TPM has not answered about the counter: it was not asked, is busy, locked, absent, or refuses."""

    reason: str = ""


Answer = NvCounter | Silent | None
"""The TPM's answer about the counter. None means that no index is in the place of the counter."""

RecordState = Literal["none", "current", "unfinished", "unjudged", "stale"]
"""The result of a judgement:

`none` this node never had a hardware floor; `current` the record fits; `unfinished` the record fits, and the increment
is missing; `unjudged` the TPM has not answered; `stale` the record does not fit, or is missing.
"""


def fits(record: Record, answer: Answer) -> bool:
    """Whether the record's value is that of the counter, or one above, and the index is the record's."""
    if not isinstance(answer, NvCounter):
        return False
    same = (answer.index, answer.name) == (record.counter.index, record.counter.name)
    return same and record.counter.value - answer.value in (0, 1)


class Fit(msgspec.Struct, frozen=True):
    """Whether the floor record fits the counter. `reason` is a text for people, empty if all is well."""

    state: RecordState
    reason: str = ""


def judge(found: Found, answer: Answer, expected_name: str, *, promised: bool) -> Fit:
    """Compare the record with the counter. It never fails: every input has a judgement.

    Args:
        found: the copies of the record.
        answer: the TPM's answer about the counter.
        expected_name: the name of this node's counter at the index of the answer; empty without an index.
        promised: the signed lease says that this node has a hardware floor.

    1. Without an answer of the TPM nothing is judged. The rule for an unreachable TPM decides.
    2. Without a usable record: a counter, a promise or a damaged copy shows that there was a record.
    3. Without an index at the place of the counter, or with another index there, the record does not fit.
    4. The record fits if its value is that of the counter, or one above.
    """
    record = found.best(answer)
    if isinstance(answer, Silent):
        return Fit("unjudged", answer.reason)  # 1
    ours = answer is not None and answer.name == expected_name
    if record is None:  # 2
        if found.damaged:
            return Fit("stale", "every copy of the floor record is damaged")
        if ours:
            return Fit("stale", "the floor record is missing, and the TPM has its counter")
        if promised:
            return Fit("stale", "the floor record and its counter are missing, and the lease names a counter")
        return Fit("none")
    if answer is None:  # 3
        return Fit("stale", "the TPM has no counter of the floor record any more")
    if not ours or (answer.index, answer.name) != (record.counter.index, record.counter.name):
        return Fit("stale", "another NV index is in the place of the floor counter")
    value = record.counter.value
    if fits(record, answer):
        return Fit("current" if value == answer.value else "unfinished")  # 4
    if value < answer.value:
        older = f"the floor record is older than the TPM's counter ({value} of {answer.value})"
        return Fit("stale", f"{older}: the state directory is an old copy")
    return Fit("stale", f"the floor record is ahead of the TPM's counter ({value} of {answer.value})")


class FloorView(msgspec.Struct, frozen=True):
    """The floors as evidence of a verdict.

    Attributes:
        judged: whether the record fits the counter.
        floor: the position below which a statement of the generation is too old; None without one.
        generation: the highest generation that was in force, 0 if none is recorded.
        damaged: a text for each copy of the record that cannot be used.
    """

    judged: Fit = Fit("none")
    floor: Position | None = None
    generation: int = 0
    damaged: tuple[str, ...] = ()


def valid_entries(record: Record | None, ring: KeyRing, stream: str = STATEMENTS) -> tuple[Entry, ...]:
    """The entries of a stream whose signing key is not withdrawn.

    A key that the published trust does not name is not withdrawn: a restored older trust may not know it yet.
    """
    if record is None:
        return ()

    def withdrawn(kid: str) -> bool:
        key = ring.find(kid)
        return key is not None and key.withdrawn

    return tuple(entry for entry in record.streams.get(stream, ()) if not withdrawn(entry.kid))


def floor_of(entries: Iterable[Entry], generation: int) -> Position | None:
    """The highest position of the generation; None without one. A statement below is too old."""
    return max(((one.epoch, one.seq) for one in entries if one.generation == generation), default=None)


def generation_of(record: Record | None, entries: Iterable[Entry]) -> int:
    """The highest generation that was in force: of the record and of its entries. 0 without a record.

    The generation of a revocation does not count: an activation that was never confirmed is revoked as well.
    """
    numbers = [one.generation for one in entries if not one.token]
    return max([*numbers, record.generation if record is not None else 0])


def revocations(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The tokens of the revocations, those of the highest generation first. The caller verifies them."""
    return tuple(one.token for one in sorted(entries, key=lambda one: one.place, reverse=True) if one.token)


def entry_of(verified: Verified) -> Entry:
    """The entry of a statement."""
    statement = verified.statement
    token = verified.token if isinstance(statement, Revocation) else ""
    return Entry(verified.kid, statement.generation, statement.epoch, statement.seq, token)


def with_entry(entries: tuple[Entry, ...], new: Entry) -> tuple[Entry, ...]:
    """The entries with `new`, if it is the highest of its key. A revocation stays until a later generation replaces it.

    A revocation needs no order in its generation, so it replaces a higher entry of its generation.
    """
    held = next((one for one in entries if one.kid == new.kid), None)
    if held is not None and held.generation >= new.generation:
        final = bool(held.token) and held.generation == new.generation
        ends = bool(new.token) and held.generation == new.generation
        if final or not (ends or new.place > held.place):
            return entries
    kept = (*(one for one in entries if one is not held), new)
    return tuple(sorted(kept, key=lambda one: one.place)[-ENTRIES_MAX:])


def is_urgent(statement: Statement) -> bool:
    """Whether the counter advances at once for this statement, however often it has advanced today."""
    return not isinstance(statement, Lease)


def may_raise(record: Record | None, now: datetime, idle_seconds: float) -> bool:
    """Whether one more increment that is not urgent is within the day's bound.

    `idle_seconds` is the time since the last increment of this process, without the time asleep. A process that has
    waited an hour may raise in any case: a wall clock that was ahead must not stop the floor for ever. A time ahead of
    `now` counts as now, so a clock that starts at 1970 after each boot gives no more increments.
    """
    if record is None or len(record.raised) < RAISED_PER_DAY_MAX:
        return True
    recent = sum(1 for at in record.raised if now - at < _DAY)
    return recent < RAISED_PER_DAY_MAX or idle_seconds >= _DAY.total_seconds() / RAISED_PER_DAY_MAX


def next_record(
    before: Record | None,
    *,
    holder: Holder,
    counter: NvCounter,
    entries: tuple[Entry, ...],
    boot: str,
    now: datetime,
    time: TimeFloor | None = None,
    first: bool = False,
) -> Record:
    """The record after `before`, one above the counter's present value. `counter` is the TPM's answer.

    `before` keeps the streams that this version of the agent does not know, and the counts. With `first` the node has no
    lease in this directory yet.
    """
    from_the_start = first or (before is not None and before.begun == before.generation)
    raised = (*(before.raised if before is not None else ()), now)[-RAISED_PER_DAY_MAX:]
    streams: Mapping[str, tuple[Entry, ...]] = before.streams if before is not None else {}
    return Record(
        trust_domain=holder.trust_domain,
        tenant=holder.tenant,
        node=holder.node,
        generation=holder.generation,
        counter=NvCounter(counter.index, counter.name, counter.value + 1),
        streams={**streams, STATEMENTS: entries},
        boot=boot,
        raised=raised,
        writes=(before.writes if before is not None else 0) + 1,
        since=before.since if before is not None else now,
        written_at=now,
        time=time if time is not None or before is None else before.time,
        begun=holder.generation if from_the_start else 0,
    )


def undefended(record: Record | None, *, present: bool) -> tuple[str, ...]:
    """Ids of the attacks without a defence on a machine with a TPM. `present` is whether it has a floor counter."""
    if not present:
        return UNDEFENDED_WITHOUT_COUNTER
    return UNDEFENDED_FROM_THE_START if record is not None and record.begun == record.generation else UNDEFENDED


class FloorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The floor in the status document."""

    present: bool
    """Whether the TPM of this machine has a counter that versions the floor record."""
    record_state: RecordState
    """`none`: no hardware floor. `current`: the record fits the counter. `unfinished`: the same, before its increment.
    `unjudged`: the TPM has not answered. `stale`: the record does not fit; the cloud has to answer."""
    reason: str
    """Reason, for people. Empty if there is none."""
    index: str
    """NV index of the counter in hex. Empty without a counter."""
    value: int
    """Last known value of the counter. 0 without a counter."""
    writes: int
    """Number of NV writes of this node."""
    writes_per_day: int
    """NV writes a day at the present rate, rounded up."""
    years_left: int
    """Years that an NV cell rated for 500,000 writes lasts at this rate, and at least at two writes a day."""
    undefended: tuple[str, ...] = ()
    """Ids of the attacks in docs/threat-model.md that have a bound and no defence on this machine."""


UNDEFENDED = ("T-90", "T-91", "T-92", "T-96", "T-98", "T-99")
"""Attacks without a defence on a machine with a hardware floor. `docs/threat-model.md` has the bound of each."""
UNDEFENDED_FROM_THE_START = ("T-90", "T-91", "T-92", "T-96", "T-98")
"""The same for a node that had a floor record before its first lease."""
UNDEFENDED_WITHOUT_COUNTER = ("T-90", "T-91", "T-92", "T-96", "T-97", "T-98")
"""The same for a TPM without a floor counter."""
UNDEFENDED_IN_SOFTWARE = ("T-90", "T-94", "T-95", "T-96", "T-97")
"""The same for a machine without a TPM."""


NO_FLOOR = FloorStatus(
    present=False,
    record_state="none",
    reason="",
    index="",
    value=0,
    writes=0,
    writes_per_day=0,
    years_left=0,
    undefended=UNDEFENDED_IN_SOFTWARE,
)
"""The status of a machine without a TPM."""


def writes_per_day(record: Record) -> float:
    """The increments a day: the mean since the first one, of a day at least, and of the last day if that is more."""
    days = max((record.written_at - record.since) / _DAY, 1.0)
    recent = sum(1 for at in record.raised if timedelta(0) <= record.written_at - at < _DAY)
    return max(record.writes / days, float(recent))


def years_left(record: Record) -> float:
    """How many years the NV cell lasts at the present rate, and at least at the default rate of two writes a day."""
    rate = max(writes_per_day(record), DEFAULT_WRITES_PER_DAY)
    return max(NV_WRITES_MAX - record.counter.value, 0) / rate / 365
