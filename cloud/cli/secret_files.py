"""Store of the files that commands write secrets to."""

from pathlib import Path

from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.crypto.keyfile import KeyFileError, write_secret


def refuse_existing(path: Path) -> None:
    """Check that `path` can be written, before the secret is made: afterwards it would be lost. Raises CliError."""
    if path.exists() or not path.parent.is_dir():
        raise CliError(
            EXIT_USAGE,
            "file_in_the_way",
            f"cannot write {path}: it exists, or its directory does not",
            "Name another file.",
        )


def write_secret_file(path: Path, content: bytes, consequence: str) -> None:
    """Write a secret with mode 0600; `consequence` says what to do if that fails. Raises CliError."""
    try:
        write_secret(path, content)
    except KeyFileError as error:
        raise CliError(EXIT_INTERNAL, "file_not_written", str(error), consequence) from error
