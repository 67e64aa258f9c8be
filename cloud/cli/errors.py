"""What `cascade` can fail with: an exit code of the design, a stable code, a text, and what to do next."""

EXIT_USAGE = 2
EXIT_VERIFICATION = 65
EXIT_UNREACHABLE = 69
EXIT_INTERNAL = 70
EXIT_TRY_AGAIN = 75
EXIT_REFUSED = 77


class CliError(Exception):
    """Told to the person and turned into the exit code."""

    def __init__(self, exit_code: int, code: str, text: str, next_step: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.code = code
        self.text = text
        self.next_step = next_step
