"""`node.licensing.raising` on a software TPM: when the floor rises, what each fault leaves behind, and what fits."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.lowlevel import checkpoint
from trio.testing import MockClock

from node.clock import utc_now
from node.conditions import Conditions
from node.disk.identity import Identity
from node.errors import DiskFull
from node.hwbind import counter
from node.hwbind.errors import TpmBusy, TpmNvFull
from node.hwbind.tpm import Esys, Tpm
from node.licensing import floor_writing
from node.licensing.floor_memory import label_of, read_counter
from node.licensing.floor_store import FloorStore
from node.licensing.floors import FloorView, Silent
from node.licensing.raising import NO_COUNTER, NOT_RAISED, FloorKeeper
from node.licensing.trusted_time import TimeFloor
from protocol import faults
from protocol.evidence import NvCounter
from protocol.ids import NodeId
from protocol.signed.statements import Verified
from tests.node.conftest import Machine
from tests.node.licensing.samples import (
    DAY,
    HOLDER,
    KEY,
    OTHER_KEY,
    RING,
    T0,
    make_lease,
    make_revocation,
    make_suspension,
    verified,
)
from tests.node.shells import forget_floors
from tests.off_loop import off_loop
from tests.simulators.chip_memory import forget_counters

pytestmark = pytest.mark.slow

LABEL = label_of(HOLDER)
LEASE = verified(make_lease(seq=5))


class Killed(BaseException):
    """The process ends here."""


class Refusing(Tpm):
    """A TPM that refuses its next works with a fault, before or after it has done them."""

    def __init__(self, tcti: str) -> None:
        super().__init__(tcti)
        self.fault: Exception | None = None
        self.works = 0

    def call(self, work: Callable[[Esys], Any]) -> Any:
        self.works += 1
        if self.fault is not None:
            raise self.fault
        return super().call(work)


class Site:
    """A state directory on a chip, and a keeper for each start."""

    def __init__(self, directory: Path, machine: Machine, tpm: Refusing) -> None:
        self.directory, self.tpm = directory, tpm
        self.conditions = Conditions(utc_now)
        self.store = FloorStore(directory)
        self.now = T0
        self.boot = "boot-1"
        self.uptime = 0.0
        self.identity = Identity(
            trust_domain=HOLDER.trust_domain,
            tenant=HOLDER.tenant,
            node=HOLDER.node,
            generation=1,
            activated_at=T0,
            confirm_by=T0,
            fingerprint_salt=bytes(32),
            ak=machine.ak,
            node_key=machine.node_key,
            chain=(b"",),
        )

    def start(self, *, promised: bool = False, use: bool = True) -> tuple[FloorKeeper, FloorView]:
        keeper = FloorKeeper(
            self.store,
            self.conditions,
            clock=lambda: self.now,
            boot_id=lambda: self.boot,
            elapsed=lambda: self.uptime,
        )
        keeper.tpm = self.tpm
        keeper.load(HOLDER, self.identity.node_key.public_key())
        answer = off_loop(lambda: Tpm.call(self.tpm, lambda esys: read_counter(esys, LABEL, keeper.place)))
        view = keeper.view(HOLDER, RING, answer, promised=promised)
        if use:
            keeper.use(self.identity)
        return keeper, view

    async def first(self, statement: Verified = LEASE) -> FloorKeeper:
        """The floor of a node whose first statement has just been stored."""
        keeper, view = self.start()
        assert view.judged.state == "none"
        keeper.note(statement)
        keeper.confirm_fresh(statement)
        assert await keeper.raise_now()
        return keeper

    @property
    def value(self) -> int:
        found = off_loop(lambda: Tpm.call(self.tpm, lambda esys: counter.find(esys, LABEL)))
        return found.value if found is not None else 0

    def copies(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.store.paths}


@pytest.fixture
def site(tmp_path: Path, machine: Machine) -> Iterator[Site]:
    forget_floors(machine.chip.tcti)
    port = Refusing(machine.chip.tcti)
    yield Site(tmp_path / "state", machine, port)
    port.close()


def standing(site: Site, *, promised: bool = False) -> str:
    return site.start(promised=promised)[1].judged.state


async def test_the_first_floor_needs_a_fresh_answer(site: Site) -> None:
    keeper, _ = site.start()
    keeper.note(LEASE)
    assert await keeper.raise_now()
    assert site.value == 0, "without an answer of the cloud no record is made"
    keeper.confirm_fresh(LEASE)
    assert await keeper.raise_now()
    _, view = site.start()
    assert (view.judged.state, view.floor, view.generation) == ("current", (1, 5), 1)
    status = keeper.status()
    assert (status.present, status.record_state, status.value, status.writes) == (True, "current", site.value, 1)
    assert status.index == f"{counter.places(LABEL)[0]:#010x}"


async def test_a_raise_happens_once_a_change_and_once_a_boot(site: Site) -> None:
    keeper = await site.first()
    before = site.value
    for _ in range(3):
        assert await keeper.raise_now()
    assert site.value == before
    keeper.note(verified(make_lease(seq=6)))
    assert await keeper.raise_now()
    assert site.value == before + 1
    site.boot = "boot-2"
    again, _ = site.start()
    for _ in range(3):
        assert await again.raise_now()
    assert site.value == before + 2
    same_boot, _ = site.start()
    assert await same_boot.raise_now()
    assert site.value == before + 2


async def test_an_older_copy_is_stale_until_the_cloud_answers(site: Site) -> None:
    keeper = await site.first()
    old = site.copies()
    keeper.note(verified(make_suspension(seq=6), OTHER_KEY))
    assert await keeper.raise_now()
    for path, data in old.items():
        path.write_bytes(data)
    restored, view = site.start()
    assert view.judged.state == "stale"
    assert "older than the TPM's counter" in view.judged.reason
    before = site.value
    assert await restored.raise_now()
    assert site.value == before, "a record that does not fit is not raised"
    lease = verified(make_lease(seq=7))
    restored.confirm_fresh(lease)
    assert await restored.raise_now()
    assert site.value == before, "the disk has only the older lease"
    assert not restored.stale
    restored.note(lease)
    assert await restored.raise_now()
    assert site.value == before + 1
    _, view = site.start()
    assert (view.judged.state, view.floor) == ("current", (1, 7))


async def test_a_removed_counter_is_stale_and_comes_back_above(site: Site) -> None:
    await site.first()
    before = site.value
    off_loop(lambda: Tpm.call(site.tpm, partial(forget_counters, label=LABEL)))
    assert standing(site) == "stale"
    for path in site.store.paths:
        path.unlink()
    assert standing(site, promised=True) == "stale", "the lease names a counter"
    assert standing(site) == "none"
    keeper, _ = site.start(promised=True)
    keeper.note(LEASE)
    keeper.confirm_fresh(LEASE)
    assert await keeper.raise_now()
    assert site.value > before
    assert standing(site, promised=True) == "current"


async def test_damaged_copies_are_repaired_by_a_fresh_answer(site: Site) -> None:
    await site.first()
    for path in site.store.paths:
        path.write_bytes(b"{}")
    assert standing(site) == "stale"
    keeper, _ = site.start()
    keeper.note(LEASE)
    keeper.confirm_fresh(LEASE)
    assert await keeper.raise_now()
    assert standing(site) == "current"


async def test_a_damaged_copy_is_shown_until_the_next_raise(site: Site) -> None:
    await site.first()
    site.store.paths[1].write_bytes(b"{}")
    keeper, view = site.start()
    assert view.judged.state == "current"
    assert str(site.store.paths[1]) in view.damaged[0]
    keeper.note(verified(make_lease(seq=6)))
    assert await keeper.raise_now()
    assert keeper.view(HOLDER, RING, Silent(), promised=False).damaged == ()
    assert site.start()[1].damaged == ()


async def test_the_first_record_comes_before_the_first_lease(site: Site) -> None:
    """The lease names the counter. Beside the first record it is not stale, whether or not the floor has risen."""
    keeper, _ = site.start(use=False)
    assert await keeper.establish(site.identity, None) is not None
    assert standing(site) == "stale", "without a lease this start asks the cloud in any case"
    before = site.value
    for _ in range(2):
        await keeper.begin(site.identity, None)
    assert site.value == before + 1
    started, view = site.start(promised=True)
    assert (view.judged.state, view.floor, view.generation) == ("current", None, 1)
    for one in (started, keeper):
        one.use(site.identity)
        one.note(LEASE)
    assert await started.raise_now()
    assert site.value == before + 2
    assert site.start(promised=True)[1].floor == (1, 5)
    assert "T-99" not in started.status().undefended


async def test_a_counter_that_comes_after_the_first_lease_is_reported_at_once(site: Site) -> None:
    keeper, _ = site.start()
    reported: list[int | None] = []
    keeper.on_counter = lambda: reported.append(keeper.place)
    keeper.note(LEASE)
    keeper.confirm_fresh(LEASE)
    assert await keeper.raise_now()
    keeper.note(verified(make_lease(seq=6)))
    assert await keeper.raise_now()
    assert reported == [counter.places(LABEL)[0]]
    assert "T-99" in keeper.status().undefended


async def test_the_node_in_force_keeps_its_record_until_the_next_generation_is_confirmed(site: Site) -> None:
    keeper, _ = site.start()
    later = msgspec.structs.replace(site.identity, generation=2)
    assert await keeper.establish(later, site.identity.holder) is None
    await keeper.begin(later, site.identity.holder)
    assert (site.value, standing(site)) == (0, "none"), "a counter alone would make the present lease stale"


async def test_another_node_in_force_keeps_one_copy_of_its_record(site: Site) -> None:
    keeper = await site.first()
    node = NodeId("node_0" + "9" * 25)
    other = msgspec.structs.replace(site.identity, node=node, generation=2)
    label = label_of(other.holder)
    counted = off_loop(lambda: Tpm.call(site.tpm, partial(forget_counters, label=label)))
    assert counted is None
    assert await keeper.establish(other, site.identity.holder) is not None
    await keeper.begin(other, site.identity.holder)
    assert standing(site) == "current", "the present node runs on its first copy"
    store = site.store.load(other.holder, site.identity.node_key.public_key())
    assert [record.node for record in store.records] == [node]
    keeper.use(other)
    assert keeper.place == counter.places(label)[0]
    assert keeper.fits


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("point", ["node.floor.establish", "node.floor.write", "node.floor.copy", "node.floor.count"])
async def test_a_kill_before_the_first_lease_is_made_up_for(
    site: Site, point: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook(name: str, when: faults.Stage) -> None:
        if (name, when) == (point, stage):
            raise Killed

    keeper, _ = site.start(use=False)
    monkeypatch.setattr(faults, "_hooks", [hook])
    with pytest.raises(Killed):
        await keeper.establish(site.identity, None)
        await keeper.begin(site.identity, None)
    monkeypatch.undo()
    again, _ = site.start(use=False)
    assert await again.establish(site.identity, None) is not None
    await again.begin(site.identity, None)
    assert standing(site, promised=True) in ("current", "unfinished")


@pytest.mark.parametrize("refuses", ["the disk", "the increment"])
async def test_a_refusal_before_the_first_lease_stops_no_activation(
    site: Site, refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, _ = site.start(use=False)
    await keeper.establish(site.identity, None)
    if refuses == "the disk":
        refused = {path: DiskFull(path) for path in site.store.paths}
        monkeypatch.setattr(FloorStore, "write", lambda *_: refused)
    else:
        monkeypatch.setattr(counter, "advance", lambda *_: (_ for _ in ()).throw(TpmBusy("the NV memory")))
    await keeper.begin(site.identity, None)
    assert [one.code for one in site.conditions.current()] == [NOT_RAISED]
    assert keeper.counter is not None
    assert keeper.counter.value == site.value, "a session reports the value that the TPM has"
    monkeypatch.undo()
    keeper.use(site.identity)
    keeper.note(LEASE)
    keeper.confirm_fresh(LEASE)
    assert await keeper.raise_now()
    assert site.start(promised=True)[1].floor == (1, 5)


POINTS = ["node.floor.write", "node.floor.copy", "node.floor.count"]


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_each_step_leaves_a_record_that_fits(
    site: Site, point: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await site.first()
    before = site.value
    keeper.note(verified(make_suspension(seq=6), OTHER_KEY))

    def hook(name: str, when: faults.Stage) -> None:
        if (name, when) == (point, stage):
            raise Killed

    monkeypatch.setattr(faults, "_hooks", [hook])
    with pytest.raises(Killed):
        await keeper.raise_now()
    monkeypatch.undo()
    after, view = site.start()
    written = (point, stage) != ("node.floor.write", "before")
    counted = (point, stage) == ("node.floor.count", "after")
    assert view.judged.state == ("unfinished" if written and not counted else "current")
    assert view.floor == ((1, 6) if written else (1, 5))
    # The statement was stored before, so the start knows it.
    after.note(verified(make_suspension(seq=6), OTHER_KEY))
    assert await after.raise_now()
    assert site.value == before + 1
    _, view = site.start()
    assert (view.judged.state, view.floor) == ("current", (1, 6))


async def test_a_refusal_of_the_disk_keeps_the_value_for_one_content(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await site.first()
    before = site.value
    refused = {path: DiskFull(path) for path in site.store.paths}
    monkeypatch.setattr(FloorStore, "write", lambda *_: refused)
    keeper.note(verified(make_lease(seq=6)))
    assert not await keeper.raise_now()
    assert [one.code for one in site.conditions.current()] == [NOT_RAISED]
    assert site.value == before
    keeper.note(verified(make_lease(seq=7)))
    monkeypatch.undo()
    assert await keeper.raise_now()
    assert site.value == before + 2, "the signed record is completed before the next one is signed"
    assert site.conditions.current() == ()
    assert standing(site) == "current"


async def test_a_tpm_that_refuses_keeps_the_floor_in_memory(site: Site) -> None:
    keeper = await site.first()
    before = site.value
    site.tpm.fault = TpmBusy("another program")
    keeper.note(verified(make_suspension(seq=6), OTHER_KEY))
    assert not await keeper.raise_now()
    assert "busy" in site.conditions.current()[0].text
    site.tpm.fault = None
    assert await keeper.raise_now()
    assert (site.value, site.conditions.current()) == (before + 1, ())


async def test_an_increment_that_fails_does_not_stop_the_machine(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worn NV cell: the record is one above the counter, and a restart runs."""
    keeper = await site.first()

    def worn(*_: object) -> int:
        raise TpmBusy("the NV memory")

    monkeypatch.setattr(counter, "advance", worn)
    keeper.note(verified(make_lease(seq=6)))
    assert not await keeper.raise_now()
    _, view = site.start()
    assert (view.judged.state, view.floor) == ("unfinished", (1, 6))
    monkeypatch.setattr(FloorStore, "write", None)
    for _ in range(3):
        assert not await keeper.raise_now(), "a retry writes no copy again"
    (condition,) = site.conditions.current()
    assert condition.code == NOT_RAISED
    assert "the record is stored; the TPM does not advance its counter" in condition.text


async def test_a_counter_that_does_not_advance_is_tried_once_an_hour(
    site: Site, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    # Works of the disk and of the TPM take real time. The clock of the test does not advance meanwhile.
    autojump_clock.autojump_threshold = float("inf")
    keeper = await site.first()
    tries: list[float] = []

    async def refuse(*_: object) -> None:
        tries.append(trio.current_time())
        await checkpoint()
        raise TpmBusy("the NV memory")

    monkeypatch.setattr(floor_writing, "count", refuse)
    keeper.note(verified(make_lease(seq=6)))
    assert not await keeper.raise_now()
    autojump_clock.autojump_threshold = 0.0
    with trio.move_on_after(DAY.total_seconds()):
        await keeper.run()
    pauses = [later - earlier for earlier, later in pairwise(tries[1:])]
    assert max(pauses) == 3600.0
    assert len(tries) < 12 + 24


async def test_a_chip_without_room_has_no_floor_and_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NvCounter:
        raise TpmNvFull("no room")

    monkeypatch.setattr(counter, "establish", full)
    keeper, _ = site.start()
    keeper.note(LEASE)
    keeper.confirm_fresh(LEASE)
    assert not await keeper.raise_now()
    assert await keeper.establish(site.identity, None) is None
    (condition,) = site.conditions.current()
    assert (condition.code, "tpm2_nvundefine" in condition.next) == (NO_COUNTER, True)
    assert (keeper.status().present, keeper.status().record_state) == (False, "none")
    monkeypatch.undo()
    assert await keeper.raise_now()
    assert site.conditions.current() == ()


async def test_a_corrected_time_replaces_the_time_of_the_record(site: Site) -> None:
    # The TPM's clock was set forward by 30 days before the record was written. A signed time corrects it.
    wrong = TimeFloor(signed_at=T0, powered_ms=30 * 86_400_000)
    keeper, _ = site.start()
    keeper.time = lambda: wrong
    keeper.note(LEASE)
    keeper.confirm_fresh(LEASE)
    assert await keeper.raise_now()
    value = site.value
    site.now += timedelta(minutes=5)
    site.uptime += 300.0
    keeper.time = lambda: TimeFloor(signed_at=T0, powered_ms=1000)  # lower, and no signed time says so
    assert await keeper.raise_now()
    assert site.value == value
    keeper.time = lambda: TimeFloor(signed_at=T0 + timedelta(minutes=5))
    keeper.confirm_fresh(LEASE)
    assert await keeper.raise_now()
    assert site.value == value + 1
    again, _ = site.start()
    assert again.time_floor == TimeFloor(signed_at=T0 + timedelta(minutes=5))
    assert await keeper.raise_now()
    assert site.value == value + 1


async def test_leases_and_boots_share_24_increments_a_day_and_suspensions_do_not(site: Site) -> None:
    keeper = await site.first()
    before = site.value
    for seq in range(6, 46):
        keeper.note(verified(make_lease(seq=seq)))
        assert await keeper.raise_now()
    assert site.value == before + 23
    keeper.note(verified(make_suspension(seq=50), OTHER_KEY))
    assert await keeper.raise_now()
    assert site.value == before + 24
    site.boot = "boot-2"
    booted, _ = site.start()
    assert await booted.raise_now()
    assert site.value == before + 24
    site.now = T0 + DAY + timedelta(minutes=1)
    assert await booted.raise_now()
    assert site.value == before + 25


async def test_a_suspension_counts_at_once_also_after_a_raise_that_was_cut_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await site.first()
    for seq in range(6, 46):
        keeper.note(verified(make_lease(seq=seq)))
        assert await keeper.raise_now()
    site.now = T0 + DAY + timedelta(minutes=1)
    keeper.note(verified(make_lease(seq=46)))
    monkeypatch.setattr(counter, "advance", lambda *_: (_ for _ in ()).throw(TpmBusy("the NV memory")))
    assert not await keeper.raise_now()
    monkeypatch.undo()
    site.now = T0
    restarted, view = site.start()
    assert view.judged.state == "unfinished"
    restarted.note(verified(make_suspension(seq=50), OTHER_KEY))
    assert await restarted.raise_now()
    assert site.start()[1].floor == (1, 50)


async def test_a_revocation_is_in_the_record_itself(site: Site) -> None:
    keeper = await site.first()
    revocation = verified(make_revocation(seq=6), OTHER_KEY)
    keeper.note(revocation)
    await keeper.finish()
    restarted, _ = site.start()
    assert restarted.revocations(RING) == (revocation.token,)


async def test_another_state_directory_that_advances_the_counter_is_respected(site: Site, tmp_path: Path) -> None:
    """The same node in two directories on one chip: a superseded agent must not spoil the record of the other one."""
    keeper = await site.first()
    other = Site(tmp_path / "other", Machine(None, site.identity.ak, site.identity.node_key), site.tpm)  # type: ignore[arg-type]  # no chip
    second, view = other.start()
    assert view.judged.state == "stale", "the chip has a counter, and this directory has no record"
    second.note(LEASE)
    second.confirm_fresh(LEASE)
    assert await second.raise_now()
    before = site.value
    keeper.confirm_fresh(LEASE)
    keeper.note(verified(make_revocation(seq=6), OTHER_KEY))
    assert not await keeper.raise_now()
    assert site.value == before
    assert "another state directory" in site.conditions.current()[0].text
    assert standing(other) == "current"


async def test_a_generation_switch_is_raised_after_its_statement_is_stored(site: Site) -> None:
    keeper = await site.first()
    before = site.value
    site.identity = msgspec.structs.replace(site.identity, generation=2)
    keeper.use(site.identity)
    lease = verified(make_lease(seq=1, generation=2), KEY)
    keeper.confirm_fresh(lease)
    assert await keeper.raise_now()
    assert site.value == before, "the lease of the new generation is not stored yet"
    keeper.note(lease)
    assert await keeper.raise_now()
    assert site.value == before + 1
    _, view = site.start()
    assert view.generation == 2, "for generation 1 a later generation was in force"


async def test_an_earlier_generation_never_lowers_the_record(site: Site) -> None:
    """An edited `current.json` makes an earlier generation start. Its record must not replace that of the later one."""
    keeper = await site.first()
    later = msgspec.structs.replace(site.identity, generation=2)
    keeper.use(later)
    lease = verified(make_lease(seq=1, generation=2), OTHER_KEY)
    keeper.confirm_fresh(lease)
    keeper.note(lease)
    assert await keeper.raise_now()
    before = site.value
    site.boot = "boot-2"
    edited, view = site.start()
    assert (view.judged.state, view.generation) == ("current", 2)
    edited.note(verified(make_lease(seq=9)))
    assert await edited.raise_now()
    assert site.value == before


async def test_a_statement_of_another_generation_is_not_recorded(site: Site) -> None:
    keeper = await site.first()
    before = site.value
    keeper.note(verified(make_revocation(seq=6, generation=2), OTHER_KEY))
    assert await keeper.raise_now()
    assert site.value == before
