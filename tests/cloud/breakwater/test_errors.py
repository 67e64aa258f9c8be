"""`cloud.breakwater.errors`: the tree in the docstring equals the tree of the classes."""

import re
from datetime import timedelta

import pytest

from cloud.breakwater import errors


def drawn() -> dict[str, str]:
    """The tree in the docstring, as a mapping from name to parent."""
    found, line_of = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        line_of[depth] = match[2]
        found[match[2]] = line_of.get(depth - 1, "Exception")
    return found


def test_the_drawn_tree_is_the_real_one() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert drawn() == {each.__name__: each.__base__.__name__ for each in classes if each.__base__ is not None}


@pytest.mark.parametrize("error", [errors.TriedTooOften, errors.RenewedTooOften])
def test_a_wait_says_how_long(error: type[errors.TriedTooOften | errors.RenewedTooOften]) -> None:
    assert error(timedelta(minutes=5)).wait == timedelta(minutes=5)


def test_a_broken_rule_has_a_name() -> None:
    error = errors.LintError("serial", "too short")
    assert (error.rule, error.detail, str(error)) == ("serial", "too short", "serial: too short")
