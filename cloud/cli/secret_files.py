"""Store: the files to which commands write secrets."""

from pathlib import Path

from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.crypto.keyfile import KeyFileError, write_secret


def refuse_existing(path: Path) -> None:
    """Check that `path` is free and that its folder exists. Raises CliError (`file_in_the_way`).

    Commands call this before they make a secret. A secret that cannot be written would be lost.
    """
    cause = "the file exists already" if path.exists() else "" if path.parent.is_dir() else "its directory is missing"
    if cause:
        raise CliError(EXIT_USAGE, "file_in_the_way", f"cannot write {path}: {cause}", "Name another file.")


def write_secret_file(path: Path, content: bytes, consequence: str) -> None:
    """Write a secret to a new file of mode 0600.

    `consequence` is the next step to print if the write fails. Raises CliError (`file_not_written`).
    """
    try:
        write_secret(path, content)
    except KeyFileError as error:
        raise CliError(EXIT_INTERNAL, "file_not_written", str(error), consequence) from error
