"""A state machine that does to a node what can happen to it, in any order, and compares every verdict with the cloud.

`tests/node/licensing/decision_site.py` has the node: the real code of the decision over simulated clocks, a chip and a
disk in memory. Nodes with a TPM and nodes without one are tried. The properties:

- No sequence reaches `revoked` or `suspended` without a signed statement, or opens the gate without a signed lease.
- Only another activation leaves `revoked`.
- No floor falls.
- Trusted time does not run backwards, and is right within its published bounds.

A node without a TPM has no hardware floor. Its properties hold while no file of it is put back or deleted.
"""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node.licensing.floors import STATEMENTS
from node.licensing.kept_time import KEEP_EVERY
from node.licensing.trusted_time import SAVE_INTERVAL, SURE_SHARE, UNCLEAN_RESETS_MAX, low_of
from protocol import faults
from protocol.limits import CLOCK_SKEW
from protocol.signed.statements import Lease, Revocation, Suspension, position
from tests.node.licensing.decision_cloud import statement_of
from tests.node.licensing.decision_site import FOLDERS, NONCE, Site
from tests.simulators.machine_clocks import DAY, START

GENERATIONS = 5
"""Activations of one example at most."""
CRASHES = (
    "node.statement.write",
    "node.statement.copy",
    "node.statement.prune",
    "node.tombstone.write",
    "node.floor.write",
    "node.floor.copy",
    "node.floor.count",
    "node.identity.save",
    "node.identity.switch",
    "node.identity.prune",
    "node.confirm.send",
    "node.statement.send",
    "node.renewal.save",
    "node.renewal.prove",
    "node.renewal.clear",
    "node.key.save",
    "node.key.prune",
    "node.device.replace",
)
KEPT_LOST = KEEP_EVERY * SURE_SHARE[1] / SURE_SHARE[0] + timedelta(seconds=1)
"""The time that a start without a floor record may lose."""

minutes = st.integers(0, 4 * 24 * 60).map(lambda count: timedelta(minutes=count))
walls = st.sampled_from([timedelta(days=days) for days in (-20_000, -400, -30, -1, 0, 0, 0, 1, 30, 400)])
reach = st.sampled_from([None, None, None, -1, 0, 1, 2])
"""Which answers of the cloud arrive in an exchange (`Cloud.away_from`)."""
crashes = st.sampled_from(["", *CRASHES])
stages = st.sampled_from(["before", "after"])


class Decision(RuleBasedStateMachine):
    """Any sequence of network failures, restarts, clock moves, restored files and valid documents.

    `done` counts what the examples of this process have done.
    """

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[dict[Path, bytes]] = []
        # What the floor record in the TPM's counter stands for: generation and position, and the floor of time.
        self.sealed: tuple[int, tuple[int, int]] = (0, (0, 0))
        self.sealed_low: datetime = START - DAY
        self.final: set[int] = set()
        self.value = self.noted = 0
        self.low: tuple[int, datetime] | None = None
        self.high: tuple[int, datetime] | None = None
        self.freshened = 0
        self.restored = False

    def teardown(self) -> None:
        if hasattr(self, "site"):
            self.site.close()

    @initialize(software=st.sampled_from([False, False, True]))
    def begin(self, *, software: bool) -> None:
        self.site = site = Site(software=software)
        self.done["nodes without a TPM" if software else "nodes with a TPM"] += 1
        site.activate()
        self._note_sealed()
        assert site.view == ("active", True)
        # Fabric learns of the counter from a session, so the first lease of a node does not name it.
        site.cloud.promises = True
        site.cloud.say(site.cloud.lease())
        self._exchange()
        assert site.view == ("active", True)

    # The cloud

    @rule(kind=st.sampled_from(["lease", "lease", "grace lease", "suspension", "revocation"]))
    def the_cloud_signs(self, kind: str) -> None:
        cloud = self.site.cloud
        if isinstance(cloud.current, Revocation):
            return
        if kind == "revocation":
            cloud.revoke()
        elif kind == "suspension":
            cloud.say(cloud.fabric.suspension())
        else:
            cloud.say(cloud.lease() if kind == "lease" else cloud.grace_lease())

    @precondition(lambda self: self.site.cloud.fabric.last_generation < GENERATIONS)
    @rule(away_from=reach, crash=crashes, stage=stages)
    def activate_again(self, away_from: int | None, crash: str, stage: faults.Stage) -> None:
        """The machine activates again. The activation may be interrupted before or after its confirmation."""
        site = self.site
        self._count("activations", away_from, crash)
        self._forget_run()
        site.activate(away_from, crash, stage)
        self._note_sealed()
        if away_from is None and not crash:
            assert site.generation == site.cloud.fabric.last_generation
            # Before its first answer, an agent whose wall clock is ahead may take the lease for terminated.
            self._exchange()
            assert site.view[1]

    @rule()
    def contact(self) -> None:
        """A whole contact. Afterwards the agent does what the cloud says, whatever happened before."""
        site, cloud = self.site, self.site.cloud
        if site.fault is not None:
            return
        current = cloud.current
        if isinstance(current, Lease) and site.machine.true - current.issued_at > DAY:
            cloud.say(cloud.lease())
        self._exchange()
        state, gate_open = site.view
        if site.generation in cloud.fabric.closed:
            assert state == "revoked"
            return
        if site.tpm_ahead and not site.licence.confirmed:
            # No signed time corrects a node that was never confirmed. `cascadia activate` begins its time again.
            assert (state, gate_open) == ("pending", False)
            return
        assert site.generation == cloud.fabric.confirmed
        expected = {Lease: "active", Suspension: "suspended", Revocation: "revoked"}
        current = cloud.current
        if isinstance(current, Lease) and current.recovery is not msgspec.UNSET:
            assert (state, gate_open) == ("recovery-pending", True)
            return
        # The lease is a day old at most, and trusted time may be ahead by the clock skew.
        due = isinstance(current, Lease) and site.machine.true >= current.refresh_after - CLOCK_SKEW
        assert state == expected[type(current)] or (due and state == "refresh-due")

    @rule(away_from=reach, crash=crashes, stage=stages)
    def contact_and_be_interrupted(self, away_from: int | None, crash: str, stage: faults.Stage) -> None:
        if self.site.fault is None:
            if crash:
                self._forget_run()
            self._count("contacts", away_from, crash)
            self.site.exchange(away_from, crash, stage)
            self._note_sealed()

    @rule(away_from=reach, crash=crashes, stage=stages)
    def the_node_key_is_replaced(self, away_from: int | None, crash: str, stage: faults.Stage) -> None:
        """A rekey, which may be interrupted."""
        site = self.site
        if site.fault is None and site.licence.confirmed:
            if crash:
                self._forget_run()
            self._count("rekeys", away_from, crash)
            site.rekey(away_from, crash, stage)
            self._note_sealed()
            if site.fault is None:
                site.state.save_time()  # as the contact that follows does

    @rule(at=st.integers(0, 40), nonce=st.sampled_from([NONCE, "m" * 32, ""]))
    def an_old_answer_is_replayed(self, at: int, nonce: str) -> None:
        """A statement of any time, with a freshness over another nonce, an empty nonce, or none."""
        site = self.site
        if site.fault is None:
            token = site.cloud.signed[at % len(site.cloud.signed)]
            freshness = site.cloud.fabric.freshness("x" * 32, token, site.generation)
            site.apply(token, freshness if nonce != NONCE else "", nonce)
            self._store()
            site.state.save_time()  # as every contact does at its end

    @rule(data=st.binary(max_size=30))
    def the_network_fails(self, data: bytes) -> None:
        """No answer of the cloud, or bytes that are no answer, change nothing."""
        if self.site.fault is None:
            before = self.site.view
            assert not self.site.apply(data.hex(), "")
            assert self.site.view == before

    # The machine

    @rule(error=walls)
    def the_wall_clock_is_set(self, error: timedelta) -> None:
        self.site.machine.wall_error = error

    @rule(duration=minutes)
    def time_passes(self, duration: timedelta) -> None:
        self.site.machine.run(duration)
        if self.site.fault is None:
            self.site.state.save_time()  # as the heartbeats of this time do

    @rule(duration=minutes, tpm_runs=st.booleans())
    def the_machine_sleeps(self, duration: timedelta, *, tpm_runs: bool) -> None:
        self.site.machine.sleep(duration, tpm_runs=tpm_runs)
        self.site.unpowered += duration

    @rule(days=st.sampled_from([1, 30, 400]))
    def the_tpm_clock_is_set_forward(self, days: int) -> None:
        """The owner of the TPM can do this (TPM2_ClockSet). No command sets the clock back."""
        self.site.machine.tpm_ms += days * 86_400_000
        self.site.tpm_ahead += timedelta(days=days)
        self.done["TPM clocks set forward"] += 1

    @rule(with_record=st.booleans())
    def the_agent_restarts(self, *, with_record: bool) -> None:
        if not with_record:
            self.site.forget_boot_time()
            self._forget_run()
        self._start()

    @rule(off=minutes, clean=st.booleans(), error=walls, times=st.sampled_from([1, 1, 1, 2, 30]))
    def the_machine_restarts(self, off: timedelta, error: timedelta, times: int, *, clean: bool) -> None:
        """The machine boots once or several times. The agent starts in the last boot."""
        for _ in range(times):
            self.site.reboot(off / times, clean=clean)
        self.site.machine.wall_error = error
        self._forget_run()
        self._start()

    # The disk

    @rule()
    def a_copy_is_made(self) -> None:
        self.copies = [*self.copies[-3:], self.site.files()]

    @precondition(lambda self: self.copies)
    @rule(at=st.integers(0, 3), only=st.sampled_from(["", "", *FOLDERS]))
    def a_copy_is_put_back(self, at: int, only: str) -> None:
        self.done["copies put back"] += 1
        self.site.put_back(self.copies[at % len(self.copies)], only=only)
        self._disk_changed()

    @rule(
        only=st.sampled_from(
            ["licence", "tombstones", "licence/floors.json", "identity/floors.json", "current.json", "renewal.json"]
        )
    )
    def files_are_deleted(self, only: str) -> None:
        self.site.delete(only)
        self._disk_changed()

    @rule(ordinary=st.booleans())
    def the_counter_is_deleted_or_replaced(self, *, ordinary: bool) -> None:
        self.site.stop()
        self.site.chip.delete_counter()
        self.site.chip.ordinary = ordinary
        self.site.chip.value = 1 if ordinary else None
        self._forget_run()
        self._start()

    # Invariants

    @invariant()
    def the_properties_hold(self) -> None:
        """All properties, over one view of the state. A check of its own for each would judge the licence five times."""
        state, gate_open = self.site.view
        self._the_state_follows_signed_statements(state, gate_open=gate_open)
        self._a_revocation_is_left_by_an_activation_only(state, gate_open=gate_open)
        self._no_floor_falls(gate_open=gate_open)
        if self.site.fault is None:
            self._trusted_time_does_not_run_backwards()
            self._trusted_time_is_right(gate_open=gate_open)
        else:
            self._forget_run()

    def _the_state_follows_signed_statements(self, state: str, *, gate_open: bool) -> None:
        site = self.site
        signed = map(statement_of, site.cloud.signed)
        if state == "revoked":
            assert any(isinstance(one, Revocation) and one.generation >= site.generation for one in signed)
        if state == "suspended":
            assert any(isinstance(one, Suspension) and one.generation == site.generation for one in signed)
        if gate_open:
            assert any(one == site.licence.lease for one in signed)

    def _a_revocation_is_left_by_an_activation_only(self, state: str, *, gate_open: bool) -> None:
        if self.site.generation in self.final:
            assert not gate_open
            assert state in ("revoked", "stale")

    def _no_floor_falls(self, *, gate_open: bool) -> None:
        site = self.site
        if gate_open and site.licence.statement is not None:
            statement = site.licence.statement.statement
            assert (statement.generation, position(statement)) >= self.sealed
        if site.chip.value is not None and not site.chip.ordinary:
            assert site.chip.value >= self.value
            self.value = site.chip.value

    def _trusted_time_does_not_run_backwards(self) -> None:
        """Only a signed time corrects a clock of the TPM that was set forward. `low` is then that time."""
        site, time, boot = self.site, self.site.time, self.site.machine.boots
        low, high, true = time.low(), time.high(), self.site.machine.true
        signed, self.freshened = site.cloud.freshened > self.freshened, site.cloud.freshened
        corrected = signed and site.tpm_ahead and true - CLOCK_SKEW <= low <= true
        if corrected:
            self.sealed_low = min(self.sealed_low, low)
        if self.low is not None and self.low[0] == boot and not corrected:
            assert low >= self.low[1]
        if self.high is not None and self.high[0] == boot and not corrected:
            assert high >= self.high[1]
        if site.standing in ("current", "unfinished"):
            assert low >= self.sealed_low
        self.low = (boot, low)
        self.high = (boot, high) if time.confirmed else None

    def _trusted_time_is_right(self, *, gate_open: bool) -> None:
        """`low` has passed. After a signed time `high` is now. A lease outlives its end by the unpowered time at most."""
        site = self.site
        time, true = site.time, site.machine.true
        low, high = time.low(), time.high()
        assert low <= true + site.tpm_ahead
        if time.confirmed:
            assert -CLOCK_SKEW <= high - true <= max(CLOCK_SKEW, low - true)
        lease = site.licence.lease if gate_open else None
        if lease is not None and not (site.software and self.restored):
            lost = min(site.cuts, UNCLEAN_RESETS_MAX) * SAVE_INTERVAL
            if site.software:
                lost = site.starts * KEPT_LOST
            assert true - site.unpowered - lost < lease.terminate_at

    # Help

    def _count(self, what: str, away_from: int | None, crash: str) -> None:
        whole = away_from is None and not crash
        self.done[f"{what}, whole" if whole else f"{what}, perhaps interrupted"] += 1
        if self.site.fault is None and not self.site.licence.confirmed:
            self.done["steps of a node that is not confirmed"] += 1

    def _exchange(self) -> None:
        self.site.exchange()
        self._note_sealed()

    def _start(self) -> None:
        self.site.start()
        if self.site.fault is None:
            self._store()

    def _store(self) -> None:
        self.site.store()
        self._note_sealed()

    def _disk_changed(self) -> None:
        self.restored = True
        if self.site.software:
            self.sealed, self.final = (0, (0, 0)), set()
        self._forget_run()
        self._start()

    def _forget_run(self) -> None:
        self.low = self.high = None

    def _note_sealed(self) -> None:
        """What no later state may be below: the record that fits the counter now; without a TPM, what is stored."""
        site = self.site
        if site.fault is not None:
            return
        if site.software:
            held = site.licence.statement
            if held is not None and not site.state.saver.waits(site.generation):
                self.sealed = max(self.sealed, (site.generation, position(held.statement)))
                self.final |= {site.generation} if site.licence.revoked else set()
            return
        keeper, chip = site.state.floors, site.chip
        record = keeper._record
        if record is None or chip.value is None or chip.ordinary or record.counter.value != chip.value:
            return
        if keeper.status().record_state != "current":
            return
        entries = record.streams.get(STATEMENTS, ())
        places = [(one.generation, (one.epoch, one.seq)) for one in entries]
        self.sealed = max([self.sealed, *places])
        self.final |= {one.generation for one in entries if one.token}
        # A signed time corrects a clock that was set forward at once, and the record at the next raise.
        if record.time is not None and record.counter.value != self.noted:
            self.sealed_low = max(self.sealed_low, low_of(record.time))
        self.noted = record.counter.value
