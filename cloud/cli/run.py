"""`cascade up` and `cascade serve`: which services this process runs. Each has its own listener and its own database."""

import asyncio
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.keyfile import KeyFileError
from cloud.server import Unit, configure_logging, serve
from cloud.service_identity import IdentityError
from cloud.settings import SettingsError
from cloud.storage import StorageError


def _breakwater(directory: Path) -> Unit:
    from cloud.breakwater.app import breakwater_unit

    return breakwater_unit(directory / "breakwater" / "settings.toml")


def _fabric(directory: Path) -> Unit:
    from cloud.fabric.app import fabric_unit

    return fabric_unit(directory / "fabric" / "settings.toml")


SERVICES: dict[str, Callable[[Path], Unit]] = {"breakwater": _breakwater, "fabric": _fabric}
"""In the order of their start: the issuer first, since the others ask it."""


def run(args: Namespace, ready: Callable[[], None] | None = None) -> int:
    """Run until told to stop; the exit status. Raises CliError when it cannot start."""
    names = list(SERVICES) if args.command == "up" else [args.service]
    configure_logging()
    try:
        return asyncio.run(_run(args.dir, names, ready))
    except SettingsError as error:
        raise CliError(
            EXIT_USAGE, "settings_refused", str(error), "Correct the settings file and start again."
        ) from error
    except (KeyFileError, IdentityError, StorageError) as error:
        raise CliError(EXIT_INTERNAL, "cannot_start", str(error)) from error


async def _run(directory: Path, names: list[str], ready: Callable[[], None] | None) -> int:
    return await serve([SERVICES[name](directory) for name in names], ready=ready)
