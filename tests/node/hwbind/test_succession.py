"""`node.hwbind.succession`: which other key may have signed for the same node."""

import msgspec
import pytest

from node.hwbind import keys
from node.hwbind.succession import Succession, other_key, record_succession


@pytest.fixture(scope="module")
def both() -> tuple[keys.WrappedKey, keys.WrappedKey]:
    """Software keys. The rules are the same for keys in a TPM; `tests/node/test_state.py` has those."""
    return keys.create_software_key(), keys.create_software_key()


@pytest.fixture(scope="module")
def succession(both: tuple[keys.WrappedKey, keys.WrappedKey]) -> Succession:
    former, new = both
    return record_succession(None, former, new)  # a software key needs no TPM


def test_each_key_names_the_other_one(both: tuple[keys.WrappedKey, keys.WrappedKey], succession: Succession) -> None:
    former, new = both
    assert other_key(succession, former) == new.public_key()
    assert other_key(succession, new) == former.public_key()


def test_a_key_beside_the_succession_names_none(succession: Succession) -> None:
    assert other_key(succession, keys.create_software_key()) is None


@pytest.mark.parametrize("changed", ["new", "by_former", "by_new", "swapped"])
def test_the_key_of_the_identity_must_have_signed(
    both: tuple[keys.WrappedKey, keys.WrappedKey], succession: Succession, changed: str
) -> None:
    """An author of a file has a key of his own. The node's key has not signed that it belongs to the node."""
    stranger = keys.create_software_key()
    own = record_succession(None, stranger, stranger)
    match changed:
        case "new":
            forged = msgspec.structs.replace(succession, new=stranger.public)
        case "by_former":
            forged = msgspec.structs.replace(succession, new=stranger.public, by_former=own.by_former)
        case "by_new":
            forged = msgspec.structs.replace(succession, former=stranger.public, by_new=own.by_new)
        case _:
            forged = msgspec.structs.replace(succession, by_former=succession.by_new, by_new=succession.by_former)
    named = [other_key(forged, key) for key in both]
    assert stranger.public_key() not in named
    assert changed != "swapped" or named == [None, None]
