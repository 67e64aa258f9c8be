"""Errors of `cascade`.

CliError             a command failed: exit code, stable code, text, next step
TrustError           the published trust cannot be used; `cloud.cli.connection` turns it into a CliError
  TrustUnreachable   the repository gave no usable answer
"""

EXIT_USAGE = 2
EXIT_VERIFICATION = 65
EXIT_UNREACHABLE = 69
EXIT_INTERNAL = 70
EXIT_TRY_AGAIN = 75
EXIT_REFUSED = 77


class CliError(Exception):
    """A command failed. `cloud.cli.main` prints the text and the next step, and exits with `exit_code`.

    `code` is stable and for programs. `text` begins with "cannot". `next_step` is a whole sentence, or empty.
    """

    def __init__(self, exit_code: int, code: str, text: str, next_step: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.code = code
        self.text = text
        self.next_step = next_step


class TrustError(Exception):
    """The repository's content does not verify under the pin, cannot be used, or cannot be stored."""


class TrustUnreachable(TrustError):
    """The repository gave no usable answer, and there is no recent verified copy."""
