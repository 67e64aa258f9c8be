"""`node.licensing.floor_store`: two copies, each replaced in one step, each verified on its own."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from node.disk.files import encode_state
from node.errors import StateError
from node.licensing.floor_store import FloorFile, FloorStore
from node.licensing.floors import Found
from tests.node.licensing.samples import HOLDER, OTHER_NODE, damaged_forms
from tests.node.licensing.test_floors import NEXT_KEY, NODE_KEY, at, record, sealed


@pytest.fixture
def store(tmp_path: Path) -> FloorStore:
    return FloorStore(tmp_path / "state")


def load(store: FloorStore) -> Found:
    return store.load(HOLDER, NODE_KEY.public_key())


def test_both_copies_are_written_and_read(store: FloorStore) -> None:
    assert load(store) == Found()
    assert store.write(sealed(record())) == {}
    assert load(store) == Found((record(), record()))
    assert {path.parent.name for path in store.paths} == {"licence", "identity"}
    assert {path.stat().st_mode & 0o777 for path in store.paths} == {0o600}


def test_one_copy_is_enough(store: FloorStore) -> None:
    store.write(sealed(record()))
    for path in store.paths:
        kept = path.read_bytes()
        path.write_bytes(kept[:-9])
        found = load(store)
        assert (found.records, len(found.damaged)) == ((record(),), 1)
        assert str(path) in found.damaged[0]
        path.unlink()
        assert load(store) == Found((record(),))
        path.write_bytes(kept)


def test_a_copy_of_another_node_or_key_is_damaged(store: FloorStore) -> None:
    store.write(sealed(record(node=OTHER_NODE)), store.paths[:1])
    store.write(sealed(record(), NEXT_KEY), store.paths[1:])
    found = load(store)
    assert (found.records, len(found.damaged)) == ((), 2)
    asked: list[bool] = []

    def others() -> list[ec.EllipticCurvePublicKey]:
        asked.append(True)
        return [NEXT_KEY.public_key()]

    assert store.load(HOLDER, NODE_KEY.public_key(), others).records == (record(),)
    asked.clear()
    store.write(sealed(record()))
    store.load(HOLDER, NODE_KEY.public_key(), others)
    assert asked == [], "the other keys are read only if need be"


def test_no_damaged_form_of_a_copy_is_used(store: FloorStore) -> None:
    path = store.paths[0]
    store.write(sealed(record()), store.paths[:1])
    for form in damaged_forms(path):
        found = load(store)
        assert (found.records, len(found.damaged)) == ((), 1), form


def test_a_copy_that_cannot_be_written_leaves_the_other_one(store: FloorStore) -> None:
    store.write(sealed(record()))
    blocked = store.paths[0].parent
    for path in blocked.iterdir():
        path.unlink()
    blocked.rmdir()
    blocked.write_bytes(b"")
    failed = store.write(sealed(record(9)))
    assert list(failed) == [store.paths[0]]
    assert isinstance(failed[store.paths[0]], StateError)
    found = load(store)
    assert found.best(at(9)) == record(9)


def test_a_crash_between_the_copies_leaves_the_newer_one_in_force(store: FloorStore) -> None:
    store.write(sealed(record(8)))
    store.write(sealed(record(9)), store.paths[:1])
    assert load(store).best(at(8)) == record(9)


def test_a_file_open_to_other_users_counts_because_it_is_signed(store: FloorStore) -> None:
    store.write(sealed(record()))
    for path in store.paths:
        path.chmod(0o666)
    assert load(store).records == (record(), record())


def test_the_file_has_the_token_alone(store: FloorStore) -> None:
    store.write(sealed(record()))
    data = store.paths[0].read_bytes()
    assert data.startswith(b'{"format":1,"token":"')
    token = data.split(b'"')[5].decode()
    assert encode_state(FloorFile(token=token)) == data
