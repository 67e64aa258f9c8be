"""The licence: the order verify, use, store; and the result of each of the cloud's statements, good and bad."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from node.conditions import Conditions
from node.hwbind import keys
from node.hwbind.errors import TpmFailed, TpmNotOurs
from node.hwbind.keys import WrappedKey, key_hash
from node.licensing.floor_store import FloorStore
from node.licensing.licence import Applied, Licence, StatementRejected
from node.licensing.raising import FloorKeeper
from node.licensing.saving import Saver
from node.licensing.store import LicenceStore
from node.trust.current import CurrentTrust
from protocol import faults
from protocol.messages.sessions import StatementAnswer
from protocol.signed.envelope import key_id, seal
from protocol.signed.statements import TYP_REVOCATION, Revocation, Verified, verify_statement
from tests.fault_hooks import hooked
from tests.node.licensing.samples import trusted
from tests.node.shells import answer, apply, hardware, identity, store, trust_of, trusted_time
from tests.simulators.fabric import DOMAIN, NODE, TENANT, Fabric, utc_now

KEY = WrappedKey(public=b"", private=b"", parent=b"")
NONCE = "n" * 32


def saver_of(directory: Path) -> Saver:
    conditions = Conditions(utc_now)
    return Saver(LicenceStore(directory), conditions, FloorKeeper(FloorStore(directory), conditions))


@pytest.fixture
def fabric() -> Fabric:
    fabric = Fabric()
    fabric.confirmed = 1
    return fabric


@pytest.fixture
def licence(fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Licence:
    monkeypatch.setattr(WrappedKey, "public_key", lambda _: ec.generate_private_key(ec.SECP256R1()).public_key())
    trust = CurrentTrust(tmp_path, trust_of(fabric), utc_now)
    return Licence(saver_of(tmp_path), identity(fabric, KEY, KEY), trust, hardware(ours=True), trusted_time())


def again(licence: Licence, tmp_path: Path) -> Licence:
    """The licence of the next start."""
    return Licence(saver_of(tmp_path), licence.identity, licence.trust, hardware(ours=True), trusted_time())


@pytest.fixture
def points() -> Iterator[list[str]]:
    seen: list[str] = []

    def hook(name: str, stage: faults.Stage) -> None:
        seen.append(f"{stage} {name}")

    with hooked(hook):
        yield seen


def test_a_lease_opens_the_gate_and_lasts(licence: Licence, fabric: Fabric, tmp_path: Path) -> None:
    assert (licence.verdict().state, licence.presented, licence.lease) == ("stale", "", None)
    token = fabric.lease()
    assert apply(licence, fabric, token)
    for one in (licence, again(licence, tmp_path)):
        assert (one.verdict().state, one.verdict().gate_open, one.presented) == ("active", True, token)
        assert one.lease is not None


def test_the_same_again_stores_nothing(licence: Licence, fabric: Fabric, points: list[str]) -> None:
    token = fabric.lease()
    apply(licence, fabric, token)
    points.clear()
    assert not apply(licence, fabric, token)
    assert points == []


def test_a_revocation_is_a_tombstone_before_it_is_a_statement(
    licence: Licence, fabric: Fabric, points: list[str], tmp_path: Path
) -> None:
    apply(licence, fabric, fabric.lease())
    points.clear()
    assert apply(licence, fabric, fabric.revocation())
    assert points == [
        "before node.tombstone.write",
        "after node.tombstone.write",
        "before node.statement.write",
        "after node.statement.write",
        "before node.statement.copy",
        "after node.statement.copy",
    ]
    assert licence.revoked
    assert again(licence, tmp_path).revoked


def test_the_verified_statement_is_used_and_not_read_again(
    licence: Licence, fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []

    def count(token: str, *arguments: Any) -> Verified:
        verified.append(token)
        return verify_statement(token, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("node.licensing.licence.verify_statement", count)
        patch.setattr(LicenceStore, "load", None)
        lease, suspension = fabric.lease(), fabric.suspension()
        for token in (lease, suspension):
            assert apply(licence, fabric, token)
    assert verified == [lease, suspension]


@pytest.mark.parametrize("damage", ["", "statement", "tombstone"])
@pytest.mark.parametrize("word", ["lease", "suspension", "revocation"])
def test_the_next_start_reads_the_evidence_that_was_used_after_an_answer(
    licence: Licence, fabric: Fabric, tmp_path: Path, word: str, damage: str
) -> None:
    apply(licence, fabric, fabric.lease())
    records = LicenceStore(tmp_path)
    if damage:
        path = records.statement_path(1) if damage == "statement" else records.tombstone_path(1)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(b"torn")
        licence = again(licence, tmp_path)
        assert licence.verdict().damaged
    assert apply(
        licence, fabric, {"lease": fabric.lease, "suspension": fabric.suspension}.get(word, fabric.revocation)()
    )
    assert licence._stored == again(licence, tmp_path)._stored
    assert not licence.verdict().damaged


def test_a_snapshot_is_one_reading_of_the_clock(
    licence: Licence, fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reading of the clock: otherwise half of an answer could show the lease as current, and half as ended."""
    apply(licence, fabric, fabric.lease())
    assert licence.lease is not None
    end = licence.lease.terminate_at
    times = iter([end - timedelta(microseconds=1), end])
    time = trusted_time()
    monkeypatch.setattr(time, "judged", lambda: trusted(next(times)))
    racing = Licence(saver_of(tmp_path), licence.identity, licence.trust, hardware(ours=True), time)
    snapshot = racing.snapshot()
    assert (snapshot.verdict.gate_open, snapshot.lease, snapshot.hardware) == (True, licence.lease, "ours")
    assert next(times) == end


def test_put_in_force_once_the_cloud_has_confirmed(licence: Licence, fabric: Fabric, tmp_path: Path) -> None:
    waiting = Licence(
        saver_of(tmp_path), licence.identity, licence.trust, hardware(ours=True), trusted_time(), confirmed=False
    )
    apply(waiting, fabric, fabric.lease())
    assert (waiting.confirmed, waiting.verdict().state) == (False, "pending")
    waiting.put_in_force()
    assert (waiting.confirmed, waiting.verdict().state) == (True, "active")


@pytest.mark.parametrize("word", ["lease", "suspension", "revocation"])
def test_a_statement_counts_before_it_is_stored(licence: Licence, fabric: Fabric, tmp_path: Path, word: str) -> None:
    """A full disk does not make an online, paid machine run through its grace, and forgives no suspension."""
    apply(licence, fabric, fabric.lease(entitlements=("old",)))
    token = {"lease": fabric.lease, "suspension": fabric.suspension, "revocation": fabric.revocation}[word]()
    assert licence.apply(answer(fabric, token), NONCE) == Applied(new=True, fresh=True)
    assert licence.presented == token
    assert licence.verdict().state == {"lease": "active", "suspension": "suspended", "revocation": "revoked"}[word]
    assert again(licence, tmp_path).presented != token
    store(licence)
    assert again(licence, tmp_path).presented == token


@pytest.mark.parametrize("back", [timedelta(0), timedelta(days=400)], ids=["right clock", "clock back at the restart"])
@pytest.mark.parametrize("frozen_for", [20, 200])
def test_a_connected_machine_on_a_full_disk_outlives_its_stored_lease(
    licence: Licence, fabric: Fabric, tmp_path: Path, frozen_for: int, back: timedelta
) -> None:
    """The disk stores nothing for longer than a lease lasts. The cloud's fresh leases count in memory."""
    apply(licence, fabric, fabric.lease())
    start = now = utc_now()
    running = Licence(
        saver_of(tmp_path), licence.identity, licence.trust, hardware(ours=True), trusted_time(lambda: now)
    )
    for day in range(0, frozen_for, 20):
        now = start + timedelta(days=day)
        assert running.apply(answer(fabric, fabric.lease(issued_at=now)), NONCE).new
        assert (running.verdict().state, running.verdict().gate_open) == ("active", True)
    assert running._saver.waits(1)
    # A restart has the last stored lease. A restart after the disk recovered has the last lease.
    now = start + timedelta(days=frozen_for)
    assert again(licence, tmp_path).presented == licence.presented
    store(running)
    now -= back
    restarted = Licence(
        saver_of(tmp_path), licence.identity, licence.trust, hardware(ours=True), trusted_time(lambda: now)
    )
    assert (restarted.presented, restarted.verdict().gate_open) == (running.presented, True)
    assert restarted.verdict().clock_suspect == bool(back)
    # A revocation counts under any clock.
    restarted.apply(answer(fabric, fabric.revocation()), NONCE)
    assert restarted.verdict().state == "revoked"


def test_the_offline_bound_counts_every_lease_that_the_disk_may_have(
    licence: Licence, fabric: Fabric, tmp_path: Path
) -> None:
    assert licence.snapshot().offline_bound is None
    apply(licence, fabric, fabric.lease())
    lease = licence.lease
    assert lease is not None
    assert licence.snapshot().offline_bound == lease.terminate_at
    licence.apply(answer(fabric, fabric.suspension()), NONCE)
    assert (licence.lease, licence.snapshot().offline_bound) == (None, lease.terminate_at)
    store(licence)
    assert licence.snapshot().offline_bound is None
    assert again(licence, tmp_path).snapshot().offline_bound is None


def test_the_offline_bound_counts_an_older_record_and_other_generations(
    licence: Licence, fabric: Fabric, tmp_path: Path
) -> None:
    apply(licence, fabric, fabric.lease())
    lease = licence.lease
    assert lease is not None
    copy = LicenceStore(tmp_path).copy_path(1)
    before = copy.read_bytes()
    apply(licence, fabric, fabric.revocation())
    copy.write_bytes(before)
    revoked = again(licence, tmp_path)
    assert (revoked.verdict().state, revoked.snapshot().offline_bound) == ("revoked", lease.terminate_at)
    second = msgspec.structs.replace(licence.identity, generation=2)
    newer = Licence(saver_of(tmp_path), second, licence.trust, hardware(ours=True), trusted_time(), confirmed=False)
    assert newer.snapshot().offline_bound == lease.terminate_at


def test_a_revocation_is_final(licence: Licence, fabric: Fabric, tmp_path: Path) -> None:
    apply(licence, fabric, fabric.lease())
    apply(licence, fabric, fabric.revocation())
    assert not apply(licence, fabric, fabric.lease())
    assert not apply(licence, fabric, fabric.suspension())
    assert not apply(licence, fabric, fabric.revocation())
    assert again(licence, tmp_path).revoked


def test_a_revocation_needs_no_freshness(licence: Licence, fabric: Fabric) -> None:
    assert licence.apply(StatementAnswer(fabric.revocation(), ""), NONCE) == Applied(new=True, fresh=False)
    assert licence.revoked


def test_suspension_and_resumption(licence: Licence, fabric: Fabric) -> None:
    old = fabric.lease()
    apply(licence, fabric, old)
    apply(licence, fabric, fabric.suspension())
    assert (licence.verdict().state, licence.lease) == ("suspended", None)
    with pytest.raises(StatementRejected, match="older"):
        apply(licence, fabric, old)
    assert licence.verdict().state == "suspended"
    apply(licence, fabric, fabric.lease())
    assert licence.verdict().state == "active"


def test_a_replayed_older_lease_is_refused(licence: Licence, fabric: Fabric) -> None:
    old, new = fabric.lease(entitlements=("more",)), fabric.lease()
    apply(licence, fabric, new)
    with pytest.raises(StatementRejected, match="older"):
        apply(licence, fabric, old)
    assert licence.presented == new


@pytest.mark.parametrize("freshness", ["none", "other nonce", "other statement", "other key"])
def test_the_first_lease_must_be_fresh(licence: Licence, fabric: Fabric, freshness: str) -> None:
    token = fabric.lease()
    words = {
        "none": "",
        "other nonce": fabric.freshness("m" * 32, token, 1),
        "other statement": fabric.freshness(NONCE, fabric.lease(), 1),
        "other key": fabric.freshness(NONCE, token, 1)[:-6] + "AAAAAA",
    }
    with pytest.raises(StatementRejected, match="no freshness says"):
        licence.apply(StatementAnswer(token, words[freshness]), NONCE)
    assert licence.presented == ""


def forged(fabric: Fabric, how: str) -> str:
    stranger = Fabric()
    stranger.confirmed, stranger.seq = 1, fabric.seq
    match how:
        case "unknown key":
            return stranger.revocation()
        case "key of leases":
            revocation = Revocation(
                trust_domain=DOMAIN,
                tenant=TENANT,
                node=NODE,
                generation=1,
                epoch=1,
                seq=9,
                issued_at=utc_now(),
                reason="revoked",
            )
            key = fabric.keys["lease"]
            return seal(TYP_REVOCATION, key_id(key.public_key()), msgspec.json.encode(revocation), key)
        case "borrowed kid":
            key = fabric.keys["revocation"]
            fabric.keys["revocation"] = stranger.keys["revocation"]
            token = fabric.revocation()
            header, payload, signature = token.split(".")
            return ".".join((fabric_header(key), payload, signature)) if header else ""
        case "changed":
            token = fabric.revocation()
            return token[:-8] + ("A" if token[-8] != "A" else "B") + token[-7:]
        case "another generation":
            return fabric.revocation(2)
        case "freshness":
            return fabric.freshness(NONCE, "", 1)
        case _:
            return how


def fabric_header(key: ec.EllipticCurvePrivateKey) -> str:
    return seal(TYP_REVOCATION, key_id(key.public_key()), b"{}", key).split(".")[0]


@pytest.mark.parametrize(
    "how",
    [
        "unknown key",
        "key of leases",
        "borrowed kid",
        "changed",
        "another generation",
        "freshness",
        "",
        "a.b.c",
        "x" * 40_000,
    ],
)
def test_a_forged_statement_changes_nothing(licence: Licence, fabric: Fabric, points: list[str], how: str) -> None:
    token = fabric.lease()
    apply(licence, fabric, token)
    points.clear()
    offered = forged(fabric, how)
    with pytest.raises(StatementRejected):
        licence.apply(answer(fabric, offered), NONCE)
    assert (licence.verdict().state, licence.presented, points) == ("active", token, [])


def test_a_withdrawn_key_voids_what_it_signed_until_it_is_signed_again(licence: Licence, fabric: Fabric) -> None:
    """The stored statement is kept until the re-signed one has come."""
    apply(licence, fabric, fabric.lease())
    fabric.keys["lease"] = ec.generate_private_key(ec.SECP256R1())
    licence.trust._value = trust_of(fabric)
    assert licence.verdict().gate_open
    token = fabric.lease()
    assert apply(licence, fabric, token)
    assert licence.presented == token


def test_the_gate_needs_the_hardware_of_this_run(licence: Licence, fabric: Fabric, tmp_path: Path) -> None:
    apply(licence, fabric, fabric.lease())
    check = hardware()
    fresh = Licence(saver_of(tmp_path), licence.identity, licence.trust, check, trusted_time())
    assert not fresh.verdict().gate_open
    check.report_ours()
    assert fresh.verdict().gate_open
    check.report_fault(TpmFailed("0x101"))
    assert fresh.verdict().gate_open
    check.report_fault(TpmNotOurs("another chip"))
    assert fresh.verdict().state == "hardware-mismatch"


def test_dates_pass_by_themselves(licence: Licence, fabric: Fabric, tmp_path: Path) -> None:
    apply(licence, fabric, fabric.lease())
    later = Licence(
        saver_of(tmp_path),
        licence.identity,
        licence.trust,
        hardware(),
        trusted_time(lambda: utc_now() + timedelta(days=61)),
    )
    assert later.verdict().state == "terminated"


def test_a_renewed_certificate_is_the_identitys(licence: Licence) -> None:
    same = licence.identity.node_key
    licence.replace_certificate((b"new", b"issuer"), same)
    assert (licence.identity.chain, licence.identity.node_key) == ((b"new", b"issuer"), same)
    other = keys.create_software_key()
    licence.replace_certificate((b"newer", b"issuer"), other)
    assert (licence.identity.chain, licence.identity.node_key) == ((b"newer", b"issuer"), other)


def software_licence(fabric: Fabric, tmp_path: Path) -> Licence:
    """A licence with a real node key. The key is outside a TPM, so the test needs none."""
    key = keys.create_software_key()
    trust = CurrentTrust(tmp_path, trust_of(fabric), utc_now)
    return Licence(saver_of(tmp_path), identity(fabric, keys.NO_KEY, key), trust, hardware(ours=True), trusted_time())


def name_of_key(key: WrappedKey) -> str:
    return key_hash(key.public_key())


def test_a_lease_for_another_key_changes_nothing(fabric: Fabric, tmp_path: Path) -> None:
    licence = software_licence(fabric, tmp_path)
    with pytest.raises(StatementRejected, match="another node, generation, node key or chip"):
        apply(licence, fabric, fabric.lease(node_key="aa" * 32))
    assert (licence.verdict().state, licence.presented) == ("stale", "")
    assert apply(licence, fabric, fabric.lease(node_key=name_of_key(licence.identity.node_key)))
    assert licence.verdict().gate_open


def test_both_versions_of_a_lease_follow_each_other(fabric: Fabric, tmp_path: Path) -> None:
    licence = software_licence(fabric, tmp_path)
    first = fabric.lease()
    second = fabric.lease(node_key=name_of_key(licence.identity.node_key))
    for version, token in ((1, first), (2, second), (1, fabric.lease())):
        assert apply(licence, fabric, token)
        assert licence.lease is not None
        assert licence.lease.version == version
    with pytest.raises(StatementRejected, match="older"):
        apply(licence, fabric, first)


def test_a_rekey_keeps_the_lease_of_the_earlier_key_and_takes_the_next_one(fabric: Fabric, tmp_path: Path) -> None:
    licence = software_licence(fabric, tmp_path)
    earlier, later = licence.identity.node_key, keys.create_software_key()
    assert apply(licence, fabric, fabric.lease(node_key=name_of_key(earlier)))
    licence.expect_key(later)
    assert apply(licence, fabric, fabric.lease(node_key=name_of_key(later))), "its certificate may be under way"
    licence.replace_certificate((b"new", b"issuer"), later)
    assert licence.verdict().gate_open
    assert apply(licence, fabric, fabric.lease(node_key=name_of_key(earlier))), "the cloud may have signed it before"
