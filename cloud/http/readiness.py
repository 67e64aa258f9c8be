"""Use case: ask each dependency of a service whether it can be used, and name those that fail.

Strangers learn from `/readyz` of an API only whether the service is ready. `/readyz` of the listener with the purpose
"metrics" names each failing dependency with code, cause and next step. That listener is for the operator's monitoring.
Each change is logged with the same values.

The database is read at each call, and written every `WRITE_SECONDS`: reads work on a full disk.
"""

import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from cloud.http.admission import PROBES
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import operation_options
from cloud.http.problems import Refusal
from cloud.storage.errors import DatabaseBusy, DatabaseNotWritable, DiskFull, StorageError

log = logging.getLogger("cascade.readiness")

WRITE_SECONDS = 5.0
"""Seconds between two writes of the probe of the database, however often readiness is asked for."""


class Fault(msgspec.Struct, frozen=True):
    """A dependency that fails."""

    dependency: str
    """Name of the dependency: `database`, `certificate`, `breakwater`, `trust`, `ca`, `crl`, `root_crl`,
    `ocsp` or `restore`."""
    code: str
    """Code of the failure, for programs."""
    cause: str
    """Cause, for people."""
    next: str
    """Next step, for people."""
    needed: bool = True
    """Whether the service cannot serve without the dependency. A service that is only degraded is ready."""
    failing: bool = True
    """Whether the dependency fails now. If not, it will fail unless an operator takes the next step."""


class ReadinessReport(msgspec.Struct, frozen=True):
    """State of a service and of its dependencies."""

    status: str
    """`ready`, `degraded` (ready, but a dependency fails) or `unready`."""
    faults: tuple[Fault, ...] = ()
    """Dependencies that fail."""
    warnings: tuple[Fault, ...] = ()
    """Dependencies that can be used, and will fail unless an operator acts. They do not change the status."""


Probe = Callable[[], Awaitable[tuple[Fault, ...]]]
"""Asks one dependency. Returns no fault if the dependency can be used."""


class Readiness:
    """The readiness of one service. Wiring adds probes."""

    def __init__(self, *probes: Probe) -> None:
        self._probes = list(probes)
        self._logged: tuple[str, ...] = ()

    def add(self, *probes: Probe) -> None:
        """Add probes of further dependencies."""
        self._probes.extend(probes)

    async def report(self) -> ReadinessReport:
        """Ask every probe. A change since the last call is logged."""
        found = [fault for probe in self._probes for fault in await probe()]
        faults = tuple(fault for fault in found if fault.failing)
        status = "ready" if not faults else "degraded"
        if any(fault.needed for fault in faults):
            status = "unready"
        codes = tuple(fault.code for fault in faults)
        if codes != self._logged:
            self._logged = codes
            for fault in faults:
                log.warning("a dependency fails", extra={"fault": msgspec.to_builtins(fault), "status": status})
            if not faults:
                log.info("every dependency can be used again")
        return ReadinessReport(status, faults, tuple(fault for fault in found if not fault.failing))

    async def require(self) -> None:
        """Raise Refusal (`unavailable`) if a needed dependency fails. The text does not say which."""
        if (await self.report()).status == "unready":
            raise Refusal("unavailable", "this service is not ready", headers={"Retry-After": "5"})


class DatabaseProbe:
    """Probe of a database. `read` makes a small query, `write` changes a small row. Both raise StorageError."""

    def __init__(
        self,
        read: Callable[[], Awaitable[object]],
        write: Callable[[], Awaitable[object]],
        clock: Callable[[], float] = time.monotonic,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self._read = read
        self._write = write
        self._clock = clock
        self._write_seconds = write_seconds
        self._due: float | None = None
        self._written: tuple[Fault, ...] = ()

    async def __call__(self) -> tuple[Fault, ...]:
        """Read, and write if the last write is `write_seconds` old. Otherwise the result of the last write counts."""
        try:
            await self._read()
        except StorageError as error:
            return (database_fault(error),)
        at = self._clock()
        if self._due is None or at >= self._due:
            self._due = at + self._write_seconds
            try:
                await self._write()
                self._written = ()
            except StorageError as error:
                self._written = (database_fault(error),)
        return self._written


def database_fault(error: StorageError) -> Fault:
    """Return the fault that an error of the database shows."""
    if isinstance(error, DiskFull):
        return Fault("database", "disk_full", str(error), "Free space on the disk of the database.")
    if isinstance(error, DatabaseNotWritable):
        return Fault(
            "database",
            "database_not_writable",
            str(error),
            "Check the disk and the permissions of the database, and whether its server is read-only.",
        )
    if isinstance(error, DatabaseBusy):
        return Fault("database", "database_busy", str(error), "Look for a process that holds the database.")
    return Fault(
        "database", "database_unavailable", str(error), "Check that the database's server runs and can be reached."
    )


def certificate_probe(outside: Callable[[], str]) -> Probe:
    """Return the probe of a service's own certificate. `outside` returns why it is not valid now, or an empty text."""

    async def probe() -> tuple[Fault, ...]:
        why = outside()
        if not why:
            return ()
        return (
            Fault(
                "certificate",
                "certificate_not_valid",
                f"the certificate of this service {why}",
                "Check the clock of this machine. Then `cascade up` replaces the certificate, and so does "
                "`cascade pki renew` on the issuer's host.",
            ),
        )

    return probe


def trouble_probe(
    dependency: str, code: str, trouble: Callable[[], str], next_step: str, *, needed: bool = False
) -> Probe:
    """Return the probe of a dependency. `trouble` returns the cause of the failure, or an empty text.

    By default the service can do without the dependency for a while.
    """

    async def probe() -> tuple[Fault, ...]:
        cause = trouble()
        return (Fault(dependency, code, cause, next_step, needed=needed),) if cause else ()

    return probe


@get("/readyz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def read_readiness(readiness: NamedDependency[SkipValidation[Readiness]]) -> Response[ReadinessReport]:
    """Name the dependencies that fail, with code, cause and next step.

    The status is 503 if the service cannot serve, and 200 if it is ready or degraded.
    """
    report = await readiness.report()
    return Response(
        report, status_code=503 if report.status == "unready" else 200, headers={"Cache-Control": "no-store"}
    )
