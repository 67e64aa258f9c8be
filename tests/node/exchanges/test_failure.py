"""The last failure of a contact: it has the cause, the next step and the exit code of the error that ended the contact."""

import pytest

from node.disk.thread import DiskSilent
from node.exchanges.failure import failure_of
from node.hwbind.errors import TpmAbsent
from node.link.api import CloudRefused, CloudUnreachable
from protocol import problems
from tests.simulators.fabric import utc_now

ERRORS = {
    "cloud_unreachable": (CloudUnreachable("cannot reach https://cloud.example: no route"), 69),
    "disk_silent": (DiskSilent(10), 75),
    "tpm-absent": (TpmAbsent("no device"), 87),
    "certificate_refused": (CloudRefused(problems.document(problems.KINDS["certificate_refused"], "not known")), 77),
    "internal": (RuntimeError("surprise\n" + "A" * 100_000), 70),
}


@pytest.mark.parametrize("code", ERRORS)
def test_a_failure_names_its_cause(code: str) -> None:
    error, exit_code = ERRORS[code]
    failure = failure_of(error, utc_now())
    assert (failure.code, failure.exit_code) == (code, exit_code)
    assert failure.text
    assert failure.next
    assert len(failure.text) <= 1000
    assert "\n" not in failure.text


@pytest.mark.parametrize("code", ERRORS)
def test_it_can_be_raised(code: str) -> None:
    failure = failure_of(ERRORS[code][0], utc_now())
    raised = failure.error()
    assert (raised.text, raised.code, raised.next, int(raised.exit)) == (
        failure.text,
        failure.code,
        failure.next,
        failure.exit_code,
    )
