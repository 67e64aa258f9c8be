"""The exit codes: stable numbers, each with a text and, unless it is success, a next step."""

import pytest

from node.exits import RUN_EXITS, Exit, run_exit


def test_exit_codes_are_the_designs() -> None:
    assert [int(code) for code in Exit] == [0, 2, 3, 65, 69, 70, 75, 77, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89]
    assert all(code.text and (code.next or code is Exit.OK) for code in Exit)
    assert {int(code) for code in RUN_EXITS} == {0, 2, 70, 75, 80, 81, 87}
    assert run_exit(Exit.REVOKED) is Exit.REVOKED
    assert run_exit(Exit.TRY_AGAIN) is Exit.TRY_AGAIN


@pytest.mark.parametrize("member", Exit)
def test_each_says_what_and_what_next(member: Exit) -> None:
    assert member.text
    assert not member.text.endswith(".")
    assert member.next.endswith(".") or member is Exit.OK


@pytest.mark.parametrize("member", Exit)
def test_run_ends_with_the_numbers_that_units_match_on(member: Exit) -> None:
    assert run_exit(member) == (member if member in RUN_EXITS else Exit.INTERNAL)
