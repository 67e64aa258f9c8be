"""Commands: `cascade up` and `cascade serve`, which run services in the command's own process."""

import asyncio
import logging
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from cloud.breakwater.errors import IssuerError
from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.cli.options import directory_option, json_option
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
"""The services in the order of their start. Breakwater starts first because the other services call it."""


def add_up_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Runs all services in one process until SIGTERM or SIGINT. First replaces certificates of these services that "
        "have expired. Logs one JSON object a line to stderr."
    )
    json_option(parser)
    directory_option(parser)
    parser.set_defaults(run=lambda args: run(args.dir, list(SERVICES)))


def add_serve_options(parser: ArgumentParser) -> None:
    parser.description = "Runs one service until SIGTERM or SIGINT. Logs one JSON object a line to stderr."
    json_option(parser)
    parser.add_argument("service", choices=["fabric", "breakwater"], metavar="SERVICE", help="fabric or breakwater")
    directory_option(parser)
    parser.set_defaults(run=lambda args: run(args.dir, [args.service]))


def run(directory: Path, names: list[ServiceName], ready: Callable[[], None] | None = None) -> int:
    """Run services until a signal stops them, and return the exit code.

    `directory` is that of the installation. `ready` is called once all services accept connections. Raises CliError
    when a service cannot start.
    """
    configure_logging()
    try:
        return asyncio.run(_run(directory, names, ready))
    except SettingsError as error:
        raise CliError(
            EXIT_USAGE, "settings_refused", str(error), "Correct the settings file, then start the service again."
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
