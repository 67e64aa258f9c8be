"""The common frame of drills: list of parts, options, result, exit codes, time limit.

The subject of each drill has its tests elsewhere.
"""

import argparse
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from protocol.encoding import json_decode, json_encode
from protocol.messages.sessions import Ask, StatementAnswer
from protocol.signed.statements import Lease, verify_statement
from tests.drills import frame, fuzz, install_page, soak, strangers
from tests.drills.flapping import FlappingFabric
from tests.drills.frame import EXIT_CANNOT, EXIT_FOUND, EXIT_GOOD, EXIT_TIME, CannotRun, Outcome, Say
from tests.fuzz.targets import TARGETS
from tests.simulators import fabric as simulator
from tests.simulators.fabric import REFRESH_AFTER, Reply, Request
from tests.strangers.cells import Cell, Tasks
from tests.strangers.tasks import Answer, Parse


class Sample:
    """A drill that calls the function of a test."""

    USUAL_TIME = "1 s"
    MINUTES_MAX = 1.0

    def __init__(self, work: Callable[[], Outcome]) -> None:
        self._work = work

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--size", type=int, default=3)

    def run(self, options: argparse.Namespace, say: Say) -> Outcome:
        say(f"size {options.size}")
        return self._work()


def _options(**changed: object) -> argparse.Namespace:
    return argparse.Namespace(**{"json": False, "minutes_max": 1.0, "size": 3, **changed})


def test_without_a_part_the_parts_are_listed_with_their_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main([]) == EXIT_GOOD
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == frame.part_names()
    assert {"fuzz", "soak"} <= set(frame.part_names())
    assert next(line for line in lines if line.startswith("  soak")).split(maxsplit=3)[1:3] == ["10", "min"]


@pytest.mark.parametrize("name", frame.part_names())
def test_each_part_has_what_the_frame_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    part = frame.load_part(name)
    assert frame.description(part).endswith(".")
    assert part.USUAL_TIME.endswith((" s", " min", " h"))
    assert part.MINUTES_MAX > 0
    with pytest.raises(SystemExit) as ended:
        frame.main([name, "--help"])
    assert ended.value.code == 0
    assert "--minutes-max" in capsys.readouterr().out


def test_an_unknown_part_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        frame.main(["nothing"])
    assert ended.value.code == frame.EXIT_USAGE
    assert "nothing" in capsys.readouterr().err


def test_a_good_drill_prints_progress_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    part = Sample(lambda: Outcome({"certificates": 3, "per second": 1234.56}))
    assert frame.run_part("sample", part, _options()) == EXIT_GOOD
    printed = capsys.readouterr()
    assert printed.err.endswith("size 3\n")
    assert printed.out.splitlines() == ["certificates  3", "per second    1,234.6", "nothing wrong, 0 s"]


def test_a_finding_is_an_exit_code_and_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    part = Sample(lambda: Outcome({}, ("one is missing",)))
    assert frame.run_part("sample", part, _options()) == EXIT_FOUND
    assert capsys.readouterr().out.splitlines() == ["FOUND one is missing", "1 findings, 0 s"]


def test_the_result_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    part = Sample(lambda: Outcome({"certificates": 3}, ("one is missing",)))
    assert frame.run_part("sample", part, _options(json=True)) == EXIT_FOUND
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document.pop("seconds") >= 0
    assert document == {
        "drill": "sample",
        "good": False,
        "figures": {"certificates": 3},
        "findings": ["one is missing"],
    }


def test_a_drill_that_takes_too_long_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned_up = []
    left = []

    def busy() -> Outcome:
        try:
            left.append(signal.getitimer(signal.ITIMER_REAL)[0])
            signal.setitimer(signal.ITIMER_REAL, 0.001)  # the time is over now
            until = time.monotonic() + 30
            while time.monotonic() < until:
                pass
        finally:
            cleaned_up.append(True)
        return Outcome({})

    assert frame.run_part("sample", Sample(busy), _options(minutes_max=2)) == EXIT_TIME
    assert cleaned_up == [True]
    assert 60 < left[0] <= 120
    assert "cannot finish the drill sample: it took more than 2 minutes" in capsys.readouterr().err
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_drill_that_cannot_run_here_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> Outcome:
        raise CannotRun("it needs root. Run it as root")

    assert frame.run_part("sample", Sample(refuse), _options()) == EXIT_CANNOT
    assert "cannot run the drill sample: it needs root" in capsys.readouterr().err


def test_the_fuzz_drill_knows_every_target() -> None:
    assert set(fuzz.TARGETS) == set(TARGETS)


def test_the_soak_reports_each_finding_and_each_disagreement() -> None:
    figures = soak.Figures(
        certificates=8,
        revoked=2,
        issue_seconds=2.0,
        close_seconds=1.0,
        check_seconds=3.0,
        checked=9,
        findings=("error lint c1: wrong",),
        pkilint_certificates=1,
        waived={},
        crls={"nodes-1.1": (2, 300)},
        verified=4,
        verified_revoked=2,
        asked_ocsp=1,
        disagreements=("openssl says good",),
    )
    outcome = soak.outcome(figures, seed=5)
    assert outcome.findings == (
        "by `cascade pki check`: error lint c1: wrong",
        "disagreement: openssl says good",
    )
    assert outcome.figures["issued per second"] == 4.0
    assert outcome.figures["CRL nodes-1.1 entries"] == 2
    assert outcome.figures["seed"] == 5


@pytest.mark.trio
async def test_the_cloud_of_the_flapping_drill_signs_the_next_lease_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(simulator, "utc_now", lambda: now)
    fabric = FlappingFabric()

    async def post(name: str, body: msgspec.Struct) -> Lease:
        answer = await fabric.answer(Request("fabric", "POST", f"/v1/node/{name}", {}, json_encode(body), 1))
        assert isinstance(answer, Reply)
        token = json_decode(answer.body, StatementAnswer).statement
        lease = verify_statement(token, fabric.ring, simulator.DOMAIN).statement
        assert isinstance(lease, Lease)
        return lease

    first = await post("confirm", Ask(nonce="n" * 32))
    now += REFRESH_AFTER * 0.49
    assert await post("statement", Ask(nonce="n" * 32)) == first
    for _ in range(3):
        now += REFRESH_AFTER * 0.51
        lease = await post("statement", Ask(nonce="n" * 32))
        assert lease.issued_at == now
        assert lease.seq > first.seq
    assert fabric.leases == 4


GOOD, REVOKED = Answer(True), Answer(False, "certificate revoked")
TASKS: Tasks = ((Parse("good.pem"), "accepted"), (Parse("revoked.pem"), "revoked"))
JUDGED = {
    # program, check, answers: figure, start of the finding
    "as expected": ("Go", "crl", (GOOD, REVOKED), "crl", ""),
    "revoked is accepted": ("Go", "crl", (GOOD, GOOD), "no crl", "Go, session, crl: expected revoked, accepted"),
    "refused without saying why": (
        "Go",
        "crl",
        (GOOD, Answer(False, "no")),
        "no crl",
        "Go, session, crl: expected rev",
    ),
    "all is refused": ("Go", "crl", (REVOKED, REVOKED), "no crl", "Go, session, crl: expected accepted, refused"),
    "a limit": ("Java", "crl", (Answer(False, "Could not determine revocation status"), REVOKED), "no crl", ""),
    "a limit that is gone": ("Java", "crl", (GOOD, REVOKED), "crl", "Java, session, crl: docs/pki.md says that"),
    "another reason": ("Java", "crl", (REVOKED, REVOKED), "no crl", "Java, session, crl: it fails for another"),
}


@pytest.mark.parametrize(("program", "check", "answers", "figure", "finding"), JUDGED.values(), ids=JUDGED)
def test_a_strangers_answers_are_compared_with_the_table_and_its_limits(
    program: str, check: str, answers: tuple[Answer, ...], figure: str, finding: str
) -> None:
    figures: dict[str, frame.Figure] = {}
    findings: list[str] = []
    strangers.judge(program, [Cell("session", check, TASKS)], list(answers), figures, findings)
    assert figures == {f"{program}, session": figure}
    assert len(findings) == bool(finding)
    assert all(each.startswith(finding) for each in findings)


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CannotRun, match=r"certtool \(package gnutls-bin\).*tstclnt \(package libnss3-tools\)"):
        strangers.run(_options(), print)


def test_the_blocks_of_the_page_of_the_installation_are_found() -> None:
    found = install_page.blocks(install_page.PAGE.read_text("utf-8"))
    assert [heading for heading, commands in found if "apt-get install" in commands] == ["The cloud", "The agent"]
    assert install_page.blocks("## One\n\n```\na\nb\n```\n\n## Two\n\n```\nc\n```\n") == [
        ("One", "a\nb\n"),
        ("Two", "c\n"),
    ]
