"""Wrong wall clocks of a complete agent on a software TPM, one row of each kind.

`tests/system/support/attacks/clocks.py` has the whole table, with real commands and a real cloud.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.agent import Agent
from node.clock import monotonic
from node.config import Config
from node.exits import Exit
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import RECORD
from node.licensing.verdict import LicenceState
from node.state import State
from tests.node.shells import agent_config
from tests.simulators.fabric import DAY, Fabric, always, utc_now

pytestmark = pytest.mark.slow

SECOND = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC) - utc_now()
NONCES = "/v1/node/nonces"


class Site:
    """A machine whose clocks a test sets, and the agent on it."""

    def __init__(self, config: Config, tpm: Tpm, fabric: Fabric) -> None:
        self.config, self.tpm, self.fabric = config, tpm, fabric
        self.error = timedelta(0)
        self.slept = self.ran = 0.0

    def wall(self) -> datetime:
        return utc_now() + timedelta(seconds=self.slept + self.ran) + self.error

    async def boot(self, error: timedelta = timedelta(0), *, online: bool = True) -> Agent:
        """Start the agent of a new boot. The wall clock is wrong by `error`."""
        (self.config.socket.parent / RECORD).unlink(missing_ok=True)
        self.error = error
        self.connect(online=online)
        state = State(self.config.state_dir)
        self.agent = Agent.load(
            self.config, state, self.tpm, self.wall, lambda: self.slept, lambda: monotonic() + self.ran
        )
        await self.agent.licence.check_hardware()
        if online:
            await self.contact()
        return self.agent

    def connect(self, *, online: bool) -> None:
        """Let the cloud answer, or not."""
        self.fabric.answers.pop(NONCES, None)
        if not online:
            self.fabric.answers[NONCES] = always(503)

    async def contact(self) -> None:
        self.connect(online=True)
        assert await self.agent.contact.attempt()

    async def end(self) -> None:
        await self.agent.contact.connection.close()

    def shown(self) -> tuple[LicenceState, bool, Exit, bool]:
        verdict = self.agent.licence.verdict()
        return verdict.state, verdict.gate_open, verdict.exit, verdict.clock_suspect


@pytest.fixture
def site(tmp_path: Path, state: State, tpm: Tpm, fabric: Fabric) -> Site:
    assert state.directory.exists()
    return Site(agent_config(tmp_path, settle_seconds=1), tpm, fabric)


@pytest.mark.parametrize("error", [-30 * DAY, 400 * DAY, EPOCH], ids=["back 30 days", "forward 400 days", "1970"])
async def test_a_step_while_the_machine_runs_changes_nothing(site: Site, error: timedelta) -> None:
    await site.boot()
    assert site.shown() == ("active", True, Exit.OK, False)
    site.error = error
    assert site.shown() == ("active", True, Exit.OK, True)
    await site.contact()
    assert site.shown() == ("active", True, Exit.OK, True)
    # A restarted agent knows the signed time of this boot.
    await site.end()
    again = Agent.load(site.config, State(site.config.state_dir), site.tpm, site.wall)
    assert again.licence.time.judged().source == "signed"


@pytest.mark.parametrize("error", [-30 * DAY, EPOCH], ids=["back 30 days", "1970"])
async def test_booted_offline_with_an_empty_coin_cell_the_machine_works(site: Site, error: timedelta) -> None:
    await site.boot(error, online=False)
    assert site.shown() == ("active", True, Exit.OK, True)
    await site.contact()
    assert site.agent.licence.time.judged().source == "signed"
    await site.end()


async def test_booted_ahead_and_offline_a_correction_or_the_cloud_opens_the_gate(site: Site) -> None:
    await site.boot(400 * DAY, online=False)
    assert site.shown() == ("terminated", False, Exit.CLOCK, True)
    site.error = timedelta(0)
    assert site.shown() == ("active", True, Exit.OK, False)
    site.error = 400 * DAY
    assert site.shown() == ("terminated", False, Exit.CLOCK, True)
    await site.contact()
    assert site.shown() == ("active", True, Exit.OK, True)
    await site.end()


@pytest.mark.parametrize(
    ("date", "before", "after"),
    [
        ("refresh_after", "active", "refresh-due"),
        ("expires_at", "refresh-due", "grace"),
        ("grace_until", "grace", "restricted"),
        ("terminate_at", "restricted", "terminated"),
    ],
)
async def test_a_step_back_and_forth_around_each_date(site: Site, date: str, before: str, after: str) -> None:
    """Booted on either side of the date, the wall clock decides. A step within the boot never moves time forward."""
    await site.boot(online=False)
    lease = site.agent.licence.lease
    assert lease is not None
    to_date = getattr(lease, date) - utc_now()
    await site.boot(to_date - 60 * SECOND, online=False)
    assert site.shown()[0] == before
    site.error = to_date + 60 * SECOND
    assert site.shown()[0] == before
    await site.boot(to_date + 60 * SECOND, online=False)
    assert site.shown()[0] == after
    site.error = to_date - 60 * SECOND
    assert site.shown()[0] == before
    site.error = to_date + 60 * SECOND
    assert site.shown()[0] == after


async def test_a_slow_clock_prolongs_no_lease(site: Site) -> None:
    """The wall clock has lost half of 80 days. The time since the boot counts."""
    await site.boot()
    site.ran += 80 * 86_400
    site.error = -40 * DAY
    site.connect(online=False)
    assert site.shown() == ("terminated", False, Exit.TERMINATED, True)
    await site.end()


async def test_a_suspended_machine_judges_with_the_time_asleep(site: Site) -> None:
    await site.boot()
    site.slept += 31 * 86_400
    assert site.shown()[0] == "grace"
    site.slept += 30 * 86_400
    assert site.shown() == ("terminated", False, Exit.TERMINATED, False)
    await site.end()
