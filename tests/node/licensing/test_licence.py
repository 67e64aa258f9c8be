"""The keeper's order, verify, store, believe, and what it makes of the cloud's words, good and bad."""

import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from node.errors import DiskFull
from node.hwbind.keys import WrappedKey
from node.licensing.licence import Keeper, StatementRejected
from node.licensing.store import LicenceStore
from protocol import faults
from protocol.messages.sessions import StatementAnswer
from protocol.signed.envelope import key_id, seal
from protocol.signed.statements import TYP_REVOCATION, Revocation
from tests.node.shells import answer, apply, identity, trust_of
from tests.simulators.fabric import DOMAIN, NODE, TENANT, Fabric, utc_now

KEY = WrappedKey(public=b"", private=b"", parent=b"")
NONCE = "n" * 32


@pytest.fixture
def fabric() -> Fabric:
    fabric = Fabric()
    fabric.confirmed = 1
    return fabric


@pytest.fixture
def keeper(fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    monkeypatch.setattr(WrappedKey, "public_key", lambda _: ec.generate_private_key(ec.SECP256R1()).public_key())
    keeper = Keeper(LicenceStore(tmp_path), identity(fabric, KEY, KEY), trust_of(fabric), utc_now)
    keeper.hardware = "ours"
    return keeper


def again(keeper: Keeper, tmp_path: Path) -> Keeper:
    """The keeper of the next start."""
    other = Keeper(LicenceStore(tmp_path), keeper.identity, keeper.trust, utc_now)
    other.hardware = "ours"
    return other


@pytest.fixture
def points() -> Iterator[list[str]]:
    seen: list[str] = []

    def hook(name: str, stage: faults.Stage) -> None:
        seen.append(f"{stage} {name}")

    faults.install(hook)
    yield seen
    faults._hooks.remove(hook)


def test_a_lease_opens_the_gate_and_lasts(keeper: Keeper, fabric: Fabric, tmp_path: Path) -> None:
    assert (keeper.verdict().state, keeper.presented, keeper.lease) == ("stale", "", None)
    token = fabric.lease()
    assert apply(keeper, fabric, token)
    for one in (keeper, again(keeper, tmp_path)):
        assert (one.verdict().state, one.verdict().gate_open, one.presented) == ("active", True, token)
        assert one.lease is not None


def test_the_same_again_stores_nothing(keeper: Keeper, fabric: Fabric, points: list[str]) -> None:
    token = fabric.lease()
    apply(keeper, fabric, token)
    points.clear()
    assert not apply(keeper, fabric, token)
    assert points == []


def test_a_revocation_is_a_tombstone_before_it_is_a_statement(
    keeper: Keeper, fabric: Fabric, points: list[str], tmp_path: Path
) -> None:
    apply(keeper, fabric, fabric.lease())
    points.clear()
    assert apply(keeper, fabric, fabric.revocation())
    assert points == [
        "before node.tombstone.write",
        "after node.tombstone.write",
        "before node.statement.write",
        "after node.statement.write",
    ]
    assert keeper.revoked
    assert again(keeper, tmp_path).revoked


def test_nothing_is_believed_before_it_is_stored(
    keeper: Keeper, fabric: Fabric, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    apply(keeper, fabric, fabric.lease(entitlements=("old",)))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(DiskFull):
        apply(keeper, fabric, fabric.lease(entitlements=("new",)))
    assert keeper.lease is not None
    assert keeper.lease.entitlements == ("old",)
    assert again(keeper, tmp_path).verdict().gate_open


@pytest.mark.parametrize("word", ["revocation", "suspension"])
def test_what_closes_the_gate_is_believed_on_a_full_disk(
    keeper: Keeper, fabric: Fabric, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str
) -> None:
    apply(keeper, fabric, fabric.lease())
    rename = os.rename

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.rename", full)
    token = fabric.revocation() if word == "revocation" else fabric.suspension()
    with pytest.raises(DiskFull):
        apply(keeper, fabric, token)
    assert not keeper.verdict().gate_open
    state = "revoked" if word == "revocation" else "suspended"
    assert keeper.verdict().state == state
    with pytest.raises(DiskFull):
        keeper.store_owed()
    assert again(keeper, tmp_path).verdict().gate_open
    # As soon as there is room it is written down, so that a restart does not forget it.
    monkeypatch.setattr("os.rename", rename)
    keeper.store_owed()
    assert again(keeper, tmp_path).verdict().state == keeper.verdict().state == state


def test_a_revocation_is_final(keeper: Keeper, fabric: Fabric, tmp_path: Path) -> None:
    apply(keeper, fabric, fabric.lease())
    apply(keeper, fabric, fabric.revocation())
    assert not apply(keeper, fabric, fabric.lease())
    assert not apply(keeper, fabric, fabric.suspension())
    assert not apply(keeper, fabric, fabric.revocation())
    assert again(keeper, tmp_path).revoked


def test_a_revocation_needs_no_freshness(keeper: Keeper, fabric: Fabric) -> None:
    assert keeper.apply(StatementAnswer(fabric.revocation(), ""), NONCE)
    assert keeper.revoked


def test_suspension_and_resumption(keeper: Keeper, fabric: Fabric) -> None:
    old = fabric.lease()
    apply(keeper, fabric, old)
    apply(keeper, fabric, fabric.suspension())
    assert (keeper.verdict().state, keeper.lease) == ("suspended", None)
    with pytest.raises(StatementRejected, match="older"):
        apply(keeper, fabric, old)
    assert keeper.verdict().state == "suspended"
    apply(keeper, fabric, fabric.lease())
    assert keeper.verdict().state == "active"


def test_a_replayed_older_lease_is_refused(keeper: Keeper, fabric: Fabric) -> None:
    old, new = fabric.lease(entitlements=("more",)), fabric.lease()
    apply(keeper, fabric, new)
    with pytest.raises(StatementRejected, match="older"):
        apply(keeper, fabric, old)
    assert keeper.presented == new


@pytest.mark.parametrize("freshness", ["none", "other nonce", "other statement", "other key"])
def test_the_first_lease_must_be_fresh(keeper: Keeper, fabric: Fabric, freshness: str) -> None:
    token = fabric.lease()
    words = {
        "none": "",
        "other nonce": fabric.freshness("m" * 32, token, 1),
        "other statement": fabric.freshness(NONCE, fabric.lease(), 1),
        "other key": fabric.freshness(NONCE, token, 1)[:-6] + "AAAAAA",
    }
    with pytest.raises(StatementRejected, match="vouch"):
        keeper.apply(StatementAnswer(token, words[freshness]), NONCE)
    assert keeper.presented == ""


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
def test_a_forged_statement_changes_nothing(keeper: Keeper, fabric: Fabric, points: list[str], how: str) -> None:
    token = fabric.lease()
    apply(keeper, fabric, token)
    points.clear()
    offered = forged(fabric, how)
    with pytest.raises(StatementRejected):
        keeper.apply(answer(fabric, offered), NONCE)
    assert (keeper.verdict().state, keeper.presented, points) == ("active", token, [])


def test_a_withdrawn_key_voids_what_it_signed_until_it_is_signed_anew(keeper: Keeper, fabric: Fabric) -> None:
    """What is held is kept until the re-signed statement is at hand."""
    apply(keeper, fabric, fabric.lease())
    fabric.keys["lease"] = ec.generate_private_key(ec.SECP256R1())
    keeper.trust = trust_of(fabric)
    assert keeper.verdict().gate_open
    token = fabric.lease()
    assert apply(keeper, fabric, token)
    assert keeper.presented == token


def test_the_gate_needs_the_hardware_of_this_run(keeper: Keeper, fabric: Fabric, tmp_path: Path) -> None:
    apply(keeper, fabric, fabric.lease())
    fresh = Keeper(LicenceStore(tmp_path), keeper.identity, keeper.trust, utc_now)
    assert not fresh.verdict().gate_open
    fresh.hardware = "ours"
    assert fresh.verdict().gate_open
    fresh.hardware = "unavailable"
    assert fresh.verdict().gate_open
    fresh.hardware = "other"
    assert fresh.verdict().state == "hardware-mismatch"


def test_dates_pass_by_themselves(keeper: Keeper, fabric: Fabric, tmp_path: Path) -> None:
    apply(keeper, fabric, fabric.lease())
    later = Keeper(LicenceStore(tmp_path), keeper.identity, keeper.trust, lambda: utc_now() + timedelta(days=61))
    assert later.verdict().state == "terminated"


def test_a_renewed_certificate_is_the_identitys(keeper: Keeper) -> None:
    same = keeper.identity.node_key
    keeper.renewed((b"new", b"issuer"), same)
    assert (keeper.identity.chain, keeper.identity.node_key) == ((b"new", b"issuer"), same)
    other = WrappedKey(b"public", b"private", b"parent")
    keeper.renewed((b"newer", b"issuer"), other)
    assert (keeper.identity.chain, keeper.identity.node_key) == ((b"newer", b"issuer"), other)
