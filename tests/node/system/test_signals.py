"""Signals: every signal of the system is in exactly one class, and a stray signal does not end the process."""

import os
import signal
from collections.abc import Iterator

import pytest

from node.system.signals import DEFAULT, ENDING, LOGGED, SILENT, strays_ignored


@pytest.fixture
def ignoring() -> Iterator[None]:
    with strays_ignored():
        yield


def test_every_signal_is_decided_once() -> None:
    classes = (ENDING, DEFAULT, SILENT, LOGGED)
    assert sum(len(each) for each in classes) == len(frozenset().union(*classes))
    assert frozenset().union(*classes) == signal.valid_signals()
    strays = {"HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "XCPU", "STKFLT", "RTMIN", "RTMAX"}
    assert {getattr(signal, f"SIG{name}") for name in strays} <= LOGGED


@pytest.mark.usefixtures("ignoring")
def test_a_stray_signal_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for number in sorted(LOGGED):
        os.kill(os.getpid(), number)
    assert len(caplog.messages) == len(LOGGED)
    assert all(message.startswith("ignored ") for message in caplog.messages)
    assert caplog.messages[0] == "ignored SIGHUP: the settings are read at the start; restart the agent to change them"


@pytest.mark.usefixtures("ignoring")
def test_a_failed_write_is_reported_by_its_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    for number in SILENT:
        os.kill(os.getpid(), number)
    assert caplog.messages == []


def test_the_handlers_before_are_put_back() -> None:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with strays_ignored():
        assert signal.getsignal(signal.SIGHUP) not in (signal.SIG_DFL, handlers[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
