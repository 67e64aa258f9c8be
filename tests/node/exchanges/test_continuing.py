"""The agent continues a recovery that waits: on a machine with an identity and on one without."""

import pytest
import trio

from node.clock import utc_now
from node.config import Config
from node.exchanges import approval, continuing
from node.exchanges.approval import ApprovalPending
from node.exchanges.continuing import continue_recovery, waiting_recovery
from node.exchanges.recovery import Source
from node.hwbind.tpm import Tpm
from node.state import State
from tests.node.exchanges.test_recovery import (
    Site,
    emptied,
    reinstalled,
    repository,
    source,
    waits,
)
from tests.node.shells import agent_config
from tests.node.test_startup import started
from tests.simulators.fabric import NODE, Fabric, always, refused
from tests.waiting import until

__all__ = ["emptied", "reinstalled", "repository", "source"]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses that the cloud asks for are bounded by milliseconds."""
    for name in ("APPROVAL_RETRY_SECONDS_MIN", "APPROVAL_RETRY_SECONDS_MAX"):
        monkeypatch.setattr(approval, name, 0.01)


async def wait(site: Site, fabric: Fabric, source: Source | None = None) -> None:
    """Have the machine's recovery wait."""
    fabric.awaited = waits()
    with pytest.raises(ApprovalPending):
        await site.recover(node=NODE, source=source)


def proofs(fabric: Fabric) -> list[bytes]:
    return [request.body for request in fabric.requests if request.path.endswith("/proof")]


async def test_a_refusal_ends_the_wait_and_is_a_condition(emptied: Site, fabric: Fabric, tpm: Tpm) -> None:
    await wait(emptied, fabric)
    path = next(request.path for request in fabric.requests if request.path.endswith("/proof"))
    fabric.answers[path] = refused("approval_denied")
    state = State(emptied.directory)
    with state.owned():
        assert not await continue_recovery(state, tpm, utc_now)
    (condition,) = state.conditions.current()
    assert (condition.code, "cascadia recover" in condition.next) == ("recovery_ended", True)
    assert state.identities.generations() == (1,)
    assert waiting_recovery(state) is None


async def test_a_silent_cloud_only_prolongs_the_wait(
    emptied: Site, fabric: Fabric, tpm: Tpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wait(emptied, fabric)
    monkeypatch.setattr(continuing, "RETRY_SECONDS_MIN", 0.01)
    path = next(request.path for request in fabric.requests if request.path.endswith("/proof"))
    fabric.awaited = None
    fabric.answers[path] = always(503)
    state = State(emptied.directory)
    sent = len(proofs(fabric))
    with state.owned():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(continue_recovery, state, tpm, utc_now)
            await until("some failures", lambda: len(proofs(fabric)) > sent + 2)
            assert state.identities.load_activation() is not None
            del fabric.answers[path]
    assert state.identities.generations() == (1, 2)
    assert waiting_recovery(state) is None


async def test_without_a_recovery_nothing_is_sent(state: State, tpm: Tpm, fabric: Fabric) -> None:
    assert not await continue_recovery(state, tpm, utc_now)
    assert not fabric.requests


async def until_active(config: Config, tpm: Tpm, fabric: Fabric, before: str) -> None:
    """Start the agent, which waits in the state `before`, and approve the recovery."""
    async with started(config, tpm) as ask:

        async def state_is(expected: str) -> bool:
            return ((await ask("license")) or {}).get("state") == expected

        await until(f"the state {before}", lambda: state_is(before))
        await until("a repeat of the agent", lambda: len(proofs(fabric)) > 1)
        conditions = [each["code"] for each in (await ask("status"))["conditions"]]
        assert "recovery_pending" in conditions
        fabric.awaited = None
        await until("the confirmation of the new generation", lambda: state_is("active"))
        assert (await ask("license"))["node"] == NODE
    assert fabric.confirmed == fabric.last_generation == 2
    assert len(set(proofs(fabric))) == 1, "every repeat has the same bytes"
    assert State(config.state_dir).identities.load_activation() is None


async def test_an_agent_on_a_cleared_chip_runs_again_after_the_approval(
    emptied: Site, fabric: Fabric, tpm: Tpm
) -> None:
    await wait(emptied, fabric)
    config = agent_config(emptied.directory.parent, settle_seconds=1)
    await until_active(config, tpm, fabric, "hardware-mismatch")


async def test_an_agent_without_an_identity_waits_and_runs_after_the_approval(
    reinstalled: Site, fabric: Fabric, tpm: Tpm, source: Source
) -> None:
    await wait(reinstalled, fabric, source)
    config = agent_config(reinstalled.directory.parent, settle_seconds=1)
    await until_active(config, tpm, fabric, "pending")
