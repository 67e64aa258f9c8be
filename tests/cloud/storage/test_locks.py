"""The keys of a transaction: which inner block may join which outer block."""

import pytest

from cloud.storage.locks import WHOLE, Locks


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (WHOLE, WHOLE, True),
        (WHOLE, Locks(("a",), ("b",)), True),
        (Locks(("a",)), WHOLE, False),
        (Locks(("a", "b")), Locks(("b",)), True),
        (Locks(("a",)), Locks(("a", "b")), False),
        (Locks(("a",)), Locks((), ("a",)), True),
        (Locks(("a",), ("t",)), Locks(("a",), ("t",)), True),
        (Locks((), ("t",)), Locks(("t",)), False),
        (Locks((), ("t",)), WHOLE, False),
        (Locks(("a",)), Locks(("a",), ("t",)), False),
    ],
)
def test_an_inner_block_needs_no_more_than_the_outer_holds(outer: Locks, inner: Locks, covered: bool) -> None:
    assert outer.cover(inner) is covered


def test_the_text_names_the_shared_keys() -> None:
    assert str(Locks(("node:n",), ("tenant:t",))) == "node:n, tenant:t (shared)"
    assert str(WHOLE) == "all data"
