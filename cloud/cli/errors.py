"""Errors of `cascade`.

CliError             a command failed: exit code, stable code, text, next step
TrustError           the published trust cannot be used; `cloud.cli.connection` turns it into a CliError
  TrustUnreachable   the repository gave no usable answer
"""

EXIT_USAGE = 2
"""The command line, a file or a value that it names cannot be used."""
EXIT_VERIFICATION = 65
"""Trust, a server, a signature or a certificate does not verify."""
EXIT_UNREACHABLE = 69
"""The cloud gave no usable answer."""
EXIT_INTERNAL = 70
"""A bug, or a fault of this machine such as a full disk."""
EXIT_TRY_AGAIN = 75
"""The same command may succeed later."""
EXIT_REFUSED = 77
"""The command was refused. It will be refused again until the cause has changed."""


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


def schema_refused(error: Exception) -> CliError:
    """Return the error of a command that found a database of a version of the schema that it cannot use.

    The exit code is that of wrong usage, so that systemd does not start the service again and again.
    """
    return CliError(
        EXIT_USAGE,
        "schema_refused",
        str(error),
        "docs/upgrade.md says how to go back to an earlier version. Nothing was changed.",
    )


class TrustError(Exception):
    """The repository's content does not verify under the pin, cannot be used, or cannot be stored."""


class TrustUnreachable(TrustError):
    """The repository gave no usable answer, and there is no recent verified copy."""
