"""Fault points: the calls of a hook for a step that works, and for a step that fails."""

from collections.abc import Iterator

import pytest

from protocol import faults
from tests.fault_hooks import hooked


@pytest.fixture
def passed() -> Iterator[list[tuple[str, str]]]:
    """The arguments of each call of this test's hook."""
    seen: list[tuple[str, str]] = []
    with hooked(lambda name, stage: seen.append((name, stage))):
        yield seen


def test_a_hook_is_called_before_and_after_a_step(passed: list[tuple[str, str]]) -> None:
    with faults.fault_point("node.test.write"):
        assert passed == [("node.test.write", "before")]
    assert passed == [("node.test.write", "before"), ("node.test.write", "after")]


def test_a_step_that_raises_is_not_done(passed: list[tuple[str, str]]) -> None:
    with pytest.raises(OSError, match="full"), faults.fault_point("node.test.write"):
        raise OSError("full")
    assert passed == [("node.test.write", "before")]
