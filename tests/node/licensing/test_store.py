"""Statements and tombstones on disk: edits are found, damage never opens the gate, a crash leaves old or new."""

import os
import resource
from pathlib import Path

import msgspec
import pytest

from node.disk.files import encode_state
from node.errors import StateUnwritable
from node.licensing.acceptance import Accept, StoredEvidence, decide
from node.licensing.store import LicenceStore, StatementFile, TombstoneFile
from node.licensing.verdict import Evidence, Verdict, judge
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
    verification_key,
    verified,
)

LEASE = verified(make_lease(seq=1))
SUSPENSION = verified(make_suspension(seq=2))
REVOCATION = verified(make_revocation(seq=3))


@pytest.fixture
def store(tmp_path: Path) -> LicenceStore:
    return LicenceStore(tmp_path / "state")


def verdict_of(stored: StoredEvidence) -> Verdict:
    return judge(Evidence(holder=HOLDER, stored=stored, hardware="ours", now=T0))


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
    """A tombstone is stored beside an earlier lease. Each damaged form keeps the gate closed, and stays on the disk."""
    store.record(Accept(LEASE), T0)
    path = store.statement_path(1)
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
    assert stored.statement is None
    assert len(stored.damaged) == 1
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
    ],
)
def test_a_crash_at_revocation_leaves_old_or_new(store: LicenceStore, point: str, stage: str, state: str) -> None:
    store.record(Accept(LEASE), T0)
    assert in_child(dying_at(point, stage, lambda: store.record(Accept(REVOCATION), T0))) == 9
    stored = store.load(HOLDER, RING)
    assert verdict_of(stored).state == state
    assert stored.damaged == ()
    store.record(Accept(REVOCATION), T0)
    assert store.load(HOLDER, RING) == StoredEvidence(REVOCATION, REVOCATION, T0)


def test_a_full_disk_keeps_the_old_statement(store: LicenceStore) -> None:
    store.record(Accept(LEASE), T0)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        with pytest.raises(StateUnwritable, match="no space"):
            store.record(Accept(SUSPENSION), T0)
        with pytest.raises(StateUnwritable, match="no space"):
            store.record(Accept(REVOCATION), T0)

    assert in_child(full) == 0
    assert store.load(HOLDER, RING) == StoredEvidence(statement=LEASE, received_at=T0)
