"""`cascadia recover`: one document and one sentence for every outcome, with and without an agent."""

import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from node.cli import recover
from node.cli.recover import CodeUnusable, prompted, read_code
from node.cli.recovery_document import RecoverDocument
from node.config import Config
from node.disk.lock import StateLock
from node.local.client import Reply
from node.state import State
from protocol.codes import make_recovery_code
from protocol.ids import RecoveryId, make_id
from protocol.messages.recovery import AwaitedRecovery
from tests.node.cli.test_main import Cli, cli, cloud, installed
from tests.node.conftest import Machine
from tests.node.shells import apply, forget_floors, install, load_licence
from tests.simulators.fabric import DAY, NODE, Fabric, utc_now

__all__ = ["cli", "cloud", "installed"]

CODE = make_recovery_code(b"r" * 13)
CASE = RecoveryId(make_id("rcv", 1, bytes(10)))


def test_a_code_is_read_in_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "code"
    file.write_text(f"  {CODE.lower().replace('-', ' ')}\n")
    assert read_code(str(file)) == CODE
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CODE.encode())))
    assert read_code("-") == CODE


@pytest.mark.parametrize(
    "content", ["", "x", CODE[:-1] + "0" if CODE[-1] != "0" else CODE[:-1] + "1", "y" * 2000, None]
)
def test_a_mistyped_code_is_refused_and_not_shown(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "code"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CodeUnusable) as caught:
        read_code(str(file))
    assert CODE[:9] not in caught.value.text
    assert "stays usable" in caught.value.next


def test_a_person_may_mistype_a_code_twice() -> None:
    told: list[str] = []
    answers = iter(["abcd", "efgh", CODE.lower()])
    assert prompted(lambda: next(answers), told.append) == CODE
    assert len(told) == 2
    assert prompted(lambda: "  ", told.append) == ""
    with pytest.raises(CodeUnusable):
        prompted(lambda: "abcd", told.append)


def code_file(cli: Cli) -> str:
    path = cli.directory / "code"
    path.write_text(CODE)
    return str(path)


def lost_key(cli: Cli, fabric: Fabric, machine: Machine) -> State:
    """A state directory whose keys are of another chip."""
    forget_floors(machine.chip.tcti)
    return install(
        cli.state,
        fabric,
        machine.ak,
        msgspec.structs.replace(machine.node_key, parent=b"\0\x0b" + bytes(32), parent_public=None),
    )


@pytest.mark.slow
def test_an_intact_machine(cli: Cli, installed: State) -> None:
    code, document = cli.json("recover")
    assert (code, document["outcome"], document["found"]["node"]) == (0, "not_needed", NODE)
    assert document["sentence"].startswith(f"This machine is node {NODE}, licensed until ")
    assert document["license"]["state"] == "active"


@pytest.mark.slow
def test_a_recovery_with_a_code_from_a_file(cli: Cli, cloud: Fabric, machine: Machine) -> None:
    lost_key(cli, cloud, machine)
    code, output, progress = cli("recover", "--code-file", code_file(cli))
    assert code == 0
    assert output.splitlines()[-1].startswith(f"This machine is node {NODE} again, licensed until ")
    assert "node key         cannot be used on this machine any more" in output
    assert "proving that the key is in this TPM ..." in progress
    assert CODE[:9] not in output + progress
    assert cloud.claims[0][0] == CODE


@pytest.mark.slow
def test_a_recovery_that_waits_is_shown_by_status_and_continues(cli: Cli, cloud: Fabric, machine: Machine) -> None:
    lost_key(cli, cloud, machine)
    cloud.awaited = AwaitedRecovery(CASE, "needs_operator", "operator-or-code", utc_now() + 14 * DAY)
    code, document = cli.json("recover", "--no-wait")
    assert (code, document["outcome"], document["case"]["case"]) == (88, "recovery_pending", CASE)
    assert document["sentence"].startswith(f"Recovery {CASE} of node {NODE} waits for an operator's approval or a")
    _, status = cli.json("status")
    assert "recovery_pending" in [each["code"] for each in status["conditions"]]
    cloud.awaited = None
    code, document = cli.json("recover")
    assert (code, document["outcome"]) == (0, "recovered")


@pytest.mark.slow
def test_a_person_at_a_terminal_is_asked_for_a_code(
    cli: Cli, cloud: Fabric, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_key(cli, cloud, machine)
    cloud.awaited = AwaitedRecovery(CASE, "needs_operator", "operator-or-code", utc_now() + 14 * DAY)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    typed = iter(["", "abcd", CODE.lower()])
    monkeypatch.setattr(recover, "_ask_person", lambda: next(typed))
    code, output, _ = cli("recover", "--no-wait")
    assert (code, output.splitlines()[-1][:8]) == (88, "Recovery")
    cloud.awaited = None
    code, output, told = cli("recover")
    assert (code, "a recovery code has 24 letters and digits" in told) == (0, True)
    assert output.splitlines()[-1].startswith(f"This machine is node {NODE} again")
    assert [code for code, _ in cloud.claims] == ["", CODE]


@pytest.mark.slow
def test_a_lost_state_without_a_file(cli: Cli, cloud: Fabric, machine: Machine) -> None:
    del cloud, machine
    code, document = cli.json("recover", "--no-wait", "--node", NODE)
    assert (code, document["outcome"], document["found"]["directory"]) == (2, "file_needed", "lost")
    assert document["sentence"].startswith(f"The recovery of node {NODE} did not succeed: cannot recover without")


@pytest.mark.slow
def test_a_revoked_node(cli: Cli, installed: State, cloud: Fabric) -> None:
    apply(load_licence(installed), cloud, cloud.revocation())
    code, document = cli.json("recover", "--code-file", code_file(cli))
    assert (code, document["outcome"]) == (81, "revoked")
    assert document["sentence"] == f"Node {NODE} is revoked, and a recovery does not undo a revocation."
    assert not cloud.claims


@pytest.mark.slow
def test_a_tpm_that_is_missing(cli: Cli, installed: State) -> None:
    cli.write("tabrmd:bus_name=io.cascade.nobody,bus_type=session")
    code, document = cli.json("recover")
    assert (code, document["outcome"]) == (87, "tpm-absent")
    assert "may be intact, and needs no recovery" in document["sentence"]


@pytest.mark.slow
def test_an_unusable_id_and_another_owner(cli: Cli, installed: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.cli.borrowing.FREE_SECONDS_MAX", 0.0)
    code, document = cli.json("recover", "--node", "node_1")
    assert (code, document["error"]["code"]) == (2, "malformed")
    with StateLock(cli.state):
        code, document = cli.json("recover")
    assert (code, document["error"]["code"]) == (75, "state_busy")


LICENSE: dict[str, Any] = {
    "format": 1, "state": "active", "gate": "open", "new_work": True, "reason": "the lease is current", "next": "",
    "valid_until": "2026-11-30T12:00:00Z", "exit_code": 0, "flags": [], "tenant": "t", "node": NODE, "generation": 1,
    "lease": None, "notice": "",
}  # fmt: skip


class Agent:
    """A running agent in this state. `asked` has the requests."""

    def __init__(self, state: str, renewed: Reply | None = None, **changes: Any) -> None:
        self.license = LICENSE | {"state": state} | changes
        self.renewed = renewed
        self.conditions: list[dict[str, Any]] = []
        self.asked: list[str] = []

    async def request(self, _socket: Path, method: str, path: str, seconds_max: float = 10.0) -> Reply:
        del seconds_max
        self.asked.append(f"{method} {path}")
        if method == "POST":
            return self.renewed or Reply(200, LICENSE)
        status = {
            "format": 1, "version": "0", "mode": "production", "license": self.license, "hardware": "ours",
            "agent_running": True, "last_contact_at": None, "failures": 0, "offline_bound_at": None, "limits": "",
            "conditions": self.conditions,
        }  # fmt: skip
        return Reply(200, status)


def with_agent(agent: Agent, monkeypatch: pytest.MonkeyPatch, *, has_code: bool = False) -> RecoverDocument:
    monkeypatch.setattr(recover, "request", agent.request)
    document = trio.run(partial(recover._with_agent, Config(), has_code=has_code))
    assert document is not None
    assert document.sentence.endswith(".")
    return document


NO_ANSWER = Reply(503, {"type": "about:blank", "title": "no answer", "status": 503, "code": "cloud_unreachable"})
OTHER: dict[str, Any] = {"gate": "closed", "exit_code": 84}
AGENTS: list[tuple[Agent, bool, str, int, int]] = [
    (Agent("active"), False, "not_needed", 0, 1),
    (Agent("refresh-due"), False, "renewed", 0, 2),
    (Agent("active", flags=["state-damaged"]), False, "renewed", 0, 2),
    (Agent("stale", NO_ANSWER, gate="closed", exit_code=85), False, "cloud_unreachable", 69, 2),
    (Agent("recovery-pending"), False, "renewed", 0, 2),
    (Agent("revoked", gate="closed", exit_code=81), False, "revoked", 81, 1),
    (Agent("revoked", gate="closed", exit_code=81, flags=["superseded"]), False, "superseded", 81, 1),
]


@pytest.mark.parametrize(("agent", "has_code", "outcome", "exit_code", "requests"), AGENTS)
def test_a_running_agent_owns_the_state(
    agent: Agent, has_code: bool, outcome: str, exit_code: int, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.asked.clear()
    document = with_agent(agent, monkeypatch, has_code=has_code)
    assert (document.outcome, document.exit_code, len(agent.asked)) == (outcome, exit_code, requests)


@pytest.mark.parametrize(
    ("agent", "has_code"),
    [
        (Agent("hardware-mismatch", **OTHER), False),
        (Agent("stale", gate="closed", exit_code=85, node=""), False),
        (Agent("recovery-pending"), True),
    ],
)
def test_for_a_recovery_the_command_borrows_the_state(
    agent: Agent, has_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "request", agent.request)
    assert trio.run(partial(recover._with_agent, Config(), has_code=has_code)) is None


def test_an_agent_that_waits_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent("hardware-mismatch", **OTHER)
    text = f"the recovery {CASE} waits for an operator's approval until 2026-12-14 12:00 UTC"
    agent.conditions = [{"code": "recovery_pending", "text": text, "next": "Ask.", "since": "2026-11-30T12:00:00Z"}]
    document = with_agent(agent, monkeypatch)
    assert (document.outcome, document.exit_code, document.sentence) == ("recovery_pending", 88, f"T{text[1:]}.")


def test_without_an_agent_the_command_looks_itself(tmp_path: Path) -> None:
    assert trio.run(partial(recover._with_agent, Config(socket=tmp_path / "none"), has_code=False)) is None
