"""Errors of the command line: their fields and their class tree."""

from cloud.cli.errors import EXIT_REFUSED, CliError, TrustError, TrustUnreachable


def test_an_error_has_a_code_a_text_and_a_next_step() -> None:
    error = CliError(EXIT_REFUSED, "still_needed", "refused: in use", "Wait.")
    assert (error.exit_code, error.code, error.text, error.next_step) == (
        77,
        "still_needed",
        "refused: in use",
        "Wait.",
    )
    assert str(error) == "refused: in use"
    assert CliError(EXIT_REFUSED, "refused", "no").next_step == ""


def test_a_repository_without_an_answer_is_a_trust_error() -> None:
    assert issubclass(TrustUnreachable, TrustError)
    assert not issubclass(TrustError, CliError)
