"""Commands: `cascade up` and `cascade serve`, which run services in the command's own process."""

import asyncio
import logging
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cloud.breakwater.errors import AuthorityNotCurrent, IssuerError
from cloud.cli.errors import EXIT_INTERNAL, EXIT_TRY_AGAIN, EXIT_USAGE, CliError, schema_refused
from cloud.cli.options import directory_option, json_option
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError
from cloud.mtls.identity import IdentityError
from cloud.process.logs import configure_logging
from cloud.process.serve import Served, Unit, serve
from cloud.process.settings import SettingsError
from cloud.storage import DatabaseUnavailable, StorageError
from cloud.storage.errors import DatabaseBusy, DatabaseTooNew, DatabaseTooOld
from cloud.tasks.periodic import every
from protocol.ids import ServiceName

log = logging.getLogger("cascade.run")

REPAIR_SECONDS = 30.0
"""Interval at which `cascade up` reads the dates of its services' certificates."""
REPAIR_OUTLIVES = (SettingsError, KeyFileError, IdentityError, IssuerError, StorageError)
"""Errors after which the next repair is tried."""


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
        "Runs all services in one process until SIGTERM or SIGINT. Replaces certificates of these services that have "
        "expired or begin in the future, before the start and while the services run. Logs one JSON object a line to "
        "stderr."
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
            EXIT_USAGE,
            "settings_refused",
            str(error),
            "Correct what the text names, and check that --dir names an installation. Then start the service again.",
        ) from error
    except AuthorityNotCurrent as error:
        raise CliError(EXIT_INTERNAL, "ca_not_valid", f"cannot start: {error}", error.next_step) from error
    except (DatabaseTooNew, DatabaseTooOld) as error:
        raise schema_refused(error) from error
    except (DatabaseBusy, DatabaseUnavailable) as error:
        text = "Start the service again when the database is available. `cascade config check` tests it."
        raise CliError(EXIT_TRY_AGAIN, "database_unavailable", f"cannot start: {error}", text) from error
    except (KeyFileError, IdentityError, IssuerError, StorageError) as error:
        text = "`cascade config check` shows all faults of the installation, each with the next step."
        raise CliError(EXIT_INTERNAL, "cannot_start", f"cannot start: {error}", text) from error


async def _run(directory: Path, names: list[ServiceName], ready: Callable[[], None] | None) -> int:
    everything = names == list(SERVICES)
    if everything:
        await _replace(directory, tuple(SERVICES))
    units = [SERVICES[name](directory) for name in names]
    return await serve([*units, _repair(directory)] if everything else units, ready=ready)


async def _replace(directory: Path, services: tuple[ServiceName, ...]) -> None:
    """Replace the certificates of `services` that are not valid now. Raises as `replace_unusable`."""
    from cloud.breakwater.bootstrap import replace_unusable

    tls = {name: directory / name / "tls" for name in services}
    replaced = await replace_unusable(directory / "breakwater" / "settings.toml", tls, utc_now)
    for name, fault in replaced.items():
        log.warning("replaced a certificate", extra={"service": name, "reason": f"the certificate {fault}"})


def _repair(directory: Path) -> Unit:
    """Return a unit without listeners that replaces certificates while the services run.

    A certificate becomes unusable if the machine slept past its end, or if the clock was set back after a renewal.
    Breakwater renews its own certificate without a connection, so it is left out. The other services load theirs again
    (`cloud/mtls/renewal.py`).
    """
    others = tuple(name for name in SERVICES if name != "breakwater")

    async def replace() -> None:
        await _replace(directory, others)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Served]:
        yield Served((), (every(REPAIR_SECONDS, "certificates", replace, REPAIR_OUTLIVES),))

    return Unit(name="repair", open=opened)
