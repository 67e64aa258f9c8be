"""`cloud.fabric.licensing.known_holders`: the holders that are kept, and how they are found."""

from datetime import UTC, datetime

import msgspec

from cloud.fabric.licensing.known_holders import HOLDERS_MAX, Holder, Holders, bounded, holder_id, with_holder
from cloud.fabric.licensing.session_evidence import SessionEvidence
from protocol.evidence import ClockInfo

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def holder(name: str, state: str = "older", key: str = "k", **changes: object) -> Holder:
    last = SessionEvidence(NOW, NOW, ClockInfo(1, 1, 1, safe=True), key, "f", "192.0.2.1", "1")
    made = Holder(name, "current", NOW, last)
    return msgspec.structs.replace(made, state=state, **changes)


KNOWN = Holders((holder("a", "current", number=3), holder("b", key="former", number=7)))


def test_a_holder_is_found_by_its_id_and_by_the_key_that_it_showed_or_renewed_for() -> None:
    assert KNOWN.find("b") is KNOWN.all[1]
    assert KNOWN.find("c") is None
    assert (KNOWN.of_key("k"), KNOWN.of_key("former"), KNOWN.of_key("other")) == (*KNOWN.all, None)
    awaited = with_holder(KNOWN, holder("b", key="former", awaited="new"))
    assert awaited.of_key("new") == awaited.of_key("former") == awaited.all[1]
    assert KNOWN.of_key("") is None


def test_the_next_token_follows_the_highest_number_of_all_holders() -> None:
    assert (KNOWN.current.id, KNOWN.highest) == ("a", 7)


def test_a_changed_holder_keeps_its_place_and_a_new_one_comes_after_the_current_one() -> None:
    assert [each.id for each in with_holder(KNOWN, holder("b", "shut")).all] == ["a", "b"]
    assert [each.id for each in with_holder(KNOWN, holder("c")).all] == ["a", "c", "b"]


def test_holders_that_were_left_are_dropped_first() -> None:
    others = (holder("left", "left"), *(holder(str(number)) for number in range(HOLDERS_MAX)))
    kept = bounded(KNOWN, (KNOWN.current, *others)).all
    assert [each.id for each in kept] == ["a", "0", "1", "2"]


def test_holders_survive_their_row() -> None:
    text = msgspec.json.encode(with_holder(KNOWN, holder("c", awaited="new")))
    assert msgspec.json.decode(text, type=Holders).all[1].awaited == "new"


def test_the_id_of_other_evidence_follows_from_the_evidence() -> None:
    assert holder_id(KNOWN.current.last) == holder_id(KNOWN.current.last) != holder_id(KNOWN.all[1].last)
    assert len(holder_id(KNOWN.current.last)) == 8
