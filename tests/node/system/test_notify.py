"""sd_notify: the messages on the socket, and that nothing happens without a socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.system import notify


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path if request.param == "path" else "\0" + path)
        receiver.settimeout(2)
        yield receiver, {"NOTIFY_SOCKET": path if request.param == "path" else "@" + path}


def test_messages(listener: tuple[socket.socket, dict[str, str]]) -> None:
    receiver, environment = listener
    before = dict(environment)
    assert notify.ready("active, gate open", environment)
    assert receiver.recv(1000) == b"READY=1\nSTATUS=active, gate open"
    assert notify.ready(environment=environment)
    assert receiver.recv(1000) == b"READY=1"
    assert notify.status("one\nREADY=1 \t two", environment)
    assert receiver.recv(1000) == b"STATUS=one READY=1 two"
    assert notify.stopping(environment)
    assert receiver.recv(1000) == b"STOPPING=1"
    assert notify.watchdog(environment)
    assert receiver.recv(1000) == b"WATCHDOG=1"
    assert environment == before


@pytest.mark.parametrize(
    "address", [None, "", "/", "@", "vsock:2:1", "relative", "/nowhere/at/all", "/" + "x" * 200, "/a\0b", "@\ud800"]
)
def test_no_socket_is_no_error(address: str | None) -> None:
    environment = {} if address is None else {"NOTIFY_SOCKET": address}
    assert not notify.ready("x", environment)
    assert not notify.watchdog(environment)


def test_the_process_environment_is_the_default(
    listener: tuple[socket.socket, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, environment = listener
    monkeypatch.setenv("NOTIFY_SOCKET", environment["NOTIFY_SOCKET"])
    assert notify.stopping()
    assert receiver.recv(1000) == b"STOPPING=1"


def test_an_empty_status_says_nothing(listener: tuple[socket.socket, dict[str, str]]) -> None:
    assert not notify.status(" \n", listener[1])


def test_a_full_queue_does_not_hold_the_agent(listener: tuple[socket.socket, dict[str, str]]) -> None:
    sent = [notify.watchdog(listener[1]) for _ in range(3000)]
    assert sent[0]
    assert not sent[-1]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_a_period(environment: dict[str, str], seconds: float | None) -> None:
    assert notify.watchdog_seconds(7, environment) == seconds


@pytest.mark.parametrize("usec", ["", "0", "-1", "1.5", "soon", "٣", "9" * 5000, "1_0"])
def test_an_odd_interval_is_no_watchdog(usec: str) -> None:
    assert notify.watchdog_seconds(1, {"WATCHDOG_USEC": usec}) is None
