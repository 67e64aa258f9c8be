"""The socket answers as its API document says, to each caller and each input: a short run of `make api-fuzz`."""

from pathlib import Path

import pytest

from tests.fuzz.agent import agent_listeners
from tests.fuzz.api import Report, exercise, refuse_other_methods

pytestmark = pytest.mark.slow

EXAMPLES = 6
"""Enough for every way in which a renewal ends."""


def test_answers_are_documented(tmp_path: Path) -> None:
    report = Report()
    with agent_listeners(tmp_path) as listeners:
        exercise(listeners, report, examples=EXAMPLES)
        refuse_other_methods(listeners, report)
    assert report.findings == {}, "\n\n".join(report.findings.values())
    assert {
        f"cascadia {answer}"
        for answer in ("the agent's user 200", "the agent's user 503", "another user 200", "another user 403")
    } <= set(report.answers)
    assert {"permission_denied", "malformed"} <= report.codes
