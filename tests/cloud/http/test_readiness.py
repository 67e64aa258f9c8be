"""Readiness names the dependency that fails, to operators alone, and writes to the database at a bounded rate."""

import asyncio
import json
import logging

import pytest

from cloud.http.app import make_metrics_app
from cloud.http.metrics import Metrics
from cloud.http.problems import Refusal
from cloud.http.readiness import (
    DatabaseProbe,
    Fault,
    Readiness,
    certificate_probe,
    database_fault,
    trouble_probe,
)
from cloud.process.serve import Listener
from cloud.storage.errors import DatabaseBusy, DatabaseNotWritable, DatabaseUnavailable, DiskFull, StorageError
from tests.cloud.http.test_app import guard
from tests.cloud.world import connected, listening, port_of, unit_of


class Database:
    """A database that counts reads and writes, and fails with `wrong`."""

    def __init__(self) -> None:
        self.reads = self.writes = 0
        self.read_wrong: StorageError | None = None
        self.write_wrong: StorageError | None = None
        self.at = 100.0

    async def read(self) -> None:
        self.reads += 1
        if self.read_wrong is not None:
            raise self.read_wrong

    async def write(self) -> None:
        self.writes += 1
        if self.write_wrong is not None:
            raise self.write_wrong

    def probe(self) -> DatabaseProbe:
        return DatabaseProbe(self.read, self.write, lambda: self.at, write_seconds=5.0)


async def test_each_call_reads_and_a_call_every_few_seconds_writes() -> None:
    database = Database()
    probe = database.probe()
    for _ in range(1000):
        assert await probe() == ()
    assert (database.reads, database.writes) == (1000, 1)
    database.write_wrong = DiskFull("/var/lib/x: database or disk is full")
    assert await probe() == ()
    database.at += 5
    assert [fault.code for fault in await probe()] == ["disk_full"]
    database.write_wrong = None
    assert [fault.code for fault in await probe()] == ["disk_full"]
    database.at += 5
    assert await probe() == ()
    assert database.writes == 3
    database.read_wrong = DatabaseUnavailable("away")
    assert [fault.code for fault in await probe()] == ["database_unavailable"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFull("x"), "disk_full"),
        (DatabaseNotWritable("x"), "database_not_writable"),
        (DatabaseBusy("x"), "database_busy"),
        (DatabaseUnavailable("x"), "database_unavailable"),
        (StorageError("x"), "database_unavailable"),
    ],
)
def test_each_error_of_a_database_has_its_code_and_its_next_step(error: StorageError, code: str) -> None:
    fault = database_fault(error)
    assert (fault.code, fault.dependency, fault.needed) == (code, "database", True)
    assert fault.next.endswith(".")


async def test_a_needed_dependency_makes_a_service_unready_and_another_degrades_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trouble, outside = "", ""
    readiness = Readiness(trouble_probe("breakwater", "breakwater_unreachable", lambda: trouble, "Check it."))
    readiness.add(certificate_probe(lambda: outside))
    with caplog.at_level(logging.INFO, "cascade.readiness"):
        assert (await readiness.report()).status == "ready"
        assert not caplog.records
        trouble = "ConnectError: refused"
        for _ in range(3):
            assert (await readiness.report()).status == "degraded"
        await readiness.require()
        outside = "begins in the future"
        report = await readiness.report()
        assert report.status == "unready"
        assert [fault.code for fault in report.faults] == ["breakwater_unreachable", "certificate_not_valid"]
        with pytest.raises(Refusal) as refused:
            await readiness.require()
        assert "future" not in refused.value.detail
        assert refused.value.code == "unavailable"
        trouble = outside = ""
        assert (await readiness.report()).status == "ready"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3 + ["INFO"]


def test_the_listener_of_the_metrics_names_the_dependency() -> None:
    async def failing() -> tuple[Fault, ...]:
        return (
            Fault("database", "disk_full", "the disk is full", "Free space."),
            Fault("root_crl", "crl_root_expiring", "it ends soon", "Sign another.", needed=False, failing=False),
        )

    async def test() -> None:
        app = make_metrics_app(guard(), Metrics("fabric"), Readiness(failing))
        async with (
            listening(unit_of(Listener(app, "127.0.0.1", 0, None))) as servers,
            connected(port_of(servers[0]), None) as client,
        ):
            answer = await client.ask("/readyz")
            assert answer.status == 503
            assert json.loads(answer.body) == {
                "status": "unready",
                "faults": [
                    {
                        "dependency": "database",
                        "code": "disk_full",
                        "cause": "the disk is full",
                        "next": "Free space.",
                        "needed": True,
                        "failing": True,
                    }
                ],
                "warnings": [
                    {
                        "dependency": "root_crl",
                        "code": "crl_root_expiring",
                        "cause": "it ends soon",
                        "next": "Sign another.",
                        "needed": False,
                        "failing": False,
                    }
                ],
            }

    asyncio.run(test())
