"""Fault points: what a hook sees of a step that works, and of one that fails."""

import pytest

from protocol import faults


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What a hook of this test is called with; no hook is left behind."""
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(faults, "_hooks", [])
    faults.install(lambda name, stage: seen.append((name, stage)))
    return seen


def test_a_hook_is_called_before_and_after_a_step(passed: list[tuple[str, str]]) -> None:
    with faults.fault_point("node.test.write"):
        assert passed == [("node.test.write", "before")]
    assert passed == [("node.test.write", "before"), ("node.test.write", "after")]


def test_a_step_that_raises_is_not_done(passed: list[tuple[str, str]]) -> None:
    with pytest.raises(OSError, match="full"), faults.fault_point("node.test.write"):
        raise OSError("full")
    assert passed == [("node.test.write", "before")]
