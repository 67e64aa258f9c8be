"""Errors of `cascade`.

CliError             a command failed: an exit code of the design, a stable code, a text, what to do next
TrustError           the published trust cannot be used; `cloud.cli.connection` makes a CliError of it
  TrustUnreachable   the repository gave no answer
"""

EXIT_USAGE = 2
EXIT_VERIFICATION = 65
EXIT_UNREACHABLE = 69
EXIT_INTERNAL = 70
EXIT_TRY_AGAIN = 75
EXIT_REFUSED = 77


class CliError(Exception):
    """A command failed. `cloud.cli.main` prints the texts and exits with the code."""

    def __init__(self, exit_code: int, code: str, text: str, next_step: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.code = code
        self.text = text
        self.next_step = next_step


class TrustError(Exception):
    """What the repository serves does not verify under the pin, or cannot be stored."""


class TrustUnreachable(TrustError):
    """The repository gave no usable answer, and there is no recent copy."""
