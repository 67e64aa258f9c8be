"""Generations on disk: each is written in one durable step, and damage is never taken for a missing file."""

import resource
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from node.disk.identity import FORMER_KEYS_MAX, Identity, IdentityStore
from node.disk.pending import PendingActivation, PendingRenewal
from node.errors import DiskFull, StateDamaged
from node.hwbind.keys import WrappedKey, key_hash
from node.hwbind.presence import EndorsementRecord
from protocol.faults import Stage
from protocol.ids import ActivationId, RenewalId
from tests.node.licensing.samples import (
    DAY,
    HOLDER,
    KEY,
    NODE,
    OTHER_KEY,
    T0,
    TENANT,
    damaged_forms,
    dying_at,
    in_child,
)
from tests.simulators.forged_evidence import NODE_KEY_ATTRIBUTES, signing_public


def certificate(serial: int, key: ec.EllipticCurvePublicKey | None = None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NODE)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key or OTHER_KEY.public_key())
        .serial_number(serial)
        .not_valid_before(T0)
        .not_valid_after(T0 + 90 * DAY)
        .sign(KEY, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


CHAIN = (certificate(1), certificate(2))
RENEWED = (certificate(3), certificate(2))


def make_identity(generation: int = 1) -> Identity:
    return Identity(
        trust_domain=HOLDER.trust_domain,
        tenant=TENANT,
        node=NODE,
        generation=generation,
        activated_at=T0,
        confirm_by=T0 + timedelta(hours=24),
        fingerprint_salt=b"s" * 32,
        ak=WrappedKey(b"ak-public", b"ak-private", b"parent"),
        node_key=WrappedKey(b"node-public%d" % generation, b"node-private", b"parent"),
        chain=CHAIN,
    )


ACTIVATION = PendingActivation(
    file_sha256="0" * 64,
    activation=ActivationId("act_0" + "1" * 25),
    fingerprint_salt=b"s" * 32,
    ak=WrappedKey(b"ak-public", b"ak-private", b"parent"),
    node_key=WrappedKey(b"node-public", b"node-private", b"parent"),
    proof=b'{"secret":"AAAA"}',
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> IdentityStore:
    return IdentityStore(state)


def confirmed(store: IdentityStore, *generations: int) -> None:
    for generation in generations:
        store.save_generation(make_identity(generation))
        store.switch_to(generation)


def test_nothing_stored(store: IdentityStore) -> None:
    assert (store.current(), store.pending(), store.generations()) == (None, None, ())
    assert store.load_activation() is None


def test_a_pending_generation_is_stored_beside_the_current_one(store: IdentityStore, state: Path) -> None:
    store.save_generation(make_identity(1))
    assert (store.current(), store.pending()) == (None, make_identity(1))
    store.switch_to(1)
    assert (store.current(), store.pending()) == (make_identity(1), None)
    store.save_generation(make_identity(2))
    store.save_generation(make_identity(4))
    assert (store.current(), store.pending()) == (make_identity(1), make_identity(4))
    assert store.load(2) == make_identity(2)
    assert make_identity(2).holder == msgspec.structs.replace(HOLDER, generation=2)
    files = sorted(path.name for path in (state / "identity" / "g-1").iterdir())
    assert files == ["ak.priv", "ak.pub", "device.pem", "identity.json", "node.priv", "node.pub"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.rglob("*"))


def test_switching_goes_up_only_and_prunes(store: IdentityStore) -> None:
    confirmed(store, 1, 2, 3)
    assert store.generations() == (2, 3)
    store.switch_to(3)
    with pytest.raises(ValueError, match="below the current"):
        store.switch_to(2)
    with pytest.raises(StateDamaged, match="missing"):
        store.switch_to(9)
    assert store.current() == make_identity(3)


def test_saving_again_replaces_a_pending_generation_and_never_the_current_one(store: IdentityStore) -> None:
    confirmed(store, 1)
    store.save_generation(make_identity(2))
    again = msgspec.structs.replace(make_identity(2), chain=RENEWED)
    store.save_generation(again)
    assert store.pending() == again
    for generation in (0, 1):
        with pytest.raises(ValueError, match="not above the current"):
            store.save_generation(make_identity(generation))


def test_the_public_parts_of_the_parents_are_stored_where_they_are_known(store: IdentityStore) -> None:
    older = make_identity()
    store.save_generation(older)
    stored = (store.generation_dir(1) / "identity.json").read_bytes()
    assert b"parent_public" not in stored
    newer = msgspec.structs.replace(
        older,
        ak=msgspec.structs.replace(older.ak, parent_public=b"parent of the AK"),
        node_key=msgspec.structs.replace(older.node_key, parent_public=b"parent of the node key"),
    )
    store.save_generation(newer)
    assert store.load(1) == newer != older


def test_the_endorsement_is_stored_with_the_generation_or_with_a_later_certificate(store: IdentityStore) -> None:
    record = EndorsementRecord(b"ek", b"signature")
    identity = make_identity()
    store.save_generation(identity)
    assert store.load(1).endorsement is None
    recorded = msgspec.structs.replace(identity, endorsement=record)
    store.save_generation(recorded)
    assert store.load(1) == recorded


def test_a_renewal_stores_the_endorsement_that_is_missing_and_a_rekey_a_new_one(store: IdentityStore) -> None:
    first, second = EndorsementRecord(b"ek", b"signature"), EndorsementRecord(b"ek", b"another signature")
    confirmed(store, 1)
    key, chain = rekeyed(10)

    def stored() -> EndorsementRecord | None:
        current = store.current()
        assert current is not None
        assert current.node_key == key
        return current.endorsement

    for given, expected in ((None, None), (first, first), (None, first), (second, first)):
        store.replace_device_chain(1, chain, key, given)
        assert stored() == expected
    key, chain = rekeyed(11)
    store.replace_device_chain(1, chain, key, second)
    assert stored() == second
    assert keys_stored(store) == 1


def test_half_written_directories_do_not_count(store: IdentityStore, state: Path) -> None:
    confirmed(store, 1)
    for name in (".g-2.tmp", ".g-2.old", "g-02", "g-0", "g-x"):
        (state / "identity" / name).mkdir()
    assert store.generations() == (1,)
    assert store.pending() is None


def test_a_renewed_device_certificate(store: IdentityStore) -> None:
    confirmed(store, 1)
    store.replace_device_chain(1, RENEWED)
    current = store.current()
    assert current is not None
    assert current.chain == RENEWED
    for wrong in ((), (b"no certificate",)):
        with pytest.raises(ValueError, match=r".+"):
            store.replace_device_chain(1, wrong)
    with pytest.raises(StateDamaged):
        store.replace_device_chain(2, RENEWED)


class Rekeyed(NamedTuple):
    """A key in the form of a TPM's key, and a chain for it."""

    key: WrappedKey
    chain: tuple[bytes, ...]


def rekeyed(number: int) -> Rekeyed:
    key = ec.derive_private_key(100 + number, ec.SECP256R1()).public_key()
    public = signing_public(key, NODE_KEY_ATTRIBUTES)
    return Rekeyed(WrappedKey(public, b"private %d" % number, b"parent"), (certificate(number, key), certificate(2)))


def keys_stored(store: IdentityStore) -> int:
    return len(list(store.generation_dir(1).glob("key-*.json")))


def test_a_rekey_replaces_certificate_and_key(store: IdentityStore) -> None:
    confirmed(store, 1)
    for number in (10, 11, 12):
        key, chain = rekeyed(number)
        store.replace_device_chain(1, chain, key)
        current = store.current()
        assert current is not None
        assert (current.node_key, current.chain) == (key, chain)
        assert keys_stored(store) == 1
    renewed = (certificate(20, rekeyed(12).key.public_key()), certificate(2))
    store.replace_device_chain(1, renewed, rekeyed(12).key)
    former = tuple(key_hash(rekeyed(number).key.public_key()) for number in (11, 10))
    assert store.current() == msgspec.structs.replace(
        make_identity(1), node_key=rekeyed(12).key, chain=renewed, other_keys=former
    )


def test_a_lease_may_name_each_key_since_the_last_lease_however_many_rekeys_follow(store: IdentityStore) -> None:
    """The stored lease names the key that the cloud knew. Two rekeys can come before the next lease."""
    confirmed(store, 1)
    for number in range(10, 30):
        key, chain = rekeyed(number)
        store.replace_device_chain(1, chain, key)
    earlier = tuple(key_hash(rekeyed(number).key.public_key()) for number in range(28, 28 - FORMER_KEYS_MAX, -1))
    assert store.load(1).other_keys == earlier


def test_a_lease_may_name_the_key_before_a_rekey_and_that_of_an_open_renewal(store: IdentityStore) -> None:
    confirmed(store, 1)
    first, second, third = (rekeyed(number) for number in (10, 11, 12))
    store.replace_device_chain(1, first.chain, first.key)
    assert store.load(1).other_keys == (), "the key before is damaged, so no TPM uses it"
    store.replace_device_chain(1, second.chain, second.key)
    store.save_renewal(msgspec.structs.replace(RENEWAL, node_key=third.key))
    before, under_way = (key_hash(one.key.public_key()) for one in (first, third))
    assert store.load(1).other_keys == (before, under_way)
    store.save_renewal(msgspec.structs.replace(RENEWAL, node_key=third.key, generation=2))
    assert store.load(1).other_keys == (before,)
    store._renewal_path.write_bytes(b"torn")
    assert store.load(1).other_keys == (before,), "a torn renewal starts again; it stops no node"


REKEY_POINTS = [("node.key.save", False), ("node.device.replace", False), ("node.key.prune", True)]


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize(("point", "switched"), REKEY_POINTS)
def test_a_crash_in_a_rekey_leaves_exactly_one_pair(
    store: IdentityStore, point: str, switched: bool, stage: Stage
) -> None:
    confirmed(store, 1)
    first, second = rekeyed(10), rekeyed(11)
    store.replace_device_chain(1, first.chain, first.key)

    def step() -> None:
        store.replace_device_chain(1, second.chain, second.key)

    assert in_child(dying_at(point, stage, step)) == 9
    expected = second if switched or (point, stage) == ("node.device.replace", "after") else first
    current = store.current()
    assert current is not None
    assert (current.node_key, current.chain) == expected
    step()
    current = store.current()
    assert current is not None
    assert (current.node_key, current.chain) == second


def test_a_damaged_later_key_is_noticed(store: IdentityStore) -> None:
    confirmed(store, 1)
    store.replace_device_chain(1, rekeyed(10).chain, rekeyed(10).key)
    (path,) = store.generation_dir(1).glob("key-*.json")
    for _ in damaged_forms(path):
        with pytest.raises(StateDamaged):
            store.current()


RENEWAL = PendingRenewal(
    generation=1,
    renewal=RenewalId("ren_0" + "1" * 25),
    node_key=WrappedKey(b"public", b"private", b"parent"),
    proof=b"{}",
)


def test_a_renewal_under_way(store: IdentityStore) -> None:
    confirmed(store, 1)
    assert store.load_renewal() is None
    assert in_child(dying_at("node.renewal.save", "before", lambda: store.save_renewal(RENEWAL))) == 9
    assert store.load_renewal() is None
    assert in_child(dying_at("node.renewal.save", "after", lambda: store.save_renewal(RENEWAL))) == 9
    assert store.load_renewal() == RENEWAL
    assert in_child(dying_at("node.renewal.clear", "before", store.clear_renewal)) == 9
    assert store.load_renewal() == RENEWAL
    store.clear_renewal()
    store.clear_renewal()
    assert store.load_renewal() is None


def test_an_activation_is_stored_and_removed(store: IdentityStore) -> None:
    store.save_activation(ACTIVATION)
    assert store.load_activation() == ACTIVATION
    other = msgspec.structs.replace(ACTIVATION, file_sha256="1" * 64)
    store.save_activation(other)
    assert store.load_activation() == other
    store.clear_activation()
    store.clear_activation()
    assert store.load_activation() is None


@pytest.mark.parametrize(
    "name", ["ak.pub", "ak.priv", "node.pub", "node.priv", "device.pem", "identity.json", "../../current.json"]
)
def test_every_changed_byte_and_every_truncation_is_noticed(store: IdentityStore, name: str) -> None:
    confirmed(store, 1)
    path = (store.generation_dir(1) / name).resolve()
    for _ in damaged_forms(path):
        with pytest.raises(StateDamaged) as caught:
            store.current()
        assert caught.value.path == path
        assert str(path) in caught.value.text
        assert caught.value.next
    assert store.current() == make_identity(1)
    path.unlink()
    if name != "../../current.json":
        with pytest.raises(StateDamaged, match="missing"):
            store.current()


def test_a_missing_current_generation_is_confirmed_again(store: IdentityStore, state: Path) -> None:
    confirmed(store, 1, 2)
    (state / "current.json").unlink()
    assert (store.current(), store.pending()) == (None, make_identity(2))


def test_a_damaged_current_generation_file_is_reported_and_can_be_replaced(store: IdentityStore, state: Path) -> None:
    confirmed(store, 1)
    (state / "current.json").write_bytes(b"")
    uses: list[Callable[[], object]] = [store.current, store.pending]
    for use in uses:
        with pytest.raises(StateDamaged, match=r"current\.json") as caught:
            use()
        assert "Start the agent" in caught.value.next
    assert store.generations() == (1,)
    store.save_generation(make_identity(2))
    store.switch_to(1)
    assert (store.current(), store.pending()) == (make_identity(1), make_identity(2))


def test_a_damaged_current_generation_can_be_activated_over(store: IdentityStore) -> None:
    confirmed(store, 1)
    (store.generation_dir(1) / "node.priv").write_bytes(b"torn")
    store.save_generation(make_identity(2))
    store.switch_to(2)
    assert store.current() == make_identity(2)


def test_a_directory_under_another_number_is_noticed(store: IdentityStore) -> None:
    confirmed(store, 1)
    store.generation_dir(1).rename(store.generation_dir(7))
    with pytest.raises(StateDamaged, match="generation 1"):
        store.pending()
    with pytest.raises(StateDamaged, match="missing"):
        store.current()


def test_blobs_of_another_generation_are_noticed(store: IdentityStore) -> None:
    confirmed(store, 1, 2)
    (store.generation_dir(2) / "node.pub").write_bytes((store.generation_dir(1) / "node.pub").read_bytes())
    with pytest.raises(StateDamaged, match=r"node\.pub"):
        store.current()


@pytest.mark.parametrize("sound", [b"x" * 300_000, b'{"format":1}\n', b""])
def test_a_damaged_activation_is_reported(store: IdentityStore, state: Path, sound: bytes) -> None:
    store.save_activation(ACTIVATION)
    (state / "activation.json").write_bytes(sound)
    with pytest.raises(StateDamaged, match=r"activation\.json"):
        store.load_activation()


def test_every_changed_byte_of_an_activation_is_noticed(store: IdentityStore, state: Path) -> None:
    store.save_activation(ACTIVATION)
    for _ in damaged_forms(state / "activation.json"):
        with pytest.raises(StateDamaged):
            store.load_activation()


def test_a_full_disk_keeps_the_stored_files(store: IdentityStore) -> None:
    confirmed(store, 1)
    store.save_activation(ACTIVATION)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        uses: tuple[Callable[[], object], ...] = (
            lambda: store.save_generation(make_identity(2)),
            lambda: store.replace_device_chain(1, RENEWED),
            lambda: store.save_activation(msgspec.structs.replace(ACTIVATION, file_sha256="1" * 64)),
        )
        for use in uses:
            with pytest.raises(DiskFull):
                use()

    assert in_child(full) == 0
    assert (store.current(), store.pending()) == (make_identity(1), None)
    assert store.load_activation() == ACTIVATION


def outcome(store: IdentityStore) -> tuple[Identity | None, Identity | None, bool]:
    return store.current(), store.pending(), store.load_activation() is not None


ONE, TWO = make_identity(1), make_identity(2)
ONE_RENEWED = msgspec.structs.replace(ONE, chain=RENEWED)

STEPS: list[tuple[str, Callable[[IdentityStore], None], tuple[object, ...], tuple[object, ...]]] = [
    ("node.identity.save", lambda store: store.save_generation(TWO), (ONE, None, False), (ONE, TWO, False)),
    (
        "node.device.replace",
        lambda store: store.replace_device_chain(1, RENEWED),
        (ONE, None, False),
        (ONE_RENEWED, None, False),
    ),
    ("node.activation.save", lambda store: store.save_activation(ACTIVATION), (ONE, None, False), (ONE, None, True)),
]


@pytest.mark.parametrize(("point", "step", "old", "new"), STEPS, ids=[step[0] for step in STEPS])
def test_a_crash_leaves_old_or_new(
    store: IdentityStore,
    point: str,
    step: Callable[[IdentityStore], None],
    old: tuple[object, ...],
    new: tuple[object, ...],
) -> None:
    confirmed(store, 1)
    assert in_child(dying_at(point, "before", lambda: step(store))) == 9
    assert outcome(store) == old
    assert in_child(dying_at(point, "after", lambda: step(store))) == 9
    assert outcome(store) == new
    step(store)
    assert outcome(store) == new


def test_a_crash_at_the_switch_leaves_old_or_new(store: IdentityStore) -> None:
    confirmed(store, 1)
    store.save_generation(TWO)
    assert in_child(dying_at("node.identity.switch", "before", lambda: store.switch_to(2))) == 9
    assert outcome(store) == (ONE, TWO, False)
    assert in_child(dying_at("node.identity.switch", "after", lambda: store.switch_to(2))) == 9
    assert outcome(store) == (TWO, None, False)


def test_a_crash_at_forgetting_an_activation(store: IdentityStore) -> None:
    store.save_activation(ACTIVATION)
    assert in_child(dying_at("node.activation.clear", "before", store.clear_activation)) == 9
    assert store.load_activation() == ACTIVATION
    assert in_child(dying_at("node.activation.clear", "after", store.clear_activation)) == 9
    assert store.load_activation() is None
