"""The node's errors as the user sees them: exit code, code, text and next step."""

from collections.abc import Callable
from pathlib import Path

import pytest

from node import errors
from node.errors import (
    DiskFull,
    NodeError,
    StateBusy,
    StateDamaged,
    StateUnreadable,
    StateUnsafe,
    StateUnwritable,
    VerificationFailed,
)
from node.exits import Exit

PATH = Path("/var/lib/cascadia/current.json")


ERRORS: list[Callable[[], NodeError]] = [
    lambda: VerificationFailed("cannot verify it"),
    lambda: StateUnsafe(PATH, "is open"),
    lambda: StateBusy(PATH),
    lambda: StateDamaged(PATH, "torn"),
    lambda: StateUnreadable(PATH, "EIO"),
    lambda: StateUnwritable(PATH, "EROFS"),
    lambda: DiskFull(PATH),
    lambda: NodeError.of("cannot use the TPM", exit=Exit.TPM, code="tpm_absent"),
    lambda: NodeError.of("cannot use the TPM", exit=Exit.TPM, code="tpm_absent", next="Look."),
]


@pytest.mark.parametrize("make", ERRORS)
def test_errors_say_what_and_what_next(make: Callable[[], NodeError]) -> None:
    error = make()
    assert str(error) == error.text
    assert error.text.startswith("cannot ")
    assert error.code
    assert error.next
    assert isinstance(error.exit, Exit)


def test_codes_are_distinct() -> None:
    codes = [make().code for make in ERRORS[:-1]]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("error", "exit_code", "code", "text"),
    [
        (StateBusy(PATH), Exit.TRY_AGAIN, "state_busy", f"cannot lock {PATH}: another process owns this state"),
        (StateDamaged(PATH, "it is torn"), Exit.INTERNAL, "state_damaged", f"cannot trust {PATH}: it is torn"),
        (StateUnsafe(PATH, "is a link"), Exit.USAGE, "state_unsafe", f"cannot use {PATH}: it is a link"),
        (StateUnreadable(PATH, "no"), Exit.INTERNAL, "state_unreadable", f"cannot read {PATH}: no"),
        (StateUnwritable(PATH, "no"), Exit.INTERNAL, "state_unwritable", f"cannot write {PATH}: no"),
        (DiskFull(PATH), Exit.INTERNAL, "disk_full", f"cannot write {PATH}: no space is left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, NodeError) else None,
)
def test_the_texts_of_state_errors(error: errors.StateError, exit_code: Exit, code: str, text: str) -> None:
    assert (error.exit, error.code, error.text, str(error), error.path) == (exit_code, code, text, text, PATH)
    assert error.next.endswith((".", PATH.name))


def test_the_next_step_is_the_errors_or_its_exit_codes() -> None:
    class Odd(NodeError):
        exit = Exit.REFUSED
        code = "odd"

    assert Odd("cannot").next == Exit.REFUSED.next
    assert Odd("cannot", next_step="Do this.").next == "Do this."
    assert str(PATH.parent) in DiskFull(PATH).next
    assert "Wait until it has ended" in StateBusy(PATH).next


def test_an_error_of_another_tree_in_this_form() -> None:
    error = NodeError.of("cannot use the TPM", exit=Exit.TPM, code="tpm-failed", next="Look.")
    assert (error.exit, error.code, error.text, error.next) == (Exit.TPM, "tpm-failed", "cannot use the TPM", "Look.")
    assert NodeError.of("x", exit=Exit.TPM, code="y").next == Exit.TPM.next
    assert (NodeError.exit, NodeError.code) == (Exit.INTERNAL, "internal")
