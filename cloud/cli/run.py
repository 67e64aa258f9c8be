"""`cascade up` and `cascade serve`: which services this process runs. Each has its own listener and its own database."""

import asyncio
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from cloud.breakwater.errors import IssuerError
from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError
from cloud.mtls.identity import IdentityError
from cloud.process.logs import configure_logging
from cloud.process.serve import Unit, serve
from cloud.process.settings import SettingsError
from cloud.storage import StorageError
from protocol.ids import ServiceName

log = logging.getLogger("cascade.run")


def _breakwater(directory: Path) -> Unit:
    from cloud.breakwater.app import breakwater_unit

    return breakwater_unit(directory / "breakwater" / "settings.toml")


def _fabric(directory: Path) -> Unit:
    from cloud.fabric.app import fabric_unit

    return fabric_unit(directory / "fabric" / "settings.toml")


SERVICES: dict[ServiceName, Callable[[Path], Unit]] = {"breakwater": _breakwater, "fabric": _fabric}
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
    except (KeyFileError, IdentityError, IssuerError, StorageError) as error:
        raise CliError(EXIT_INTERNAL, "cannot_start", str(error)) from error


async def _run(directory: Path, names: list[ServiceName], ready: Callable[[], None] | None) -> int:
    if names == list(SERVICES):
        from cloud.breakwater.bootstrap import replace_expired

        tls = {name: directory / name / "tls" for name in SERVICES}
        for name in await replace_expired(directory / "breakwater" / "settings.toml", tls, utc_now):
            log.warning("replaced an expired certificate", extra={"service": name})
    return await serve([SERVICES[name](directory) for name in names], ready=ready)
