"""Faults of the TPM: text, code, exit code and advice."""

import pytest

from node.exits import Exit
from node.hwbind import errors
from node.hwbind.errors import TctiRefused, TpmError, TpmNotOurs

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TpmError)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_says_what_was_seen_and_what_to_do(kind: type[TpmError]) -> None:
    error = kind("0x101")
    assert str(error) == f"{kind.summary}: 0x101"
    assert error.detail == "0x101"
    assert error.summary.startswith("cannot ")
    assert error.advice
    assert error.exit_code in list(Exit)


def test_codes_are_distinct() -> None:
    codes = [kind.code for kind in KINDS if kind is not TpmError]
    assert len(set(codes)) == len(codes) == 9


def test_two_faults_are_no_fault_of_the_chip() -> None:
    assert {kind: kind.exit_code for kind in KINDS if kind.exit_code != Exit.TPM} == {
        TctiRefused: Exit.USAGE,
        TpmNotOurs: Exit.HARDWARE_MISMATCH,
    }
