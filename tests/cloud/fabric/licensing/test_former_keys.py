"""`cloud.fabric.licensing.former_keys`: a key that a rekey replaced is known when it comes back."""

from datetime import UTC, datetime

import pytest

from cloud.fabric.licensing.former_keys import KEPT_MAX, FormerKey, find, known, replaced, returning
from protocol.encoding import sha256_hex

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
A, B, C = (FormerKey(sha256_hex(key), NOW) for key in (b"a", b"b", b"c"))


def test_a_replaced_key_is_kept_once_and_the_key_in_force_is_none() -> None:
    former = replaced((), b"a", b"b", NOW, displaced=False)
    assert former == (A,)
    former = replaced(former, b"b", b"a", NOW, displaced=True)
    assert former == (FormerKey(B.key, NOW, displaced=True),)
    assert replaced(former, b"a", b"c", NOW, displaced=False) == (*former, A)


def test_the_oldest_keys_are_dropped() -> None:
    former: tuple[FormerKey, ...] = ()
    for number in range(KEPT_MAX + 3):
        former = replaced(former, b"%d" % number, b"%d" % (number + 1), NOW, displaced=False)
    assert len(former) == KEPT_MAX
    assert find(former, sha256_hex(b"2")) is None
    assert find(former, sha256_hex(b"3")) == former[0]


@pytest.mark.parametrize(
    ("proved", "held", "expected"),
    [
        ("current", "current", None),
        ("current", A.key, None),
        ("new", "current", None),
        ("new", "", None),
        (A.key, A.key, A),
        (A.key, "current", A),
        ("new", B.key, B),
        (A.key, B.key, A),
    ],
)
def test_which_former_key_comes_back(proved: str, held: str, expected: FormerKey | None) -> None:
    assert returning((A, B), "current", proved, held) == expected


def test_a_key_of_the_generation() -> None:
    assert known((A,), b"b", b"a") == A.key
    assert known((A,), b"b", b"b") == B.key
    assert known((A,), b"b", b"c") == ""
