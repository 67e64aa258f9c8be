"""Commands on the issuer's host: they open the issuer's database and keys, do their work and close them.

A running issuer sees within a second what a command has changed.
"""

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from cloud.breakwater.admin import Admin, opened, opened_stores
from cloud.breakwater.errors import IssuerError, PkilintMissing, Refused, SignerUnavailable
from cloud.breakwater.store import Stores
from cloud.cli.errors import EXIT_INTERNAL, EXIT_REFUSED, EXIT_TRY_AGAIN, EXIT_USAGE, CliError
from cloud.cli.options import Run
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError
from cloud.mtls.identity import IdentityError
from cloud.process.settings import SettingsError
from cloud.storage import DatabaseUnavailable, StorageError
from cloud.storage.errors import DatabaseBusy
from protocol.ids import ServiceName

SERVICES_HERE: tuple[ServiceName, ...] = ("breakwater", "fabric")
"""The services of an installation, each with a folder of its name."""

Command = Callable[[Admin, Namespace], Awaitable[int | None]]
"""What a command does on the open issuer; the exit code, None for 0."""
ReadingCommand = Callable[[Stores, Namespace], Awaitable[int | None]]


def on_host(command: Command) -> Run:
    """A command that opens the issuer below `--dir` first, its database and its keys."""

    async def work(args: Namespace) -> int | None:
        async with opened(_settings(args), utc_now) as admin:
            return await command(admin, args)

    return _reported(work)


def on_records(command: ReadingCommand) -> Run:
    """A command that opens the database of the issuer below `--dir` first, and no key."""

    async def work(args: Namespace) -> int | None:
        async with opened_stores(_settings(args)) as stores:
            return await command(stores, args)

    return _reported(work)


def _settings(args: Namespace) -> Path:
    directory: Path = args.dir
    return directory / "breakwater" / "settings.toml"


def _reported(work: Callable[[Namespace], Coroutine[Any, Any, int | None]]) -> Run:
    """What the issuer raises becomes a CliError."""

    def run(args: Namespace) -> int | None:
        if args.dir is None:
            raise CliError(
                EXIT_USAGE, "directory_missing", "cannot find the issuer: --dir is missing", "Name its directory."
            )
        try:
            return asyncio.run(work(args))
        except SettingsError as error:
            raise CliError(EXIT_USAGE, "settings_refused", str(error), "Name the installation with --dir.") from error
        except Refused as error:
            raise CliError(EXIT_REFUSED, "refused", f"refused: {error}", "Nothing was changed.") from error
        except (SignerUnavailable, DatabaseBusy, DatabaseUnavailable) as error:
            raise CliError(EXIT_TRY_AGAIN, "unavailable", str(error), "Try again when it is back.") from error
        except PkilintMissing as error:
            raise CliError(EXIT_USAGE, "pkilint_missing", str(error), "Leave out --pkilint, or install it.") from error
        except (KeyFileError, IdentityError, IssuerError, StorageError, OSError) as error:
            raise CliError(EXIT_INTERNAL, "issuer_unusable", str(error)) from error

    return run
