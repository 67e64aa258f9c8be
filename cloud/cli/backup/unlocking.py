"""What the commands of backups share: the options for keys, and the errors as exit codes."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud.backup.age import AgeError, KeyTextError, identities_in
from cloud.backup.errors import BackupRefused
from cloud.backup.reading import Unlock
from cloud.cli.errors import EXIT_INTERNAL, EXIT_REFUSED, EXIT_TRY_AGAIN, EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.crypto.keyfile import KeyFileError, read_passphrase, read_secret
from cloud.process.settings import SettingsError
from cloud.storage import DatabaseUnavailable, IntegrityError, StorageError
from cloud.storage.errors import DatabaseBusy, DatabaseInUse
from protocol.messages.activation import PinError, TrustPin, parse_pin

EXITS = {
    "backup_damaged": EXIT_VERIFICATION,
    "backup_key_wrong": EXIT_VERIFICATION,
    "backup_of_another_installation": EXIT_VERIFICATION,
    "backup_not_sealed": EXIT_VERIFICATION,
    "backup_invalid": EXIT_USAGE,
    "backup_key_missing": EXIT_USAGE,
    "target_in_use": EXIT_USAGE,
    "key_missing": EXIT_INTERNAL,
}
"""The exit codes of `BackupRefused` by its code. Every other code has `EXIT_REFUSED`."""


def file_argument(parser: ArgumentParser) -> None:
    """Add FILE, the backup."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup")


def unlock_options(parser: ArgumentParser) -> None:
    """Add the options that decrypt a backup."""
    parser.add_argument(
        "--identity", type=Path, metavar="KEYFILE", help="file with the identity of a recipient (AGE-SECRET-KEY-1...)"
    )
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="file with the passphrase that the backup was made with"
    )


def trust_options(parser: ArgumentParser) -> None:
    """Add the options that prove which installation a backup is of."""
    parser.add_argument(
        "--trust", metavar="PIN", help="trust pin of the installation, VERSION:SHA256 (default: CASCADE_TRUST)"
    )
    parser.add_argument(
        "--key-passphrase-file",
        type=Path,
        metavar="FILE",
        help="file with the passphrase of the installation's key files (secrets/passphrase of `cascade init`)",
    )


def read_unlock(args: Namespace) -> Unlock:
    """Return what the options give to decrypt a backup. Raises CliError."""
    if (args.identity is None) == (args.passphrase_file is None):
        raise CliError(
            EXIT_USAGE,
            "backup_key_missing",
            "cannot decrypt the backup: give either --identity or --passphrase-file",
            "Use --identity for a backup with --recipient, and --passphrase-file for one with --passphrase-file.",
        )
    if args.passphrase_file is not None:
        return Unlock(passphrase=read_text(args.passphrase_file))
    try:
        return Unlock(identities=identities_in(read_secret(args.identity).decode()))
    except (KeyFileError, UnicodeDecodeError, KeyTextError) as error:
        raise CliError(
            EXIT_USAGE,
            "identity_invalid",
            f"cannot use the identity in {args.identity}: {error}",
            "Name a file of `cascade backup key` or `age-keygen`, with the mode 0600.",
        ) from error


def read_text(path: Path) -> str:
    """Return the passphrase in a file. Raises CliError."""
    try:
        return read_passphrase(path).decode()
    except (KeyFileError, UnicodeDecodeError) as error:
        raise CliError(
            EXIT_USAGE, "passphrase_invalid", f"cannot read the passphrase: {error}", "Name another file."
        ) from error


def read_pin(args: Namespace) -> TrustPin | None:
    """Return the trust pin of the options or the environment, or None. Raises CliError."""
    text = args.trust or os.environ.get("CASCADE_TRUST", "")
    if not text:
        return None
    try:
        return parse_pin(text)
    except PinError as error:
        raise CliError(
            EXIT_USAGE, "trust_invalid", f"cannot use the trust pin: {error}", "Give the pin of `cascade init`."
        ) from error


@contextmanager
def reported(what: str, consequence: str) -> Iterator[None]:
    """Turn the errors of a backup into CliError. `what` names the work, `consequence` says what a failure leaves."""
    try:
        yield
    except BackupRefused as error:
        exit_code = EXITS.get(error.code, EXIT_REFUSED)
        raise CliError(exit_code, error.code, str(error), error.next_step) from error
    except SettingsError as error:
        text = "Check that --dir names an installation."
        raise CliError(EXIT_USAGE, "settings_refused", str(error), text) from error
    except DatabaseInUse as error:
        text = "Name an empty database. Nothing was changed."
        raise CliError(EXIT_USAGE, "database_in_use", str(error), text) from error
    except KeyTextError as error:
        text = "Give a recipient of `cascade backup key` or `age-keygen`."
        raise CliError(EXIT_USAGE, "recipient_invalid", f"cannot {what}: {error}", text) from error
    except (DatabaseBusy, DatabaseUnavailable) as error:
        text = f"Repeat the command when the database is available. {consequence}"
        raise CliError(EXIT_TRY_AGAIN, "database_unavailable", f"cannot {what}: {error}", text) from error
    except BrokenPipeError:  # the reader of the output has gone; `cloud.cli.main` ends the command
        raise
    except (KeyFileError, StorageError, IntegrityError, AgeError, OSError) as error:
        raise CliError(EXIT_INTERNAL, "backup_failed", f"cannot {what}: {error}", consequence) from error
