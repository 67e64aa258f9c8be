"""Every listener answers each kind of caller as its API document says. A short run of `make api-fuzz`."""

from collections.abc import Iterator

import pytest

from lab.cloud import Cloud
from tests.fuzz.api import Listener, Report, exercise, refuse_other_methods
from tests.system.support.api_listeners import listeners_of
from tests.system.support.routes import world_of

EXAMPLES = 1
"""The requests for each operation, caller and mode: some hundred requests in a few seconds."""


@pytest.fixture(scope="module")
def listeners(tmp_path_factory: pytest.TempPathFactory, installation: Cloud) -> Iterator[tuple[Listener, ...]]:
    directory = tmp_path_factory.mktemp("api")
    with world_of(installation, directory) as world, listeners_of(world, directory) as made:
        yield made


def test_answers_are_documented(listeners: tuple[Listener, ...]) -> None:
    report = Report()
    exercise(listeners, report, examples=EXAMPLES)
    assert report.findings == {}, "\n\n".join(report.findings.values())
    # Each caller must get answers, and some requests must succeed. Otherwise the run proves little.
    for listener in listeners:
        for caller in listener.callers:
            assert any(answer.startswith(f"{listener.name} {caller.name} ") for answer in report.answers)
    assert {"fabric operator 200", "fabric operator 201", "fabric node 200", "breakwater service fabric 200"} <= set(
        report.answers
    )
    assert {"operator_required", "peer_required", "peer_refused", "not_found", "invalid", "malformed"} <= report.codes


def test_other_methods_are_refused(listeners: tuple[Listener, ...]) -> None:
    report = Report()
    refuse_other_methods(listeners, report)
    assert report.findings == {}
