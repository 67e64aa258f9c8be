"""sd_notify: the messages on the socket, and that nothing happens without a socket."""

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

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


async def test_the_watchdog_hears_nothing_while_the_thread_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """A limit of 90 s: a sign of life at 0 s, 45 s and 90 s; then the thread hangs for 100 s."""
    monkeypatch.setenv("WATCHDOG_USEC", "90000000")
    heard: list[float] = []
    begun = trio.current_time()
    monkeypatch.setattr(notify, "watchdog", lambda: heard.append(trio.current_time() - begun))

    async def answers(seconds: float) -> bool:
        if 100 < trio.current_time() - begun < 200:
            autojump_clock.jump(seconds)
            return False
        return True

    with trio.move_on_after(300):
        await notify.keep_watched(answers)
    assert heard[:3] == [0, 45, 90]
    assert heard[3] >= 200
    assert [record.getMessage() for record in caplog.records] == [
        "the thread of the TPM does not answer; the watchdog will end the agent"
    ]


async def test_a_slow_answer_leaves_a_quarter_of_the_limit(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "90000000")
    heard: list[float] = []
    monkeypatch.setattr(notify, "watchdog", lambda: heard.append(trio.current_time()))

    async def answers(seconds: float) -> bool:
        autojump_clock.jump(seconds)
        await trio.lowlevel.checkpoint()
        return True

    with trio.move_on_after(1000):
        await notify.keep_watched(answers)
    assert max(later - earlier for earlier, later in itertools.pairwise(heard)) <= 90 * 3 / 4
