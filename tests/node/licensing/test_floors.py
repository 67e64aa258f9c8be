"""`node.licensing.floors`: which record counts, whether it fits the counter, and when the counter advances."""

import re
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from node.licensing import floors
from node.licensing.floors import Entry, Fit, FloorError, Found, Record, Silent
from node.licensing.trusted_time import first_floor
from protocol.encoding import json_decode, json_encode
from protocol.evidence import NvCounter
from protocol.signed import envelope
from protocol.signed.envelope import KeyRing, key_id
from tests.node.licensing.samples import (
    DAY,
    HOLDER,
    KEY,
    OTHER_KEY,
    OTHER_NODE,
    T0,
    make_lease,
    make_revocation,
    make_suspension,
    verification_key,
    verified,
)

NODE_KEY = ec.derive_private_key(21, ec.SECP256R1())
NEXT_KEY = ec.derive_private_key(22, ec.SECP256R1())
STRANGER = ec.derive_private_key(23, ec.SECP256R1())
NAME = "000b" + "ab" * 32
COUNTER = NvCounter(0x01A00001, NAME, 7)
KID, OTHER_KID = key_id(KEY.public_key()), key_id(OTHER_KEY.public_key())


def record(value: int = 8, **fields: object) -> Record:
    made = floors.next_record(
        None,
        holder=HOLDER,
        counter=msgspec.structs.replace(COUNTER, value=value - 1),
        entries=(Entry(KID, 1, 1, 5),),
        boot="boot-1",
        now=T0,
    )
    return msgspec.structs.replace(made, **fields)


def sealed(content: Record, key: ec.EllipticCurvePrivateKey = NODE_KEY) -> str:
    signed = floors.signing_input(content, key.public_key())
    return envelope.assemble(signed, key.sign(signed, ec.ECDSA(hashes.SHA256())))


def at(value: int) -> NvCounter:
    return msgspec.structs.replace(COUNTER, value=value)


def test_a_record_is_opened_with_any_key_of_the_node() -> None:
    content = record(time=first_floor(T0))
    keys = (NEXT_KEY.public_key(), NODE_KEY.public_key())
    opened = floors.open_record(sealed(content), HOLDER, keys)
    assert opened == content


def test_a_record_of_a_later_agent_can_be_read() -> None:
    """After a downgrade of the agent the record still fits, so the machine needs no cloud."""
    content = record(time=first_floor(T0))
    payload = json_decode(json_encode(content), dict)
    payload["later"] = payload["time"]["later"] = payload["streams"][floors.STATEMENTS][0]["later"] = 1
    signed = envelope.signing_input(floors.TYP_FLOORS, key_id(NODE_KEY.public_key()), json_encode(payload))
    token = envelope.assemble(signed, NODE_KEY.sign(signed, ec.ECDSA(hashes.SHA256())))
    assert floors.open_record(token, HOLDER, (NODE_KEY.public_key(),)) == content


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        (record(), STRANGER, "no key of this node has signed it"),
        (record(node=OTHER_NODE), NODE_KEY, "another node"),
        (record(trust_domain="other.internal"), NODE_KEY, "another node"),
        (record(version=2), NODE_KEY, "version is 2"),
        (record(generation=0), NODE_KEY, "out of bounds"),
        (record(counter=at(0)), NODE_KEY, "out of bounds"),
        (record(writes=-1), NODE_KEY, "out of bounds"),
        (record(raised=(T0,) * 25), NODE_KEY, "out of bounds"),
        (record(streams={"statement": (Entry(KID, 1, 1, 2**53),)}), NODE_KEY, "out of bounds"),
        (record(streams={"statement": tuple(Entry(str(n), 1, 1, 1) for n in range(33))}), NODE_KEY, "out of bounds"),
        (record(streams={str(n): () for n in range(9)}), NODE_KEY, "out of bounds"),
        (record(generation="one"), NODE_KEY, "not valid"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(content: Record, key: ec.EllipticCurvePrivateKey, reason: str) -> None:
    with pytest.raises(FloorError, match=reason):
        floors.open_record(sealed(content, key), HOLDER, (NODE_KEY.public_key(),))


def test_another_document_of_the_node_key_is_no_floor_record() -> None:
    kid = key_id(NODE_KEY.public_key())
    token = envelope.seal("cascade-session-proof+jws", kid, json_encode(record()), NODE_KEY)
    with pytest.raises(FloorError):
        floors.open_record(token, HOLDER, (NODE_KEY.public_key(),))


@given(st.data())
def test_no_changed_byte_of_a_record_verifies(data: st.DataObject) -> None:
    token = sealed(record())
    position = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    changed = token[:position] + letter + token[position + 1 :]
    if changed == token:
        return
    with pytest.raises(FloorError):
        floors.open_record(changed, HOLDER, (NODE_KEY.public_key(),))


OLDER, FOREIGN = record(value=7), "000b" + "cd" * 32
BOTH = ("copy 1", "copy 2")


@pytest.mark.parametrize(
    ("found", "answer", "promised", "standing", "reason"),
    [
        # the two copies
        (Found((record(), record())), at(8), True, "current", ""),
        (Found((record(),), ("copy 2",)), at(8), True, "current", ""),
        (Found((OLDER, record())), at(8), True, "current", ""),
        (Found((), BOTH), at(8), True, "stale", "every copy"),
        (Found((), BOTH), None, False, "stale", "every copy"),
        (Found(), at(8), False, "stale", "the TPM has its counter"),
        (Found(), None, True, "stale", "the lease names a counter"),
        (Found(), None, False, "none", ""),
        (Found((record(20), record())), at(8), True, "current", ""),
        # the value
        (Found((record(),)), at(7), False, "unfinished", ""),
        (Found((record(),)), at(6), False, "stale", "ahead of"),
        (Found((record(),)), at(9), False, "stale", "(8 of 9): the state directory is an old copy"),
        (Found((record(),)), at(900), True, "stale", "older than"),
        # the index
        (Found((record(),)), None, True, "stale", "has no counter"),
        (Found((record(),)), NvCounter(COUNTER.index, FOREIGN, 8), True, "stale", "another NV index"),
        (Found((record(),)), NvCounter(COUNTER.index, FOREIGN, 0), True, "stale", "another NV index"),
        (Found((record(),)), NvCounter(COUNTER.index + 1, NAME, 8), True, "stale", "another NV index"),
        (Found(), NvCounter(COUNTER.index, FOREIGN, 0), False, "none", ""),
        # a TPM that does not answer judges nothing
        (Found((record(),)), Silent("busy"), True, "unjudged", "busy"),
        (Found((), BOTH), Silent("busy"), True, "unjudged", "busy"),
        (Found(), Silent(), True, "unjudged", ""),
    ],
)
def test_the_record_against_the_counter(
    found: Found, answer: floors.Answer, promised: bool, standing: str, reason: str
) -> None:
    judged = floors.judge(found, answer, NAME, promised=promised)
    assert (judged.state, reason in judged.reason) == (standing, True)
    assert bool(judged.reason) is (standing == "stale") or standing == "unjudged"


@given(
    st.lists(st.builds(record, st.integers(1, 20)), max_size=3),
    st.lists(st.sampled_from(BOTH), max_size=2),
    st.one_of(st.none(), st.builds(Silent), st.builds(at, st.integers(0, 20))),
    st.booleans(),
)
def test_only_the_counters_value_or_one_above_fits(
    records: list[Record], damaged: list[str], answer: floors.Answer, promised: bool
) -> None:
    judged = floors.judge(Found(tuple(records), tuple(damaged)), answer, NAME, promised=promised)
    fits = isinstance(answer, NvCounter) and any(one.counter.value - answer.value in (0, 1) for one in records)
    assert (judged.state in ("current", "unfinished")) is bool(fits)
    assert judged.state != "none" or not (records or damaged or promised or isinstance(answer, NvCounter))


def test_an_entry_of_a_withdrawn_key_is_void() -> None:
    content = record(streams={"statement": (Entry(KID, 1, 1, 5), Entry(OTHER_KID, 1, 1, 900), Entry("gone", 1, 1, 7))})
    ring = KeyRing([verification_key(KEY), verification_key(OTHER_KEY)])
    assert floors.floor_of(floors.valid_entries(content, ring), 1) == (1, 900)
    stolen = KeyRing([verification_key(KEY), verification_key(OTHER_KEY, withdrawn=True)])
    assert floors.floor_of(floors.valid_entries(content, stolen), 1) == (1, 7), "a key that is not published counts"
    assert floors.valid_entries(None, ring) == ()
    assert floors.floor_of((), 1) is None


def test_an_entry_rises_and_never_falls() -> None:
    entries: tuple[Entry, ...] = ()
    for seq, expected in ((3, 3), (2, 3), (5, 5)):
        entries = floors.with_entry(entries, floors.entry_of(verified(make_lease(seq=seq))))
        assert floors.floor_of(entries, 1) == (1, expected)
    entries = floors.with_entry(entries, floors.entry_of(verified(make_suspension(seq=6), OTHER_KEY)))
    assert floors.floor_of(entries, 1) == (1, 6)
    entries = floors.with_entry(entries, floors.entry_of(verified(make_lease(seq=1, generation=2))))
    assert (floors.floor_of(entries, 2), floors.floor_of(entries, 1)) == ((1, 1), (1, 6))
    assert floors.generation_of(record(), entries) == 2
    assert floors.generation_of(None, ()) == 0


def test_a_revocation_stays_until_a_later_generation() -> None:
    revocation = verified(make_revocation(seq=4), OTHER_KEY)
    entries = floors.with_entry((Entry(OTHER_KID, 1, 1, 9),), floors.entry_of(revocation))
    assert floors.revocations(entries) == (revocation.token,), "a revocation needs no order"
    for later in (Entry(OTHER_KID, 1, 1, 50), Entry(OTHER_KID, 1, 2, 50, "another")):
        assert floors.with_entry(entries, later) == entries
    assert floors.generation_of(None, entries) == 0, "a generation that was never confirmed is revoked as well"
    again = floors.with_entry(entries, Entry(OTHER_KID, 2, 1, 10))
    assert (floors.revocations(again), floors.floor_of(again, 2)) == ((), (1, 10))
    assert floors.with_entry(again, floors.entry_of(revocation)) == again


def test_entries_are_bounded_by_the_lowest() -> None:
    entries: tuple[Entry, ...] = ()
    for seq in range(1, 40):
        entries = floors.with_entry(entries, Entry(f"kid-{seq}", 1, 1, seq))
    assert [one.seq for one in entries] == list(range(8, 40))


def test_the_next_record_keeps_counts_and_unknown_streams() -> None:
    before = record(streams={"action": (Entry("a", 1, 1, 1),), "statement": ()})
    after = floors.next_record(
        before, holder=HOLDER, counter=at(8), entries=(Entry(KID, 1, 1, 6),), boot="boot-2", now=T0 + DAY
    )
    assert after.streams == {"action": (Entry("a", 1, 1, 1),), "statement": (Entry(KID, 1, 1, 6),)}
    assert (after.counter.value, after.writes, after.since, after.boot) == (9, 2, T0, "boot-2")
    assert after.raised == (T0, T0 + DAY)


@pytest.mark.parametrize("first", [True, False])
def test_a_later_generation_is_defended_from_the_start_if_the_earlier_one_is(first: bool) -> None:
    """The directory of an earlier generation, from before its counter, can be put back, and the counter removed."""
    made: Record | None = None
    for generation in (1, 1, 2, 2, 3):
        made = floors.next_record(
            made,
            holder=HOLDER.of_generation(generation),
            counter=at(8),
            entries=(),
            boot="boot-1",
            now=T0,
            first=first and made is None,
        )
        assert ("T-99" in floors.undefended(made, present=True)) is not first, generation


def test_a_day_has_24_increments_that_are_not_urgent() -> None:
    current = record(raised=(), writes=0)
    hour = timedelta(hours=1)
    for number in range(24):
        assert floors.may_raise(current, T0, 0.0), number
        current = msgspec.structs.replace(current, raised=(*current.raised, T0))
    assert not floors.may_raise(current, T0 + 23 * hour, 0.0)
    assert not floors.may_raise(current, T0 - 20000 * DAY, 0.0), "a clock that starts at 1970 gives no more"
    assert floors.may_raise(current, T0 + DAY, 0.0)
    assert floors.may_raise(current, T0 + 23 * hour, 3600.0), "an hour of running gives one"
    assert floors.may_raise(None, T0, 0.0)
    urgent = [floors.is_urgent(one) for one in (make_lease(), make_suspension(), make_revocation())]
    assert urgent == [False, True, True]


def test_the_years_of_an_nv_cell() -> None:
    quiet = record(writes=20, since=T0 - 10 * DAY)
    assert floors.writes_per_day(quiet) == 2.0
    assert round(floors.years_left(quiet)) == 685
    busy = record(writes=250, since=T0 - 10 * DAY, raised=(T0,) * 24)
    assert floors.writes_per_day(busy) == 25.0
    assert 54 < floors.years_left(busy) < 56
    assert floors.years_left(record(counter=at(500_001))) == 0


def test_a_judgement_has_its_reason() -> None:
    assert Fit("none") == floors.judge(Found(), None, "", promised=False)


def test_status_names_attacks_that_the_threat_model_lists_with_a_bound() -> None:
    page = (Path(__file__).parents[3] / "docs" / "threat-model.md").read_text()
    listed = set(re.findall(r"^\| (T-[0-9]+) ", page.partition("## Bounds without a defence")[2], re.MULTILINE))
    lists = (floors.UNDEFENDED_FROM_THE_START, floors.UNDEFENDED_WITHOUT_COUNTER, floors.UNDEFENDED_IN_SOFTWARE)
    for named in (floors.UNDEFENDED, *lists):
        assert named
        assert set(named) <= listed
