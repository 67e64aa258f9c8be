"""Wiring: commands on Breakwater's host. Open the issuer's database and keys, run a command, and close both.

A running Breakwater sees within a second what a command has changed.
"""

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from cloud.breakwater.admin import Admin, opened, opened_stores
from cloud.breakwater.errors import AuthorityNotCurrent, IssuerError, PkilintMissing, Refused, SignerUnavailable
from cloud.breakwater.store import Stores
from cloud.cli.errors import EXIT_INTERNAL, EXIT_REFUSED, EXIT_TRY_AGAIN, EXIT_USAGE, CliError, schema_refused
from cloud.cli.options import Run
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError
from cloud.mtls.identity import IdentityError
from cloud.process.settings import SettingsError
from cloud.storage import DatabaseUnavailable, StorageError
from cloud.storage.errors import DatabaseBusy, DatabaseTooNew, DatabaseTooOld
from protocol.ids import ServiceName

SERVICES_HERE: tuple[ServiceName, ...] = ("breakwater", "fabric")
"""The services of an installation. Each has a folder with its name below the installation's directory."""

Command = Callable[[Admin, Namespace], Awaitable[int | None]]
"""Runs a command on the open issuer and returns its exit code; None means 0."""
ReadingCommand = Callable[[Stores, Namespace], Awaitable[int | None]]
"""Runs a command that needs the issuer's records and no key. Returns as `Command` does."""


def on_host(command: Command) -> Run:
    """Make a command that first opens the database and the keys of the issuer below `--dir`."""

    async def work(args: Namespace) -> int | None:
        async with opened(_settings(args), utc_now) as admin:
            return await command(admin, args)

    return _reported(work)


def on_records(command: ReadingCommand) -> Run:
    """Make a command that first opens the database of the issuer below `--dir`. It opens no key."""

    async def work(args: Namespace) -> int | None:
        async with opened_stores(_settings(args)) as stores:
            return await command(stores, args)

    return _reported(work)


def _settings(args: Namespace) -> Path:
    directory: Path = args.dir
    return directory / "breakwater" / "settings.toml"


def _reported(work: Callable[[Namespace], Coroutine[Any, Any, int | None]]) -> Run:
    """Make a command out of `work` that turns the issuer's errors into CliError."""

    def run(args: Namespace) -> int | None:
        try:
            return asyncio.run(work(args))
        except SettingsError as error:
            raise CliError(
                EXIT_USAGE,
                "settings_refused",
                str(error),
                "Check that --dir names an installation and that its settings file is right.",
            ) from error
        except Refused as error:
            text = f"cannot run the command: the issuer refused it: {error}"
            raise CliError(EXIT_REFUSED, "refused", text, "Nothing was changed.") from error
        except AuthorityNotCurrent as error:
            raise CliError(EXIT_INTERNAL, "ca_not_valid", str(error), error.next_step) from error
        except (DatabaseTooNew, DatabaseTooOld) as error:
            raise schema_refused(error) from error
        except (SignerUnavailable, DatabaseBusy, DatabaseUnavailable) as error:
            text = "Try again when the token or the database is available."
            raise CliError(EXIT_TRY_AGAIN, "unavailable", str(error), text) from error
        except PkilintMissing as error:
            text = "Install pkilint, or leave out --pkilint."
            raise CliError(EXIT_USAGE, "pkilint_missing", str(error), text) from error
        except BrokenPipeError:  # the reader of the output has gone; `cloud.cli.main` ends the command
            raise
        except (KeyFileError, IdentityError, IssuerError, StorageError, OSError) as error:
            raise CliError(EXIT_INTERNAL, "issuer_unusable", str(error)) from error

    return run
