"""Reports to systemd: the messages on the socket, when READY is sent, and that nothing happens without a socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.http.readiness import Fault, Readiness
from cloud.process import notify as module
from cloud.process.notify import Reporting, notify, reports, watchdog_seconds
from cloud.tasks.stopping import Stopping

AWAY = Fault("database", "database_unavailable", "it is away", "Start it.")
LATE = Fault("crl", "crl_overdue", "it is late", "Wait.", needed=False)


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path if request.param == "path" else "\0" + path)
        receiver.settimeout(5)
        yield receiver, {"NOTIFY_SOCKET": path if request.param == "path" else "@" + path}


class Dependency:
    """A dependency whose faults the test sets."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        self.asked = 0

    async def __call__(self) -> tuple[Fault, ...]:
        self.asked += 1
        return self.faults

    def of(self, name: str) -> Reporting:
        return Reporting(name, Readiness(self))


async def received(receiver: socket.socket) -> str:
    return (await asyncio.to_thread(receiver.recv, 2000)).decode()


@pytest.mark.parametrize("address", [None, "", "/", "@", "vsock:2:1", "relative", "/nowhere/at/all", "/a\0b"])
def test_no_socket_is_no_error(address: str | None) -> None:
    environment = {} if address is None else {"NOTIFY_SOCKET": address}
    assert not notify("READY=1", environment=environment)


def test_without_systemd_there_is_no_task() -> None:
    assert reports([Dependency().of("fabric")], {}) == ()


async def test_ready_waits_for_services_that_are_unready(
    listener: tuple[socket.socket, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, environment = listener
    monkeypatch.setattr(module, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(module, "STATUS_SECONDS", 0.01)
    fabric, breakwater, stopping = Dependency(AWAY), Dependency(LATE), Stopping()
    services = [breakwater.of("breakwater"), fabric.of("fabric")]
    tasks = [asyncio.ensure_future(task(stopping)) for task in reports(services, environment)]
    receiver.setblocking(False)
    while fabric.asked < 3:
        await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            receiver.recv(2000)
    receiver.settimeout(5)
    fabric.faults = ()
    assert await received(receiver) == "READY=1\nSTATUS=breakwater degraded (crl_overdue); fabric ready"
    breakwater.faults = ()
    while (line := await received(receiver)) != "STATUS=breakwater ready; fabric ready":
        assert line == "STATUS=breakwater degraded (crl_overdue); fabric ready"
    stopping.request()
    while (line := await received(receiver)) != "STOPPING=1":
        assert line.startswith("STATUS=")
    await asyncio.gather(*tasks)


async def test_a_service_that_stays_unready_does_not_fail_the_start(
    listener: tuple[socket.socket, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, environment = listener
    monkeypatch.setattr(module, "READY_WAIT_SECONDS", 0)
    stopping = Stopping()
    status, _ = reports([Dependency(AWAY).of("fabric")], environment)
    running = asyncio.ensure_future(status(stopping))
    assert await received(receiver) == "READY=1\nSTATUS=fabric unready (database_unavailable)"
    stopping.request()
    await running


async def test_the_watchdog_asks_no_dependency(listener: tuple[socket.socket, dict[str, str]]) -> None:
    receiver, environment = listener
    dependency, stopping = Dependency(), Stopping()
    watched = {**environment, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    _, watchdog, _ = reports([dependency.of("fabric")], watched)
    running = asyncio.ensure_future(watchdog(stopping))
    assert [await received(receiver) for _ in range(3)] == ["WATCHDOG=1"] * 3
    stopping.request()
    await running
    assert dependency.asked == 0


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
    ],
)
def test_the_watchdog_is_fed_twice_a_period(environment: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(7, environment) == seconds
