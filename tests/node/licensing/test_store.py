"""Statements and tombstones on disk: edits are found, damage never opens the gate, a crash leaves old or new."""

import errno
import os
import resource
import shutil
from itertools import product
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.disk import calls
from node.disk.files import encode_state, write_atomic, write_error
from node.errors import DiskFull
from node.licensing.acceptance import Accept, StoredEvidence, after_accepting, decide
from node.licensing.store import LicenceStore, StatementFile, TombstoneFile
from node.licensing.verdict import Evidence, Verdict, current_lease, judge
from protocol.signed.envelope import KeyRing
from protocol.signed.statements import Verified
from tests.node.licensing.samples import (
    DAY,
    HOLDER,
    KEY,
    NODE,
    OTHER_KEY,
    OTHER_NODE,
    RING,
    T0,
    damaged_forms,
    dying_at,
    in_child,
    make_lease,
    make_revocation,
    make_suspension,
    trusted,
    verification_key,
    verified,
)

LEASE = verified(make_lease(seq=1))
SUSPENSION = verified(make_suspension(seq=2))
REVOCATION = verified(make_revocation(seq=3))


@pytest.fixture
def store(tmp_path: Path) -> LicenceStore:
    return LicenceStore(tmp_path / "state")


def void(_: object) -> None:
    """Drop a result."""


def verdict_of(stored: StoredEvidence) -> Verdict:
    return judge(Evidence(holder=HOLDER, stored=stored, hardware="ours", time=trusted(T0)))


def test_nothing_stored(store: LicenceStore) -> None:
    assert store.load(HOLDER, RING) == StoredEvidence()


def test_round_trip(store: LicenceStore) -> None:
    store.record(Accept(LEASE), T0)
    assert store.load(HOLDER, RING) == StoredEvidence(statement=LEASE, received_at=T0)
    store.record(Accept(SUSPENSION), T0 + DAY)
    assert store.load(HOLDER, RING) == StoredEvidence(statement=SUSPENSION, received_at=T0 + DAY)
    for _ in range(2):
        store.record(Accept(REVOCATION), T0)
        assert store.load(HOLDER, RING) == StoredEvidence(REVOCATION, REVOCATION, T0)
    assert store.statement_path(1).stat().st_mode & 0o777 == 0o600


def test_generations_do_not_touch(store: LicenceStore) -> None:
    store.record(Accept(REVOCATION), T0)
    newer = msgspec.structs.replace(HOLDER, generation=2)
    assert store.load(newer, RING) == StoredEvidence()
    lease = verified(make_lease(generation=2))
    store.record(Accept(lease), T0)
    assert store.load(newer, RING).statement == lease
    assert store.load(HOLDER, RING).tombstone == REVOCATION


def test_licence_files_put_back_do_not_undo_a_tombstone(store: LicenceStore) -> None:
    store.record(Accept(LEASE), T0)
    before = store.statement_path(1).read_bytes()
    store.record(Accept(REVOCATION), T0)
    store.statement_path(1).write_bytes(before)
    assert verdict_of(store.load(HOLDER, RING)).state == "revoked"


@pytest.mark.parametrize("which", ["statement", "tombstone"])
def test_every_changed_byte_and_every_truncation_is_noticed(store: LicenceStore, which: str) -> None:
    """A tombstone is stored beside an earlier lease. Each damaged form keeps the gate closed, and stays on the disk.

    The statement has no other record here.
    """
    store.record(Accept(LEASE), T0)
    path = store.statement_path(1)
    store.copy_path(1).unlink()
    if which == "tombstone":
        store.write_tombstone(REVOCATION, T0)
        path = store.tombstone_path(1)
    for form in damaged_forms(path):
        stored = store.load(HOLDER, RING)
        verdict = verdict_of(stored)
        assert (verdict.state, verdict.gate_open) == ("stale", False)
        assert len(stored.damaged) == 1
        assert str(path) in stored.damaged[0]
        assert stored.tombstone_doubtful == (which == "tombstone")
        assert path.read_bytes() == form


def statement_file(of: Verified, kid: str = "", token: str = "") -> bytes:
    return encode_state(StatementFile(kid=kid or of.kid, token=token or of.token, received_at=T0))


def tombstone_file(of: Verified, node: str = NODE, generation: int = 1) -> bytes:
    return encode_state(TombstoneFile(kid=of.kid, node=type(NODE)(node), generation=generation, token=of.token, at=T0))


FORGED = LEASE.token[:-6] + ("AAAAAA" if LEASE.token[-6:] != "AAAAAA" else "BBBBBB")
FOREIGN = verified(make_lease(node=OTHER_NODE))
NEXT = verified(make_lease(generation=2))


@pytest.mark.parametrize(
    "content",
    [
        statement_file(LEASE, token=FORGED),
        statement_file(LEASE, kid="other"),
        statement_file(FOREIGN),
        statement_file(NEXT),
        tombstone_file(REVOCATION),
        statement_file(LEASE).replace(b'"format":1', b'"format":2'),
        b"{}",
        b"",
        b"x" * 300_000,
    ],
    ids=["signature", "kid", "node", "generation", "kind of file", "format", "empty object", "empty", "large"],
)
def test_a_sound_file_with_the_wrong_content_is_not_trusted(store: LicenceStore, content: bytes) -> None:
    store.record(Accept(LEASE), T0)
    store.statement_path(1).write_bytes(content)
    stored = store.load(HOLDER, RING)
    assert (stored.statement, len(stored.damaged), stored.partial) == (LEASE, 1, True)
    store.copy_path(1).write_bytes(content)
    stored = store.load(HOLDER, RING)
    assert stored.statement is None
    assert len(stored.damaged) == 2
    assert not verdict_of(stored).gate_open


@pytest.mark.parametrize(
    "content",
    [
        tombstone_file(verified(make_revocation(node=OTHER_NODE)), node=OTHER_NODE),
        tombstone_file(verified(make_revocation(generation=2)), generation=2),
        tombstone_file(REVOCATION, generation=2),
        tombstone_file(LEASE),
        statement_file(REVOCATION),
        b"",
    ],
    ids=["node", "generation", "named generation", "a lease", "kind of file", "empty"],
)
def test_a_tombstone_that_does_not_verify_closes_the_gate(store: LicenceStore, content: bytes) -> None:
    store.record(Accept(LEASE), T0)
    store.write_tombstone(REVOCATION, T0)
    store.tombstone_path(1).write_bytes(content)
    assert verdict_of(store.load(HOLDER, RING)).state == "stale"


def test_a_link_or_a_fifo_in_the_place_of_a_file_is_damage(store: LicenceStore, tmp_path: Path) -> None:
    store.record(Accept(LEASE), T0)
    path = store.statement_path(1)
    moved = path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(moved)
    assert "symbolic link" in store.load(HOLDER, RING).damaged[0]
    path.unlink()
    os.mkfifo(path)
    assert "regular file" in store.load(HOLDER, RING).damaged[0]


def test_a_withdrawn_key_voids_what_it_signed(store: LicenceStore) -> None:
    store.record(Accept(LEASE), T0)
    withdrawn = KeyRing([verification_key(KEY, withdrawn=True), verification_key(OTHER_KEY)])
    stored = store.load(HOLDER, withdrawn)
    assert "withdrawn" in stored.damaged[0]
    resigned = verified(make_lease(seq=1), OTHER_KEY)
    decision = decide(stored, resigned, HOLDER, fresh=True)
    assert decision == Accept(resigned)
    store.record(decision, T0)
    assert verdict_of(store.load(HOLDER, withdrawn)).gate_open


def test_only_the_clouds_own_answer_settles_a_doubtful_tombstone(store: LicenceStore) -> None:
    store.record(Accept(LEASE), T0)
    store.write_tombstone(REVOCATION, T0)
    store.tombstone_path(1).write_bytes(b"torn")
    stored = store.load(HOLDER, RING)
    assert not isinstance(decide(stored, LEASE, HOLDER, fresh=False), Accept)
    decision = decide(stored, LEASE, HOLDER, fresh=True)
    assert isinstance(decision, Accept)
    store.record(decision, T0)
    assert verdict_of(store.load(HOLDER, RING)).state == "active"
    assert store.tombstone_path(1).with_name("g-1.json.unreadable").read_bytes() == b"torn"


def test_a_revocation_mends_a_doubtful_tombstone(store: LicenceStore) -> None:
    store.write_tombstone(REVOCATION, T0)
    store.tombstone_path(1).write_bytes(b"torn")
    store.record(Accept(REVOCATION), T0)
    assert store.load(HOLDER, RING) == StoredEvidence(REVOCATION, REVOCATION, T0)


def test_only_a_revocation_makes_a_tombstone(store: LicenceStore) -> None:
    with pytest.raises(ValueError, match="only a revocation"):
        store.write_tombstone(LEASE, T0)


@pytest.mark.parametrize(
    ("point", "stage", "state"),
    [
        ("node.tombstone.write", "before", "active"),
        ("node.tombstone.write", "after", "revoked"),
        ("node.statement.write", "before", "revoked"),
        ("node.statement.write", "after", "revoked"),
        ("node.statement.copy", "before", "revoked"),
        ("node.statement.copy", "after", "revoked"),
    ],
)
def test_a_crash_at_revocation_leaves_old_or_new(store: LicenceStore, point: str, stage: str, state: str) -> None:
    store.record(Accept(LEASE), T0)
    assert in_child(dying_at(point, stage, lambda: void(store.record(Accept(REVOCATION), T0)))) == 9
    stored = store.load(HOLDER, RING)
    assert verdict_of(stored).state == state
    assert stored.damaged == ()
    store.record(Accept(REVOCATION), T0)
    assert store.load(HOLDER, RING) == StoredEvidence(REVOCATION, REVOCATION, T0)


def test_a_full_disk_keeps_the_old_statement(store: LicenceStore) -> None:
    store.record(Accept(LEASE), T0)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        for accepted in (Accept(SUSPENSION), Accept(REVOCATION)):
            failed = store.record(accepted, T0)
            assert set(failed) == set(store.records(accepted.statement))
            assert all(isinstance(error, DiskFull) for error in failed.values())

    assert in_child(full) == 0
    assert store.load(HOLDER, RING) == StoredEvidence(statement=LEASE, received_at=T0)


# Several records: each combination of records that cannot be used


def block(path: Path, how: str) -> None:
    """Put something else in the place of a record's directory."""
    shutil.rmtree(path.parent, ignore_errors=True)
    match how:
        case "a file":
            path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.write_bytes(b"")
        case "a loop":
            path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.symlink_to(path.parent)
        case _:
            raise ValueError(how)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """The files that cannot be written, each with the number of the error."""
    errors: dict[Path, int] = {}

    def write(path: Path, data: bytes) -> None:
        if path in errors:
            raise write_error(path, OSError(errors[path], os.strerror(errors[path])))
        write_atomic(path, data)

    monkeypatch.setattr("node.licensing.store.write_atomic", write)
    return errors


@pytest.mark.parametrize("how", ["a file", "a loop", errno.EIO, errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("heard", [SUSPENSION, REVOCATION], ids=["suspension", "revocation"])
def test_one_record_of_several_is_enough_at_the_next_start(
    tmp_path: Path, failing: dict[Path, int], heard: Verified, how: str | int
) -> None:
    """A table: the records that are unusable, and what a start without the cloud then makes of the statement."""
    paths = LicenceStore(tmp_path).records(heard)
    for number, usable in enumerate(product((True, False), repeat=len(paths))):
        store = LicenceStore(tmp_path / str(number) / "state")
        store.record(Accept(LEASE), T0)
        blocked = [path for path, fine in zip(store.records(heard), usable, strict=True) if not fine]
        for path in blocked:
            if isinstance(how, str):
                block(path, how)
            else:
                failing[path] = how
        assert set(store.record(Accept(heard), T0)) == set(blocked)
        verdict = verdict_of(LicenceStore(tmp_path / str(number) / "state").load(HOLDER, RING))
        if any(usable):
            assert verdict.state == ("revoked" if heard is REVOCATION else "suspended"), usable
        else:
            assert verdict.gate_open == isinstance(how, int), "without a record only the old lease is there"


@pytest.mark.parametrize("call", ["open", "fstat"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_fault_of_the_state_directory_itself_stops_no_record_below_it(tmp_path: Path, call: str, number: int) -> None:
    store, top = LicenceStore(tmp_path / "state"), str(tmp_path / "state")
    store.record(Accept(LEASE), T0)

    def fail(name: str, path: str) -> None:
        if (name, path) == (call, top):
            raise OSError(number, os.strerror(number))

    with calls.hooked(fail):
        failed = store.record(Accept(REVOCATION), T0)
    # The folder of tombstones is missing, and is made in the directory.
    assert set(failed) == ({store.tombstone_path(1)} if call == "open" else set())
    assert verdict_of(LicenceStore(tmp_path / "state").load(HOLDER, RING)).state == "revoked"


@settings(max_examples=40)
@given(
    heard=st.lists(st.sampled_from([LEASE, SUSPENSION, verified(make_lease(seq=4)), REVOCATION]), max_size=5),
    failing=st.data(),
)
def test_the_latest_statement_that_has_a_record_counts(
    tmp_path_factory: pytest.TempPathFactory, heard: list[Verified], failing: st.DataObject
) -> None:
    """Each write can fail. The next start has the last statement of which one record was written, or a revocation."""
    store = LicenceStore(tmp_path_factory.mktemp("state"))
    evidence, last = StoredEvidence(), None
    for statement in heard:
        decision = decide(evidence, statement, HOLDER, fresh=True)
        if not isinstance(decision, Accept):
            continue
        evidence = after_accepting(evidence, decision, T0)
        only = [path for path in store.records(statement) if failing.draw(st.booleans())]
        store.record(decision, T0, only)
        last = statement if only else last
    stored = store.load(HOLDER, RING)
    if last is REVOCATION:
        assert verdict_of(stored).state == "revoked"
    else:
        assert stored.statement == last


def test_a_place_that_cannot_be_read_is_no_tombstone(store: LicenceStore) -> None:
    """Both other records say that the node is not revoked. With one of them it would be doubtful."""
    store.record(Accept(LEASE), T0)
    block(store.tombstone_path(1), "a file")
    stored = store.load(HOLDER, RING)
    assert (verdict_of(stored).state, len(stored.damaged)) == ("active", 1)
    store.copy_path(1).unlink()
    assert verdict_of(store.load(HOLDER, RING)).state == "stale"


# Generations


def test_a_statement_of_a_higher_generation_removes_the_lower_leases(store: LicenceStore) -> None:
    store.record(Accept(LEASE), T0)
    other = verified(make_lease(generation=3))
    store.record(Accept(other), T0)
    assert store.load(HOLDER, RING) == StoredEvidence()
    assert store.load_later(HOLDER, RING) == other
    third = msgspec.structs.replace(HOLDER, generation=3)
    assert (store.load_later(third, RING), store.load(third, RING).statement) == (None, other)
    # The unconfirmed activation that lapsed leaves the generation in force as it was.
    lapsed = verified(msgspec.structs.replace(make_revocation(generation=4), reason="superseded"))
    store.record(Accept(lapsed), T0)
    assert (store.load_later(third, RING), store.load(third, RING).statement) == (None, other)
    assert store.load_later(HOLDER, RING) == other


def test_a_revocation_of_a_lower_generation_stays(store: LicenceStore) -> None:
    store.record(Accept(REVOCATION), T0)
    store.record(Accept(verified(make_lease(generation=2))), T0)
    assert store.load(HOLDER, RING) == StoredEvidence(REVOCATION, REVOCATION, T0)


@pytest.mark.parametrize("record", [0, 1, 2])
@pytest.mark.parametrize(
    "content",
    [b"", b"torn", tombstone_file(REVOCATION), statement_file(FOREIGN)],
    ids=["empty", "torn", "g-1", "foreign"],
)
def test_only_a_statement_that_verifies_voids_the_lower_generations(
    store: LicenceStore, record: int, content: bytes
) -> None:
    store.record(Accept(LEASE), T0)
    path = store.records(verified(make_revocation(generation=2)))[record]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)
    assert store.load_later(HOLDER, RING) is None


def test_the_end_of_the_stored_leases(store: LicenceStore) -> None:
    later = verified(make_lease(issued_at=T0 + DAY, seq=2))
    store.record(Accept(later), T0)
    assert store.leases_until(HOLDER, RING, [1, 2]) == T0 + 61 * DAY
    assert store.leases_until(HOLDER, RING, [2]) is None
    store.write_tombstone(REVOCATION, T0)
    store.write_statement(SUSPENSION, T0)
    assert store.leases_until(HOLDER, RING, [1]) == T0 + 61 * DAY
    store.copy_path(1).write_bytes(b"torn")
    assert store.leases_until(HOLDER, RING, [1]) is None


VERSION_1_FILE = (
    b'{"format":1,"kid":"EQhmSc0-XRiSIApCALFluw","token":"'
    b"eyJhbGciOiJFUzI1NiIsImtpZCI6IkVRaG1TYzAtWFJpU0lBcENBTEZsdXciLCJ0eXAiOiJjYXNjYWRlLWxlYXNlK2p3cyJ9.eyJ"
    b"0cnVzdF9kb21haW4iOiJjYXNjYWRlLmludGVybmFsIiwidGVuYW50IjoidGVuXzAxMTExMTExMTExMTExMTExMTExMTExMTExIiw"
    b"ibm9kZSI6Im5vZGVfMDExMTExMTExMTExMTExMTExMTExMTExMTEiLCJnZW5lcmF0aW9uIjoxLCJlcG9jaCI6MSwic2VxIjoxLCJ"
    b"pc3N1ZWRfYXQiOiIyMDI2LTExLTIyVDEyOjAwOjAwWiIsInRpZXIiOiJhdHRlc3RlZCIsInByb2ZpbGUiOiJzdGFuZGFyZCIsImV"
    b"udGl0bGVtZW50cyI6WyJyZW5kZXIiXSwibm90X2JlZm9yZSI6IjIwMjYtMTEtMjJUMTE6NTU6MDBaIiwicmVmcmVzaF9hZnRlciI"
    b"6IjIwMjYtMTEtMjNUMTI6MDA6MDBaIiwiZXhwaXJlc19hdCI6IjIwMjYtMTItMjJUMTI6MDA6MDBaIiwiZ3JhY2VfdW50aWwiOiI"
    b"yMDI3LTAxLTA2VDEyOjAwOjAwWiIsInRlcm1pbmF0ZV9hdCI6IjIwMjctMDEtMjFUMTI6MDA6MDBaIiwibm90aWZ5X2F0IjpbIjI"
    b"wMjYtMTItMTVUMTI6MDA6MDBaIl19.FLJSIYE4GiCfY3ywEgbnEFdPuM5hTLeKW5QV-5P2ooa5JovC9rTJtSkEaYEgxxFeiHt_Tp"
    b"A2TztBOhoj3MTnKA"
    b'","received_at":"2026-11-22T12:00:00Z",'
    b'"sha256":"f7079ae7a41f8a266d6bb44bee18703a53315d8a02215425d8e3830cdea24ecf"}\n'
)
"""`licence/g-1/statement.json` as an agent wrote it that knew version 1 only. The bytes are literal."""


def test_the_lease_file_of_an_earlier_agent_still_opens_the_gate(store: LicenceStore) -> None:
    for path in (store.statement_path(1), store.copy_path(1)):
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        write_atomic(path, VERSION_1_FILE)
    bound = msgspec.structs.replace(HOLDER, node_keys=("3b" * 32,), ek_name="000b" + "4c" * 32)
    stored = store.load(bound, RING)
    assert (stored.damaged, stored.partial) == ((), False)
    verdict = verdict_of(stored)
    assert (verdict.state, verdict.gate_open) == ("active", True)
    lease = current_lease(stored, bound)
    assert lease is not None
    assert (lease.version, lease.names, lease.floor, lease.final) == (1, ("render",), None, None)
