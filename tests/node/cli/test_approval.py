"""A command that waits for an operator leaves the state to the agent, and takes it again once the cloud has decided."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.disk.identity import IdentityStore
from node.disk.lock import StateLock
from node.errors import StateBusy
from protocol.encoding import json_encode
from protocol.ids import ActivationId
from protocol.messages.activation import AwaitedApproval
from protocol.messages.recovery import AwaitedRecovery
from tests.node.cli.test_main import Cli, cli, cloud, installed
from tests.node.cli.test_recover import CASE, lost_key
from tests.node.conftest import Machine
from tests.simulators.fabric import DAY, Fabric, Reply, problem, utc_now
from tests.simulators.site import repository_of, write_activation_file

__all__ = ["cli", "cloud", "installed"]

pytestmark = pytest.mark.slow

ENDS = utc_now() + 14 * DAY


class Operator:
    """Decides the question number `decides_at`. `found` has what each question met: whether the state was free, and
    when the wait that is stored ends."""

    def __init__(self, state: Path, decides_at: int, decision: Callable[[], Reply | None]) -> None:
        self.found: list[tuple[bool, datetime | None]] = []
        self._state, self._decides_at, self._decision = state, decides_at, decision

    def __call__(self, activation: str) -> Reply | None:
        lock = StateLock(self._state)
        try:
            lock.acquire()
            free = True
        except StateBusy:
            free = False
        lock.release()
        waits = IdentityStore(self._state).approval_wait()
        self.found.append((free, waits.expires_at if waits else None))
        number = len(self.found)
        if number >= self._decides_at:
            return self._decision()
        # The third question prolongs the wait.
        ends = ENDS if number < 3 else ENDS + DAY
        return Reply(202, json_encode(AwaitedApproval(ActivationId(activation), ENDS, ends, 10)))


@pytest.fixture
def file(cli: Cli, cloud: Fabric, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for limit in ("MIN", "MAX"):
        monkeypatch.setattr(f"node.exchanges.approval.APPROVAL_RETRY_SECONDS_{limit}", 0.01)
    with repository_of(cloud).served() as served:
        yield str(write_activation_file(cli.directory / "file.json", served.url, served.pin))


def test_between_the_questions_and_during_them_the_state_is_free(cli: Cli, cloud: Fabric, file: str) -> None:
    cloud.decides = operator = Operator(cli.state, 5, lambda: None)
    assert cli.json("activate", file)[1]["state"] == "active"
    # The first question is the beginning of the activation. After the approval the cloud repeats its answer.
    assert operator.found == [(False, None), (True, ENDS), (True, ENDS), (True, ENDS + DAY), (True, ENDS + DAY)]
    assert IdentityStore(cli.state).load_activation() is None


def test_a_denied_activation_is_removed(cli: Cli, cloud: Fabric, file: str) -> None:
    cloud.decides = operator = Operator(cli.state, 3, lambda: problem("approval_denied"))
    code, document = cli.json("activate", file)
    assert (code, document["error"]["code"]) == (77, "approval_denied")
    assert [free for free, _ in operator.found] == [False, True, True]
    assert IdentityStore(cli.state).load_activation() is None


def test_without_a_wait_it_asks_once(cli: Cli, cloud: Fabric, file: str) -> None:
    cloud.decides = operator = Operator(cli.state, 9, lambda: None)
    code, document = cli.json("activate", file, "--no-wait")
    assert (code, document["error"]["code"], len(operator.found)) == (88, "approval_pending", 1)


def test_an_activation_that_replaces_the_one_that_waits_stays(cli: Cli, cloud: Fabric, file: str) -> None:
    """Another command may use the free state."""

    def denied() -> Reply:
        stored = IdentityStore(cli.state).load_activation()
        assert stored is not None
        IdentityStore(cli.state).save_activation(replace(stored, activation=ActivationId("act_other")))
        return problem("approval_denied")

    cloud.decides = Operator(cli.state, 2, denied)
    assert cli.json("activate", file)[0] == 77
    stored = IdentityStore(cli.state).load_activation()
    assert stored is not None
    assert stored.activation == "act_other"


def test_a_recovery_leaves_the_state_free_as_well(cli: Cli, cloud: Fabric, file: str, machine: Machine) -> None:
    lost_key(cli, cloud, machine)
    cloud.awaited = AwaitedRecovery(CASE, "needs_operator", "operator-or-code", ENDS)

    def approved() -> None:
        if len(operator.found) == 3:
            cloud.awaited = None

    cloud.decides = operator = Operator(cli.state, 1, approved)
    code, document = cli.json("recover")
    assert (code, document["outcome"]) == (0, "recovered")
    assert [free for free, _ in operator.found] == [False, True, True]


def test_a_recovery_that_is_denied_says_so(cli: Cli, cloud: Fabric, file: str, machine: Machine) -> None:
    lost_key(cli, cloud, machine)
    cloud.awaited = AwaitedRecovery(CASE, "needs_operator", "operator-or-code", ENDS)

    def denied() -> Reply | None:
        return problem("approval_denied") if len(operator.found) == 2 else None

    cloud.decides = operator = Operator(cli.state, 1, denied)
    code, document = cli.json("recover")
    assert (code, document["outcome"]) == (77, "approval_denied")
    assert IdentityStore(cli.state).load_activation() is None
