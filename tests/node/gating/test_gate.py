"""The gate on virtual clocks: what it does when the agent answers, denies, goes away, hangs, or answers nonsense."""

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from node.gating.gate import (
    ANSWER_SECONDS_MAX,
    EXIT_AWAY,
    EXIT_DENIED,
    EXIT_FAULT,
    EXIT_NOT_REMOVED,
    EXIT_USAGE,
    LAST_QUESTION_SECONDS,
    PAUSE_SECONDS,
    START_SECONDS_MAX,
    Gate,
    GrantFile,
    main,
)
from node.gating.question import Unanswered
from tests.node.gating.conftest import Answering, http

T0 = datetime(2030, 1, 1, tzinfo=UTC)
Answer = tuple[int, dict[str, object]]


class World:
    """An agent, the file of its grant and the clocks. `plan` is called with the seconds since the start."""

    def __init__(self, path: Path, plan: Callable[[float], str]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.plan = plan
        self.at = 0.0
        self.step = timedelta()
        self.valid_seconds = 60.0
        self.told: list[tuple[float, str]] = []
        self.targets: list[str] = []
        self.log: list[str] = []

    def wall(self) -> datetime:
        return T0 + timedelta(seconds=self.at) + self.step

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.at += seconds

    def ask(self, target: str, seconds: float) -> Answer:
        assert seconds > 0
        self.targets.append(target)
        assert len(self.targets) < 2000, "the gate asks in a loop"
        gives_up = self.at + seconds
        while (begun := self.plan(self.at)) == "hangs":
            self.at += 0.5
            if self.at >= gives_up:
                raise Unanswered("the agent did not answer in time")
        now = begun
        if target.startswith("/v1/changes") and now in ("granted", "denied"):
            wait = float(target.rpartition("=")[2])
            asked = target.partition("cursor=")[2].partition("&")[0]
            ends = self.at + (wait if asked == now else 0.0)
            while self.at < ends and now == begun:
                self.at += 0.5
                now = self.plan(self.at)
            if now in ("granted", "denied"):
                return 200, {"format": 1, "cursor": now, "changed": now != begun}
        if now in ("away", "hangs"):
            raise Unanswered("the agent cannot be reached")
        if now == "busy":
            return 503, {"title": "busy", "status": 503, "code": "busy"}
        until = (self.wall() + timedelta(seconds=self.valid_seconds)).isoformat().replace("+00:00", "Z")
        granted = now == "granted"
        if target == "/v1/license":
            return 200, {"gate": "open" if granted else "closed", "reason": now, "valid_until": until}
        return (200 if granted else 403), {"granted": granted, "reason": f"it is\n{now}", "valid_until": until}

    def run(self, name: str | None = "vision") -> int:
        tell = self._tell
        gate = Gate(
            name, self.ask, GrantFile(str(self.path)), tell, now=lambda: self.at, wall=self.wall, sleep=self.sleep
        )
        return gate.run()

    def _tell(self, message: str) -> None:
        self.told.append((self.at, message))

    @property
    def ready_at(self) -> float | None:
        return next((at for at, message in self.told if message == "READY=1"), None)

    @property
    def status(self) -> str:
        return [message for _, message in self.told if message.startswith("STATUS=")][-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "granted" / "vision"


def until(seconds: float, before: str, after: str) -> Callable[[float], str]:
    return lambda at: before if at < seconds else after


@pytest.mark.parametrize("name", ["vision", None])
def test_it_holds_while_granted_and_ends_with_the_grant(path: Path, name: str | None) -> None:
    world = World(path, until(1000, "granted", "denied"))
    assert world.run(name) == EXIT_DENIED
    assert world.ready_at == 0
    assert 1000 <= world.at <= 1000.5
    assert not path.exists()
    assert "denied" in world.status


def test_it_tells_the_watchdog_in_time(path: Path) -> None:
    world = World(path, until(300, "granted", "away"))
    world.run()
    signs = [at for at, message in world.told if message == "WATCHDOG=1"]
    assert max(later - one for one, later in pairwise(signs)) < 60 / 2


def test_a_denied_start_is_never_ready(path: Path) -> None:
    world = World(path, lambda _: "denied")
    assert world.run() == EXIT_DENIED
    assert (world.at, world.ready_at) == (0, None)
    assert world.status == "STATUS=denied: it is?denied"
    assert not path.exists()


@pytest.mark.parametrize("silence", ["away", "hangs", "busy"])
@pytest.mark.parametrize("began", [15.2, 100, 104.9])
def test_an_agent_that_is_away_for_less_than_its_answer_is_not_noticed(path: Path, silence: str, began: float) -> None:
    def plan(at: float) -> str:
        return "granted" if at < began else silence if at < began + 43 else until(1000, "granted", "denied")(at)

    world = World(path, plan)
    assert world.run() == EXIT_DENIED
    assert world.at >= 1000
    assert [message for _, message in world.told].count("READY=1") == 1


@pytest.mark.parametrize("silence", ["away", "hangs", "busy"])
def test_the_last_answer_ends(path: Path, silence: str) -> None:
    world = World(path, until(100, "granted", silence))
    assert world.run() == EXIT_AWAY
    assert 100 + 45 - 1 <= world.at <= 100 + ANSWER_SECONDS_MAX + LAST_QUESTION_SECONDS + PAUSE_SECONDS
    assert not path.exists()
    assert "the last answer has ended" in world.status


@pytest.mark.parametrize("silence", ["away", "hangs"])
def test_a_start_waits_for_the_agent(path: Path, silence: str) -> None:
    world = World(path, until(20, silence, "granted"))
    world.plan = lambda at: silence if at < 20 else "granted" if at < 100 else "denied"
    assert world.run() == EXIT_DENIED
    assert world.ready_at is not None
    assert 20 <= world.ready_at <= START_SECONDS_MAX


@pytest.mark.parametrize("silence", ["away", "hangs", "busy"])
def test_a_start_without_the_agent_ends(path: Path, silence: str) -> None:
    world = World(path, lambda _: silence)
    assert world.run() == EXIT_AWAY
    assert world.ready_at is None
    assert START_SECONDS_MAX <= world.at < 40, "systemd's limit of a start"
    assert not path.exists()


def test_a_grant_that_the_agent_ended_before_it_went_away_has_ended(path: Path) -> None:
    def plan(at: float) -> str:
        if at >= 100:
            path.unlink(missing_ok=True)
        return until(100, "granted", "away")(at)

    world = World(path, plan)
    assert world.run() == EXIT_DENIED
    assert world.at <= 101


def test_a_short_answer_is_asked_again_before_it_ends(path: Path) -> None:
    world = World(path, until(100, "granted", "away"))
    world.valid_seconds = 4
    assert world.run() == EXIT_AWAY
    assert world.at <= 104 + LAST_QUESTION_SECONDS + PAUSE_SECONDS


@pytest.mark.parametrize("hours", [-48, 48])
def test_the_wall_clock_prolongs_no_answer_and_ends_none(path: Path, hours: int) -> None:
    def plan(at: float) -> str:
        world.step = timedelta(hours=hours if at >= 110 else 0)
        return until(100, "granted", "away")(at)

    world = World(path, plan)
    assert world.run() == EXIT_AWAY
    assert 145 - 1 <= world.at <= 163


def test_no_answer_counts_for_more_than_a_minute(path: Path) -> None:
    world = World(path, until(100, "granted", "away"))
    world.valid_seconds = 1e7
    assert world.run() == EXIT_AWAY
    assert world.at <= 163


def test_a_sleep_of_the_machine_asks_before_it_ends(path: Path) -> None:
    """The machine sleeps for hours in a poll. The agent answers again soon after it has woken."""
    slept = False

    def plan(at: float) -> str:
        nonlocal slept
        if at >= 100 and not slept:
            slept = True
            world.at += 36_000
        return until(40_000, "granted", "denied")(world.at)

    world = World(path, plan)
    assert world.run() == EXIT_DENIED
    assert world.at >= 40_000


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}),
        (200, {"granted": "true", "valid_until": "2031-01-01T00:00:00Z"}),
        (200, {"granted": True}),
        (200, {"granted": True, "valid_until": "soon"}),
        (200, {"granted": True, "valid_until": "2031-01-01T00:00:00"}),
        (200, {"granted": True, "valid_until": 7}),
        (403, {"granted": True, "valid_until": "2031-01-01T00:00:00Z"}),
        (200, {"granted": False, "valid_until": "2031-01-01T00:00:00Z"}),
        (403, {"title": "no", "status": 403, "code": "permission_denied"}),
        (200, {"gate": "ajar", "granted": True, "valid_until": "2031-01-01T00:00:00Z"}),
        (403, {"gate": "closed"}),
        (500, {"title": "fault\x1b[2J"}),
        (404, {"title": None}),
    ],
)
def test_nonsense_is_no_verdict(path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(path, until(100, "granted", "away"))
    monkeypatch.setattr(world, "ask", lambda *_: answer)
    assert world.run() == EXIT_AWAY
    assert world.ready_at is None
    assert "\x1b" not in world.status


def test_a_file_that_cannot_be_removed_has_its_own_code(path: Path) -> None:
    world = World(path, lambda _: "denied")
    path.unlink()
    path.mkdir()
    assert world.run() == EXIT_NOT_REMOVED
    assert "cannot remove the file of the grant" in world.status


def test_it_says_what_is_new_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {0: "granted", 1: "away", 2: "granted", 3: "denied"}
    World(path, lambda at: plan[min(3, int(at // 30))]).run()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0].partition(" for ")[0] for line in lines] == [
        "granted",
        "the last answer counts",
        "granted",
        "denied",
    ]


def test_the_names_of_entitlements_are_percent_encoded(path: Path) -> None:
    world = World(path, lambda _: "denied")
    world.run("a/b é%")
    assert world.targets == ["/v1/changes?cursor=&wait=12", "/v1/entitlements/a%2Fb%20%C3%A9%25"]


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"], ["a b"], [""], [".hidden"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == EXIT_USAGE
    assert capsys.readouterr().err


def test_the_whole_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answering: Answering) -> None:
    """It tells systemd, and removes the file of the grant, which is beside the socket."""
    grant = tmp_path / "granted" / "a-b"
    grant.parent.mkdir()
    grant.touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}/notify")
        requests = answering(http(b'{"cursor": "x"}'), http(b'{"granted": false, "reason": "no"}', 403))
        assert main(["a-b", str(tmp_path / "s")]) == EXIT_DENIED
        assert [systemd.recv(100) for _ in range(2)] == [b"WATCHDOG=1", b"STATUS=denied: no"]
    assert [request.split()[1] for request in requests] == [b"/v1/changes?cursor=&wait=12", b"/v1/entitlements/a%2Fb"]
    assert not grant.exists()


def test_a_fault_has_its_own_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent")
    assert main(["vision"]) == EXIT_FAULT
    assert "because of a fault: FileNotFoundError" in capsys.readouterr().err
