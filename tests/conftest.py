"""pytest hooks for every test run: the event loop of async tests, the order of tests, and a check for omitted tests.

An async test under tests/node runs on trio (pytest-trio). Every other async test runs on asyncio (anyio's plugin). A
marker on the test or its module (`trio`, `anyio`) overrides the choice. Fixtures run on the loop of their test.

With CASCADE_NO_SKIPS=1 (`make test`) or CI=true, a run fails if a test was skipped, xfailed or deselected. The summary
shows the count and the reasons. The check changes only the result of a passing run; a failing run keeps its result.
"""

import gc
import logging
import os
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import HealthCheck, settings

from tests.light_keys import use_light_keys
from tests.schedule import Length, dealt

# The asserts of these folders' helpers say what they compared, as those of test files do.
pytest.register_assert_rewrite("tests.cloud", "tests.node", "tests.simulators", "tests.system.support")

TESTS = Path(__file__).parent
TRIO_FOLDER = TESTS / "node"
SYSTEM_FOLDER = TESTS / "system"
SYSTEM_TEST_SECONDS = 0.4
"""The mean of the tests of `tests/system` that are not marked `long`. Those of one file share its fixtures."""
QUICK = os.environ.get("CASCADE_QUICK") == "1"
"""Whether this is `make unit`, which leaves out slow tests."""
ALL_SLOW = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)
"""The line by which a test file marks all its tests as slow."""
QUICK_EXAMPLES = 25
"""How many examples of a property `make unit` tries (CASCADE_QUICK=1). `make test` and a direct run try 100."""
PROCESSES_SHOWN = 8
"""How many processes a failed test's report describes."""

_left_out = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests outside tests/node: asyncio, as in every cloud process."""
    return "asyncio"


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the root logger after a test of a program that sets it up. Later tests compare what is logged."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """In `make unit`, do not import a file whose tests are all slow. Each worker imports all other test files."""
    if QUICK and collection_path.suffix == ".py" and ALL_SLOW.search(collection_path.read_text()):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Mark every async test that has no loop marker. This runs before the plugins read the markers."""
    if not collector.istestfunction(obj, name):
        return
    hypothesis = getattr(obj, "hypothesis", None)
    if not iscoroutinefunction(hypothesis.inner_test if hypothesis else obj):
        return
    marked = {mark.name for mark in (*collector.iter_markers(), *getattr(obj, "pytestmark", ()))}
    if marked.isdisjoint({"trio", "anyio"}):
        on_trio = collector.path.is_relative_to(TRIO_FOLDER)
        (pytest.mark.trio if on_trio else pytest.mark.anyio)(obj)


def pytest_configure(config: pytest.Config) -> None:
    """Start the list of omitted tests, make key files of this process open quickly, and collect no garbage yet.

    The imports of a test run make a million objects that live until its end. Garbage collection during the collection
    of tests costs a third of its time and frees nothing.
    """
    gc.disable()
    # A loaded machine is slow; a property does not depend on that.
    settings.register_profile("cascade", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("quick", settings.get_profile("cascade"), max_examples=QUICK_EXAMPLES)
    settings.load_profile("quick" if QUICK else "cascade")
    config.stash[_left_out] = []
    use_light_keys()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave the objects that exist now out of later garbage collections: each would look at all of them again."""
    del session
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 20)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests with the marker `long` first in each worker's part."""
    items[:] = dealt(items, _length_of, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _length_of(item: pytest.Item) -> Length | None:
    mark = item.get_closest_marker("long")
    if mark is not None:
        return Length(*mark.args, **mark.kwargs)
    return Length(SYSTEM_TEST_SECONDS, item.path.name) if item.path.is_relative_to(SYSTEM_FOLDER) else None


@pytest.hookimpl
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """In a worker process (pytest-xdist), report the setup and teardown of a test only if something happened in them.

    Each report to the main process costs about half a millisecond of both. Options that show or store every report get
    every report.
    """
    option = item.config.option
    if not hasattr(item.config, "workerinput") or option.durations is not None or option.xmlpath is not None:
        return None
    for report in runtestprotocol(item, nextitem=nextitem, log=False):
        if report.when == "call" or not report.passed:
            item.ihook.pytest_runtest_logreport(report=report)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the processes of a failed test to its report: command, path of the log, and the last lines of the log."""
    del item, call
    report = yield
    processes = sys.modules.get("lab.processes")
    if report.failed and processes is not None:
        report.sections += [("process", text) for text in processes.reports(PROCESSES_SHOWN)]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Forget the processes of earlier tests before the first fixture, so that a failure shows only its own."""
    if "lab.processes" in sys.modules:
        sys.modules["lab.processes"].recent.clear()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Return the PostgreSQL databases that the test borrowed, after its last fixture."""
    if "lab.postgres" in sys.modules:
        sys.modules["lab.postgres"].give_back()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Record the tests that -k, -m or --deselect removed."""
    for item in items:
        item.config.stash[_left_out].append(f"deselected: {item.nodeid}")


class _Outcomes:
    """Plugin that records skipped and xfailed tests. It is an object because report hooks get no configuration."""

    def __init__(self, left_out: list[str]) -> None:
        self._left_out = left_out

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if hasattr(report, "wasxfail"):
            self._left_out.append(f"xfail: {report.nodeid}: {report.wasxfail or 'no reason'}")
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            self._left_out.append(f"skipped: {report.nodeid}: {reason}")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Register the plugin that reads the reports of tests and of the collection."""
    session.config.pluginmanager.register(_Outcomes(session.config.stash[_left_out]))


def _nothing_may_be_left_out() -> bool:
    return os.environ.get("CASCADE_NO_SKIPS") == "1" or os.environ.get("CI") == "true"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add the omitted tests that a worker process recorded and that no report has named."""
    del error
    noted = node.config.stash[_left_out]
    noted += [line for line in getattr(node, "workeroutput", {}).get("left_out", []) if line not in noted]


def _save_coverage() -> None:
    """Write the data of `make coverage` now: pytest-xdist can kill a worker before its end, where coverage.py writes."""
    coverage = sys.modules.get("coverage")
    measuring = None if coverage is None else coverage.Coverage.current()
    if measuring is not None:
        measuring.save()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Fail a passing run that omitted a test. A worker process (pytest-xdist) hands its list to the main process."""
    worker_output = getattr(session.config, "workeroutput", None)
    if worker_output is not None:
        worker_output["left_out"] = session.config.stash[_left_out]
        _save_coverage()
        return
    if _nothing_may_be_left_out() and session.config.stash[_left_out] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the lines that tests recorded with `record_property("shown", line)`, and the omitted tests."""
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for name, line in report.user_properties:
            if name == "shown":
                terminalreporter.line(str(line))
    left_out = config.stash[_left_out]
    if _nothing_may_be_left_out() and left_out:
        terminalreporter.section(f"{len(left_out)} tests omitted: this run fails", red=True)
        for line in left_out:
            terminalreporter.line(line)
