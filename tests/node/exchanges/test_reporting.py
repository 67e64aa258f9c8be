"""`node.exchanges.reporting`: how often a cause that lasts is logged. The tests of contacts have the conditions."""

import logging

import pytest

from node.disk.thread import DiskSilent
from node.exchanges.failure import failure_of
from node.exchanges.reporting import CODES_MAX, REPEAT_SECONDS, SilenceLog
from node.link.api import CloudUnreachable
from tests.simulators.fabric import utc_now


def test_a_cause_that_stays_is_logged_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """A machine that starts without a network tries each second or so."""
    caplog.set_level(logging.WARNING, logger="cascadia.agent")
    silence = SilenceLog()
    unreachable = failure_of(CloudUnreachable("cannot reach https://cloud.example: no route"), utc_now())
    silent = failure_of(DiskSilent(10), utc_now())
    for second in range(2 * int(REPEAT_SECONDS)):
        silence.report(second + 1, silent if second == 1000 else unreachable, float(second))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"no usable answer from the cloud ({failures} in a row)" for failures in (1, 1001, 1 + int(REPEAT_SECONDS))
    ]
    silence.report(1, unreachable, 2 * REPEAT_SECONDS)
    assert len(caplog.records) == 4, "after an answer the cause is new"


def test_codes_that_vary_do_not_fill_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    """The code of a refusal comes from the cloud."""
    caplog.set_level(logging.WARNING, logger="cascadia.agent")
    silence = SilenceLog()
    for number in range(1, 3 * CODES_MAX):
        varied = CloudUnreachable("cannot reach https://cloud.example: no route", code=f"code_{number}")
        silence.report(number, failure_of(varied, utc_now()), float(number))
    assert len(caplog.records) == CODES_MAX
