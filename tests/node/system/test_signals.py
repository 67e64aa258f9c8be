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
@pytest.mark.parametrize("number", sorted(LOGGED))
def test_a_stray_signal_is_logged_and_ends_nothing(number: int, caplog: pytest.LogCaptureFixture) -> None:
    os.kill(os.getpid(), number)
    assert caplog.messages
    assert caplog.messages[0].startswith("ignored ")
    if number == signal.SIGHUP:
        assert caplog.messages == [
            "ignored SIGHUP: the settings are read at the start; restart the agent to change them"
        ]


@pytest.mark.usefixtures("ignoring")
@pytest.mark.parametrize("number", sorted(SILENT))
def test_a_failed_write_is_reported_by_its_call_alone(number: int, caplog: pytest.LogCaptureFixture) -> None:
    os.kill(os.getpid(), number)
    assert caplog.messages == []


def test_the_handlers_before_are_put_back() -> None:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with strays_ignored():
        assert signal.getsignal(signal.SIGHUP) not in (signal.SIG_DFL, handlers[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
