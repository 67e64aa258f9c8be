"""Faults of the TPM: text, code, exit code and advice."""

import pytest

from node.exits import Exit
from node.hwbind import errors
from node.hwbind.errors import (
    Hierarchy,
    TctiRefused,
    TpmCleared,
    TpmError,
    TpmHierarchyDisabled,
    TpmHierarchyPassword,
    TpmNotOurs,
)

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
    assert len(set(codes)) == len(codes) == 18


def test_two_faults_are_no_fault_of_the_chip() -> None:
    assert {kind: kind.exit_code for kind in KINDS if kind.exit_code != Exit.TPM} == {
        TctiRefused: Exit.USAGE,
        TpmNotOurs: Exit.HARDWARE_MISMATCH,
        TpmCleared: Exit.HARDWARE_MISMATCH,
    }


@pytest.mark.parametrize("hierarchy", ["owner", "endorsement"])
def test_the_cure_of_a_hierarchy_names_the_hierarchy_and_not_the_group(hierarchy: Hierarchy) -> None:
    password, disabled = TpmHierarchyPassword("0x9a2", hierarchy), TpmHierarchyDisabled("0x185", hierarchy)
    assert str(password) == f"cannot use the TPM: the {hierarchy} hierarchy has a password: 0x9a2"
    assert f"`tpm_{hierarchy}_auth`" in password.advice
    assert f"LoadCredential=tpm-{hierarchy}-auth:" in password.advice
    assert str(disabled) == f"cannot use the TPM: the {hierarchy} hierarchy is disabled: 0x185"
    assert {"owner": "shEnable", "endorsement": "ehEnable"}[hierarchy] in disabled.advice
    assert "tss" not in password.advice + disabled.advice
