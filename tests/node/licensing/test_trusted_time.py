"""Trusted time over wrong wall clocks, power cuts, sleeps, restarts of the agent and signed times."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from node.licensing.trusted_time import (
    FAR_AHEAD,
    LATEST,
    SAVE_INTERVAL,
    UNCLEAN_RESETS_MAX,
    TimeFloor,
    TrustedTime,
    first_floor,
    least_high_of,
    low_of,
    observed,
    signed,
)
from protocol.encoding import json_decode, json_encode
from protocol.evidence import ClockInfo
from protocol.limits import CLOCK_SKEW
from tests.simulators.machine_clocks import DAY, MINUTE, START, MachineClocks

HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Site:
    """A machine whose agent stores its floor at each boot and each signed time."""

    def __init__(self) -> None:
        self.machine = MachineClocks()
        self.stored = first_floor(START - 30 * DAY, START)
        self.start()

    def start(self, boot: object = None) -> None:
        self.time = TrustedTime(self.stored, self.machine.clocks(), boot)  # type: ignore[arg-type]  # BootTime or None
        self.time.observe(self.machine.tpm())
        self.stored = self.time.floor

    def cloud(self) -> None:
        self.time.verified(self.machine.true)
        self.stored = self.time.floor

    def reboot(self, off: timedelta = timedelta(0), *, clean: bool = True, wall: datetime | None = None) -> None:
        self.machine.reboot(off, clean=clean)
        if wall is not None:
            self.machine.set_wall(wall)
        self.start()


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_floor_survives_a_round_trip() -> None:
    floor = TimeFloor(signed_at=START, powered_ms=5, clock=ClockInfo(9, 1, 0, True), unclean=2)
    assert json_decode(json_encode(floor), TimeFloor) == floor


def test_the_first_floor_is_the_latest_of_its_times() -> None:
    assert first_floor(START, START - DAY).signed_at == START
    assert first_floor(datetime.max.replace(tzinfo=UTC)).signed_at == LATEST


def test_powered_time_counts_over_reboots(site: Site) -> None:
    site.cloud()
    for _ in range(10):
        site.machine.run(DAY)
        site.reboot(DAY, wall=EPOCH)
    assert site.time.high() == START + site.machine.powered
    assert START + 8 * DAY < site.time.low() < START + 9 * DAY
    assert site.time.judged().source == "floor"


def test_without_a_wrong_clock_the_wall_clock_is_judged_after_time_without_power(site: Site) -> None:
    site.cloud()
    site.reboot(20 * DAY)
    judged = site.time.judged()
    assert (judged.high, judged.source, judged.suspect) == (site.machine.true, "wall-clock", False)


def test_a_clock_held_back_gains_the_time_without_power_only(site: Site) -> None:
    site.cloud()
    off = timedelta(0)
    for _ in range(30):
        site.machine.run(5 * HOUR)
        site.reboot(7 * HOUR, wall=START)
        off += 7 * HOUR
    assert site.machine.true - site.time.high() == off


@pytest.mark.parametrize("step", [-30 * DAY, 400 * DAY])
def test_after_a_signed_time_no_step_of_the_wall_clock_moves_trusted_time(site: Site, step: timedelta) -> None:
    site.cloud()
    site.machine.set_wall(site.machine.true + step)
    site.machine.run(HOUR)
    judged = site.time.judged()
    assert (judged.high, judged.source, judged.suspect) == (site.machine.true, "signed", True)
    assert site.machine.true - HOUR / 4 < judged.low <= judged.high


def test_before_a_signed_time_a_step_forward_within_the_boot_moves_nothing(site: Site) -> None:
    site.reboot()
    site.machine.set_wall(site.machine.true + 400 * DAY)
    assert site.time.high() == site.machine.true
    assert site.time.judged().suspect
    # A restart of the agent takes the time of the boot from the record.
    site.start(site.time.boot)
    assert site.time.high() == site.machine.true


def test_booted_far_ahead_and_offline_the_wall_clock_is_judged_and_a_correction_counts(site: Site) -> None:
    site.cloud()
    site.reboot(wall=site.machine.true + 400 * DAY)
    judged = site.time.judged()
    assert (judged.high, judged.suspect) == (site.machine.wall(), True)
    assert judged.least_high < START + HOUR
    site.machine.set_wall(site.machine.true)
    judged = site.time.judged()
    assert (judged.high, judged.suspect) == (site.machine.true, False)


def test_booted_far_ahead_a_signed_time_corrects_it(site: Site) -> None:
    site.reboot(wall=site.machine.true + 400 * DAY)
    site.cloud()
    judged = site.time.judged()
    assert (judged.high, judged.source, judged.suspect) == (site.machine.true, "signed", True)
    # Nothing of the wrong time is stored.
    site.reboot(wall=EPOCH)
    assert site.time.high() <= site.machine.true


def test_far_ahead_begins_after_its_bound(site: Site) -> None:
    site.cloud()
    site.reboot(FAR_AHEAD - HOUR)
    assert not site.time.judged().suspect
    site.reboot(2 * HOUR)
    assert site.time.judged().suspect


def test_an_empty_coin_cell_is_suspect_and_stops_nothing(site: Site) -> None:
    site.cloud()
    site.machine.run(DAY)
    site.reboot(wall=EPOCH)
    judged = site.time.judged()
    assert (judged.source, judged.suspect) == ("floor", True)
    assert START + DAY <= judged.high <= site.machine.true


@pytest.mark.parametrize("tpm_runs", [False, True])
def test_a_suspended_machine_judges_with_the_time_asleep(site: Site, *, tpm_runs: bool) -> None:
    site.cloud()
    site.machine.sleep(3 * DAY, tpm_runs=tpm_runs)
    assert site.time.high() == site.machine.true
    assert site.time.low() < START + HOUR
    site.time.observe(site.machine.tpm())
    site.reboot(wall=EPOCH)
    assert (site.time.high() > START + 3 * DAY) is tpm_runs


def test_a_time_that_was_signed_after_a_sleep_counts_no_time_twice(site: Site) -> None:
    site.machine.sleep(3 * DAY, tpm_runs=True)
    site.cloud()
    site.machine.run(MINUTE)
    site.stored = site.time.floor
    site.reboot(wall=EPOCH)
    assert site.time.low() <= site.time.high() <= site.machine.true


def test_a_false_length_of_a_sleep_is_not_stored(site: Site) -> None:
    """The kernel takes it from the real-time clock, which somebody may set while the machine sleeps."""
    site.cloud()
    site.machine.sleep(400 * DAY)
    site.machine.true -= 400 * DAY
    assert site.time.high() > START + 399 * DAY
    assert low_of(site.time.floor) < START + HOUR
    site.cloud()
    assert site.time.high() == site.machine.true
    site.reboot()
    assert site.time.high() == site.machine.true


def test_a_signed_time_that_is_slightly_older_moves_nothing_back(site: Site) -> None:
    site.cloud()
    high, low = site.time.high(), site.time.low()
    site.time.verified(site.machine.true - CLOCK_SKEW)
    assert (site.time.high(), site.time.low()) == (high, low)
    site.time.verified(site.machine.true - DAY)
    assert site.time.low() == low


def test_a_statement_is_a_lower_bound(site: Site) -> None:
    site.reboot(wall=EPOCH)
    site.time.passed(START + 5 * DAY)
    assert site.time.low() == site.time.high() == START + 5 * DAY
    site.time.passed(START)
    assert site.time.low() == START + 5 * DAY
    assert not site.time.confirmed


def test_a_statement_takes_no_measured_time_back(site: Site) -> None:
    """`low` counts 85 % of the measured time. A statement between `low` and `high` raises the one, not lowers the other."""
    site.cloud()
    site.machine.run(100 * DAY)
    site.reboot(wall=EPOCH)
    high = site.time.high()
    issued = site.machine.true - 5 * DAY
    assert site.time.low() < issued < high
    site.time.passed(issued)
    assert (site.time.low(), site.time.high()) == (issued, high)
    site.stored = site.time.floor
    site.reboot(wall=EPOCH)
    assert site.time.high() > high
    site.time.passed(issued)
    assert site.time.low() >= issued


def test_a_boot_without_a_clock_follows_the_first_right_clock_once(site: Site) -> None:
    """The coin cell is empty, and the time server of the site sets the clock some minutes after the boot."""
    site.cloud()
    site.reboot(10 * DAY, wall=EPOCH)
    assert site.time.high() < START + HOUR
    site.machine.set_wall(site.machine.true)
    judged = site.time.judged()
    assert (judged.high, judged.source, judged.suspect) == (site.machine.true, "wall-clock", False)
    site.start(site.time.boot)
    assert site.time.high() == site.machine.true
    for step in (1 * DAY, 20 * DAY):
        site.machine.set_wall(site.machine.true + step)
        assert site.time.high() == site.machine.true
    site.machine.set_wall(EPOCH)
    assert site.time.high() < START + HOUR, "a correction counts, down to the floor"


def test_a_boot_without_a_clock_follows_no_clock_that_is_far_ahead(site: Site) -> None:
    site.cloud()
    site.reboot(10 * DAY, wall=EPOCH)
    site.machine.set_wall(START + FAR_AHEAD + 2 * DAY)
    assert site.time.high() < START + HOUR
    assert site.time.judged().suspect
    site.machine.set_wall(site.machine.true)
    assert site.time.high() == site.machine.true


def test_each_power_cut_loses_a_bounded_time_and_their_number_is_bounded(site: Site) -> None:
    """A machine that loses its power every hour stops the TPM's clock. After the budget each loss counts in full."""
    site.cloud()
    for cut in range(UNCLEAN_RESETS_MAX + 30):
        before = site.time.high()
        site.machine.run(HOUR)
        site.reboot(clean=False, wall=EPOCH)
        assert site.stored.unclean == cut + 1
        assert site.time.high() >= before - SAVE_INTERVAL
    lost = site.machine.true - site.time.high()
    assert lost <= UNCLEAN_RESETS_MAX * SAVE_INTERVAL
    site.cloud()
    assert site.stored.unclean == 0


def test_resets_that_were_not_seen_count_as_unclean() -> None:
    floor = TimeFloor(signed_at=START, clock=ClockInfo(1000, 5, 0, True))
    assert observed(floor, ClockInfo(2000, 6, 0, True)).unclean == 0
    assert observed(floor, ClockInfo(2000, 8, 0, True)).unclean == 2
    assert observed(floor, ClockInfo(500, 8, 0, False)).unclean == 3
    assert observed(floor, ClockInfo(500, 8, 0, False)).powered_ms == 0


def test_a_tpm_that_was_put_back_adds_no_time() -> None:
    """The state of a virtual TPM comes from a backup. Its clock of three years says nothing about the time since."""
    three_years = ClockInfo(3 * 365 * 86_400_000, 80, 0, True)
    floor = TimeFloor(signed_at=START, powered_ms=10, clock=three_years)
    after = observed(floor, msgspec.structs.replace(three_years, clock=three_years.clock - 10**9, reset_count=70))
    assert (after.powered_ms, after.unclean) == (10, 0)
    assert observed(after, ClockInfo(three_years.clock - 10**9 + 700, 70, 0, True)).powered_ms == 710
    assert observed(floor, ClockInfo(700, 1, 0, False)).unclean == 1


def test_losses_above_the_budget_are_charged() -> None:
    floor = TimeFloor(signed_at=START, unclean=UNCLEAN_RESETS_MAX)
    assert least_high_of(floor) == START
    assert least_high_of(msgspec.structs.replace(floor, unclean=UNCLEAN_RESETS_MAX + 2)) == START + 2 * SAVE_INTERVAL
    assert low_of(msgspec.structs.replace(floor, unclean=UNCLEAN_RESETS_MAX + 2)) == START


def test_a_tpm_clock_that_was_set_forward_is_corrected_by_a_signed_time(site: Site) -> None:
    site.cloud()
    site.machine.tpm_ms += 10**11
    site.time.observe(site.machine.tpm())
    assert site.time.low() > START + 900 * DAY
    site.machine.run(MINUTE)
    site.cloud()
    assert (site.time.low(), site.time.high()) == (site.machine.true, site.machine.true)


@pytest.mark.parametrize(
    "content",
    [
        b'{"signed_at":"2027-03-01T12:00:00"}',
        b'{"signed_at":"2027-03-01T12:00:00Z","powered_ms":-1}',
        b'{"signed_at":"2027-03-01T12:00:00Z","powered_ms":9999999999999999}',
        b'{"signed_at":"2027-03-01T12:00:00Z","unclean":1000000}',
    ],
)
def test_a_floor_out_of_bounds_cannot_be_read(content: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        json_decode(content, TimeFloor)


def test_a_false_count_of_resets_stays_inside_the_calendar() -> None:
    floor = observed(TimeFloor(signed_at=START, clock=ClockInfo(0, 1, 0, True)), ClockInfo(1, 2**32, 0, False))
    assert json_decode(json_encode(floor), TimeFloor) == floor
    assert START < least_high_of(floor) < LATEST


@pytest.mark.parametrize("clock", [2**63, 2**64 - 1])
def test_a_false_tpm_clock_stays_inside_the_calendar(clock: int) -> None:
    floor = observed(TimeFloor(signed_at=LATEST - DAY, clock=ClockInfo(0, 1, 0, True)), ClockInfo(clock, 1, 0, True))
    assert low_of(floor) == least_high_of(floor) == LATEST


def test_a_signed_time_before_the_last_one_changes_nothing() -> None:
    floor = TimeFloor(signed_at=START)
    assert signed(floor, START + DAY, START - MINUTE, None) is floor
    assert signed(floor, START + MINUTE, START, None) is floor


def test_a_restarted_agent_keeps_what_this_boot_knows(site: Site) -> None:
    stored = site.stored
    site.time.verified(site.machine.true)
    site.machine.run(20 * DAY)
    site.machine.set_wall(START)
    low, high = site.time.low(), site.time.high()
    # The floor of the disk is older than the signed time of the boot.
    site.stored = stored
    site.start(site.time.boot)
    assert site.time.confirmed
    assert (site.time.low(), site.time.high()) == (low, high)
    assert low_of(site.time.floor) == low


def test_a_record_of_the_boot_from_before_a_correction_does_not_count(site: Site) -> None:
    """An activation corrects the floor, and leaves the record of the boot to the agent."""
    site.machine.tpm_ms += 30 * 86_400_000
    site.start()
    site.start()
    boot = site.time.boot
    site.machine.run(HOUR)
    activation = TrustedTime(first_floor(START), site.machine.clocks())
    activation.observe(site.machine.tpm())
    activation.verified(site.machine.true)
    site.stored = activation.floor
    site.start(boot)
    assert site.time.low() == site.machine.true


def test_a_time_that_has_passed_is_in_the_record_of_the_boot(site: Site) -> None:
    """So a restarted agent counts the record, and the time awake since. A machine without a TPM has no other clock."""
    site.time.passed(START + HOUR)
    boot, kept = site.time.boot, site.time.kept
    assert boot.floor.signed_at == START + HOUR
    site.machine.run(HOUR)
    low = site.time.low()
    assert TrustedTime(kept, site.machine.clocks(), boot).low() == low


def test_a_lost_record_of_the_boot_is_like_a_boot_with_this_wall_clock(site: Site) -> None:
    site.cloud()
    site.machine.run(20 * DAY)
    site.machine.set_wall(START)
    site.start()
    assert not site.time.confirmed
    assert START + 20 * DAY <= site.time.high() <= site.machine.true
    assert site.time.judged().suspect


def test_a_record_of_the_future_of_this_boot_is_ignored(site: Site) -> None:
    site.machine.run(DAY)
    site.cloud()
    record = site.time.boot
    site.machine.boot = MINUTE
    assert not TrustedTime(site.stored, site.machine.clocks(), record).confirmed


def test_a_floor_without_a_reading_counts_from_its_first_one() -> None:
    machine = MachineClocks()
    time = TrustedTime(first_floor(START), machine.clocks())
    assert time.floor.clock is None
    time.verified(START + DAY)
    assert time.floor == TimeFloor(signed_at=START + DAY)
    time.observe(machine.tpm())
    assert time.floor.powered_ms == 0


def test_the_window_of_certificates_begins_at_any_time_until_the_cloud_has_signed_a_time(site: Site) -> None:
    assert site.time.window().high is None
    site.cloud()
    assert site.time.window() == (site.time.low(), site.time.high())


def test_a_wall_clock_at_the_beginning_of_the_calendar(site: Site) -> None:
    site.machine.run(DAY)
    clocks = site.machine.clocks()._replace(wall=lambda: datetime.min.replace(tzinfo=UTC))
    assert TrustedTime(site.stored, clocks).high() >= START


# A signed time that was carried to the machine


def test_a_delivered_time_leaves_a_right_clock_alone(site: Site) -> None:
    """The answer was signed a day before the import, and the journey took that day."""
    site.machine.run(3 * DAY)
    signed_at = site.machine.true - DAY
    site.time.delivered(signed_at, signed_at + 14 * DAY)
    judged = site.time.judged()
    assert (judged.high, judged.suspect, site.time.confirmed) == (site.machine.true, False, True)
    assert site.time.low() >= signed_at


@pytest.mark.parametrize("error", [-400 * DAY, 400 * DAY])
def test_a_delivered_time_corrects_a_wrong_clock(site: Site, error: timedelta) -> None:
    site.reboot(wall=site.machine.true + error)
    signed_at = site.machine.true + HOUR
    site.machine.run(2 * HOUR)
    site.time.delivered(signed_at, signed_at + 14 * DAY)
    assert site.time.high() == max(signed_at, site.time.low()) <= site.machine.true
    assert site.time.judged().suspect


def test_in_the_boot_of_the_request_a_delivered_time_is_near(site: Site) -> None:
    """The clock is an hour ahead, and half an hour has passed since the request."""
    site.machine.run(HOUR)
    site.machine.set_wall(site.machine.true + HOUR)
    signed_at = site.machine.true - 10 * MINUTE
    site.time.delivered(signed_at, signed_at + 30 * MINUTE)
    assert site.time.high() == max(signed_at, site.time.low()) <= site.machine.true


def test_a_delivered_time_shows_a_tpm_clock_that_was_set_forward(site: Site) -> None:
    clock = site.machine.tpm()
    site.time.observe(msgspec.structs.replace(clock, clock=clock.clock + 90 * 86_400_000))
    assert site.time.low() > site.machine.true + 60 * DAY
    site.time.delivered(site.machine.true, site.machine.true + HOUR)
    assert site.time.low() <= site.machine.true + HOUR


def test_a_delivered_time_takes_nothing_back(site: Site) -> None:
    site.machine.run(DAY)
    site.cloud()
    before = site.time.low(), site.time.high(), site.time.floor
    site.time.delivered(site.machine.true - 5 * DAY, site.machine.true + DAY)
    assert (site.time.low(), site.time.high(), site.time.floor) == before
