"""The text, the document and the sentence of `cascadia recover`."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from node.cli import recovery_document as documents
from node.errors import NodeError
from node.exits import Exit
from node.licensing.situation import Found, Way, plan
from node.licensing.verdict import Snapshot
from protocol.ids import RecoveryId
from tests.node.licensing.samples import DAY, HOLDER, NODE, T0, changed, make_lease
from tests.node.licensing.test_situation import BUSY, CASE, WAITS, found, verdict

LEASE = make_lease()
ACTIVE = Snapshot(holder=HOLDER, hardware="ours", lease=LEASE, verdict=verdict())
END = documents.when(LEASE.terminate_at)
GRACE = changed(LEASE, recovery=RecoveryId(CASE), terminate_at=T0 + 3 * DAY)


def test_a_time_is_read_out_in_utc() -> None:
    east = timezone(timedelta(hours=2))
    assert documents.when(datetime(2026, 12, 2, 16, 0, tzinfo=east)) == "2 December 2026 14:00 UTC"
    assert documents.when(datetime(2027, 1, 31, 0, 5, tzinfo=UTC)) == "31 January 2027 00:05 UTC"


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("nothing", f"This machine is node {NODE}, licensed until {END}; it needs no recovery."),
        ("renewal", f"This machine is node {NODE}, licensed until {END}; it needed no recovery."),
        ("recovery", f"This machine is node {NODE} again, licensed until {END}."),
        ("wait", f"This machine is node {NODE} again, licensed until {END}."),
    ],
)
def test_the_sentence_of_a_licence(way: Way, sentence: str) -> None:
    assert documents.licence_sentence(ACTIVE, way) == sentence


def test_the_sentence_of_a_grace_lease_names_the_case_and_the_end() -> None:
    snapshot = msgspec.structs.replace(ACTIVE, lease=GRACE, verdict=verdict("recovery-pending", gate_open=True))
    sentence = documents.licence_sentence(snapshot, "recovery")
    assert sentence.startswith(
        f"This machine is node {NODE} again until {documents.when(GRACE.terminate_at)}; the recovery {CASE}"
    )
    document = documents.licence_outcome(snapshot, found(), plan(Found(directory="lost")))
    assert document.outcome == "recovered_on_grace"


def test_a_closed_gate_is_said() -> None:
    snapshot = msgspec.structs.replace(
        ACTIVE, verdict=verdict("suspended", reason="the cloud has suspended the licence")
    )
    sentence = documents.licence_sentence(snapshot, "recovery")
    assert (
        sentence == f"This machine is node {NODE} again, and its gate is closed: the cloud has suspended the licence."
    )


def test_the_sentence_of_a_wait() -> None:
    until = documents.when(T0)
    expected = f"Recovery {CASE} of node {NODE} waits for an operator's approval or a recovery code until {until}."
    assert documents.waits_sentence(found(), WAITS) == expected
    assert "of this machine waits" in documents.waits_sentence(Found(directory="lost"), WAITS)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (found(verdict=verdict("revoked")), "is revoked, and a recovery does not undo a revocation."),
        (found(verdict=verdict("revoked", superseded=True)), "was activated again elsewhere, and a recovery does not"),
        (found(chip="silent", fault=BUSY), "may be intact, and needs no recovery: cannot use the TPM now: it is busy."),
    ],
)
def test_the_sentence_of_a_machine_that_needs_something_else(state: Found, text: str) -> None:
    made = plan(state)
    document = documents.ended(state, made, 81)
    assert document.sentence.startswith(f"Node {NODE} ")
    assert text in document.sentence
    assert document.next == made.next


def test_a_refusal_names_its_reason_and_the_next_allowed_time() -> None:
    error = NodeError.of("the cloud refused: no (quota)", exit=Exit.REFUSED, code="recovery_refused")
    document = documents.failed(found(), plan(Found(directory="lost")), error, T0)
    assert document.sentence == (
        f"The recovery of node {NODE} did not succeed: the cloud refused: no (quota); it may be tried again from "
        f"{documents.when(T0)}."
    )
    assert (document.outcome, document.exit_code) == ("recovery_refused", 77)


def test_every_document_is_one_sentence_and_can_be_sent() -> None:
    error = NodeError.of("cannot reach the cloud", exit=Exit.UNREACHABLE, code="cloud_unreachable")
    made = plan(Found(directory="lost"))
    for document in (
        documents.licence_outcome(ACTIVE, found(), made),
        documents.ended(found(verdict=verdict("revoked")), plan(found(verdict=verdict("revoked"))), 81),
        documents.waiting(Found(directory="lost"), made, WAITS, error),
        documents.failed(found(), made, error),
    ):
        shown = documents.human_recover(msgspec.to_builtins(document))
        assert shown.splitlines()[-1] == document.sentence
        assert document.sentence.endswith(".")
        assert "\n" not in document.sentence
        assert msgspec.json.encode(document)


def test_the_finding_is_shown_line_by_line() -> None:
    state = found(waits=WAITS, certificate_until=T0, certificate_expired=True, last_ran_at=T0)
    text = documents.human_found(state, plan(state))
    assert f"node             {NODE}, generation 1" in text
    assert f"certificate      expired {documents.when(T0)}" in text
    assert "node key         works" in text
    assert f"recovery         {CASE} waits for" in text
    assert all(line.strip() for line in text.splitlines())
