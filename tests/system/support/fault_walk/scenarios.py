"""Table of the fault walk: prepared situations, the scenarios that start from them, and each scenario's fault points.

A scenario is a procedure that may be repeated. The kill interrupts its first run. The second run is the retry of a
person or of systemd, and it has to succeed.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import msgspec

from cloud.fabric.bodies.recovery import RecoveryEvidence
from cloud.fabric.store.installation import REBUILD_LIFE
from protocol.airgap.answer import AnswerFile
from protocol.encoding import json_decode, json_encode
from protocol.faults import Stage
from protocol.ids import make_id
from tests.system.support.fault_walk.site import LEASE_SECONDS, WAITS, Interrupted, Lane, Prepared, Site

USED = 65
"""The exit code of an import whose answer was used before."""
RETURN_SECONDS_MAX = 30
"""The longest time from the death of a process to the end of the checks."""

EVIDENCE = RecoveryEvidence(
    same_chip=False,
    fingerprint="match",
    matched={"board_serial": 25},
    changed={},
    statement=True,
    last_seen_at=None,
    last_ran_at=None,
    tier="attested",
    address="192.0.2.1",
    agent_version="1.0",
)
OVERDUE_CASE = """
INSERT INTO recovery_case (id, tenant, node, situation, state, needs, evidence, activation, ek_hash, old_ek_hash,
    old_generation, generation, opened_at, decide_by, decided_by, reason, code, grace)
SELECT ?, tenant, id, 'hardware-replaced', 'needs_operator', 'operator-or-code', ?, '', 'other', ek_hash,
    current_generation, 0, created_at, created_at, '', '', '', 0 FROM node
"""
"""A case whose time has run out."""

Situation = Literal[
    "new",
    "active",
    "revoked",
    "overdue",
    "overdue beside another",
    "undecided",
    "undecided recovery",
    "unproven",
    "orphaned",
    "unpublished trust",
    "lease over",
    "unrecorded",
    "rekeyed",
    "cleared",
    "approved recovery",
    "restored cloud",
    "carried activation",
    "lost database",
]


def _cut_off(site: Site, point: str, stage: Stage = "before") -> None:
    """Activate, and kill a process at the fault point. The situation is the state after the kill."""
    site.arm(point, stage)
    if not point.startswith("node."):
        site.cloud.down()
    with suppress(Interrupted):
        site.serve()
        site.activate()
    assert site.died(point, stage), f"{point} was not passed"
    site.victim = None
    site.record.unlink()


def _new(lane: Lane) -> Prepared:
    return lane.keep(lane.begin(LEASE_SECONDS))


def _active(lane: Lane) -> Prepared:
    """A node in its second generation. A third one supersedes the second and removes the first."""
    site = lane.site("new")
    site.serve()
    for _ in range(2):
        site.activate()
        generation, credentials = site.session()
        site.sessions[generation] = credentials
    site.closed()
    return lane.keep(site)


def _revoked(lane: Lane) -> Prepared:
    """A node that was revoked while it was off."""
    site = lane.site("active")
    site.serve()
    site.operate("node", "revoke", site.node(), "--reason", "walk")
    site.closed()
    return lane.keep(site)


def _overdue(before: Situation, lane: Lane) -> Prepared:
    """An activation with a valid proof and no confirmation, in a cloud that waits only a second for it."""
    site = lane.site(before)
    settings = site.cloud.directory / "fabric" / "settings.toml"
    written = settings.read_text()
    settings.write_text(f"confirm_within_seconds = 1\n{written}")
    _cut_off(site, "node.confirm.send")
    site.end()
    settings.write_text(written)
    time.sleep(1)
    return lane.keep(site)


def _undecided(lane: Lane) -> Prepared:
    """An activation that waits for an operator, in a cloud that waits only a second for the decision."""
    site = lane.site("new")
    settings = site.cloud.directory / "fabric" / "settings.toml"
    written = settings.read_text()
    settings.write_text(f"approve_within_seconds = 1\n{written}")
    site.serve()
    site.demand_approval("attested")
    site.command("activate", str(site.file), "--no-wait", expect=(WAITS,))
    site.demand_approval("none")
    site.end()
    settings.write_text(written)
    time.sleep(1)
    return lane.keep(site)


def _interrupted(point: str, lane: Lane) -> Prepared:
    site = lane.site("new")
    _cut_off(site, point)
    return lane.keep(site)


def _lease_over(lane: Lane) -> Prepared:
    """A revoked node without an agent, whose last lease has ended. Only the date frees its seat."""
    site = lane.site("new")
    site.serve()
    site.activate()
    site.operate("node", "revoke", site.node(), "--reason", "walk")
    site.closed()
    site.end()
    # A lease of some seconds would end during the preparation on a slow machine, and free the seat there.
    with closing(sqlite3.connect(site.cloud.directory / "fabric" / "database.sqlite")) as database, database:
        database.execute("UPDATE node SET lease_until = created_at")
    return lane.keep(site)


def _unrecorded(lane: Lane) -> Prepared:
    """A node and an expired code, as a release without events has left them."""
    site = lane.site("active")
    site.end()
    with closing(sqlite3.connect(site.cloud.directory / "fabric" / "database.sqlite")) as database, database:
        database.execute("DELETE FROM event_outbox")
        database.execute("DELETE FROM event_object")
        database.execute("DELETE FROM installation WHERE name = 'first_events'")
        database.execute("UPDATE code SET expires_at = created_at")
    return lane.keep(site)


def _undecided_recovery(lane: Lane) -> Prepared:
    """A node, and a recovery case that another machine opened for it. No operator has decided in time."""
    site = lane.site("active")
    site.end()
    with closing(sqlite3.connect(site.cloud.directory / "fabric" / "database.sqlite")) as database, database:
        database.execute(OVERDUE_CASE, (make_id("rcv", 1, bytes(10)), json_encode(EVIDENCE).decode()))
    return lane.keep(site)


def _rekeyed(lane: Lane) -> Prepared:
    """A node that has replaced the key of its activation."""
    site = lane.site("active")
    _rekey(site)
    return lane.keep(site)


def _carried(lane: Lane) -> Prepared:
    """A new machine without a network, whose request for an activation was answered."""
    site = lane.site("new")
    _carry(site, "--file", str(site.file))
    site.end()
    return lane.keep(site)


def _restored(lane: Lane) -> Prepared:
    """Fabric's database is put back from before the second generation, and knows nothing of a node that was closed."""
    site = lane.site("active")
    site.serve()
    site.end()
    with closing(sqlite3.connect(site.cloud.directory / "fabric" / "database.sqlite")) as database, database:
        database.execute("UPDATE installation SET value = ? WHERE name = 'epoch'", (b"2",))
        database.execute("UPDATE node SET closed_up_to = 0, closed_at_issuer = 0")
        database.execute("UPDATE generation SET state = 'confirmed' WHERE number = 1")
        ((tenant,),) = database.execute("SELECT id FROM tenant").fetchall()
    with closing(sqlite3.connect(site.cloud.directory / "breakwater" / "database.sqlite")) as database, database:
        unknown = make_id("node", 0, bytes(10)), tenant, 3, "2026-01-01 00:00:00"
        database.execute("INSERT INTO closing (node, tenant, closed_up_to, closed_at) VALUES (?, ?, ?, ?)", unknown)
    return lane.keep(site)


def _cleared(lane: Lane) -> Prepared:
    """A node whose chip was cleared: it cannot make the parent of the stored keys any more. Its EK is the recorded one."""
    site = lane.site("active")
    site.end()
    site.lose_keys()
    return lane.keep(site)


def _approved_recovery(lane: Lane) -> Prepared:
    """A recovery that an operator has approved. The machine has not come back yet."""
    site = lane.site("cleared")
    site.serve()
    site.command("recover", "--no-wait", expect=(WAITS,))
    site.approve_recoveries()
    return lane.keep(site)


def _lost(lane: Lane) -> Prepared:
    """Fabric's database has lost its nodes, and an operator has begun a rebuild."""
    site = lane.site("active")
    site.serve()
    site.end()
    with closing(sqlite3.connect(site.cloud.directory / "fabric" / "database.sqlite")) as database, database:
        for table in ("node", "generation", "activation"):
            database.execute(f"DELETE FROM {table}")  # noqa: S608  (names of tables)
        database.execute("UPDATE installation SET value = ? WHERE name = 'epoch'", (b"2",))
        now = datetime.now(UTC)
        rebuild = f"{now.isoformat()} {(now + REBUILD_LIFE).isoformat()}".encode()
        database.execute("INSERT INTO installation (name, value) VALUES ('rebuild', ?)", (rebuild,))
    return lane.keep(site)


PREPARE: dict[str, Callable[[Lane], Prepared]] = {
    "new": _new,
    "active": _active,
    "revoked": _revoked,
    "overdue": partial(_overdue, "new"),
    "overdue beside another": partial(_overdue, "active"),
    "undecided": _undecided,
    "undecided recovery": _undecided_recovery,
    "unproven": partial(_interrupted, "node.activation.prove"),
    "orphaned": partial(_interrupted, "breakwater.certificate.store"),
    "unpublished trust": partial(_interrupted, "node.trust.publish"),
    "lease over": _lease_over,
    "unrecorded": _unrecorded,
    "rekeyed": _rekeyed,
    "cleared": _cleared,
    "approved recovery": _approved_recovery,
    "restored cloud": _restored,
    "carried activation": _carried,
    "lost database": _lost,
}


# Scenarios


def _activate(site: Site) -> None:
    site.serve()
    site.activate()
    site.closed()


def _activate_without_tpm(site: Site) -> None:
    site.serve()
    site.remove_tpm()
    site.command("activate", str(site.file), "--software")
    site.closed()


def _run(site: Site) -> None:
    site.serve()
    site.agent()


def _suspend_and_resume(site: Site) -> None:
    """Suspend and resume the node, so that the wake channel answers. It resumes first, so that it is repeatable."""
    site.serve()
    site.operate("node", "resume", site.node(), "--reason", "walk")
    site.agent()
    site.operate("node", "suspend", site.node(), "--reason", "walk")
    site.hears("suspended")
    site.operate("node", "resume", site.node(), "--reason", "walk")
    site.agent()


def _answer_file(site: Site) -> None:
    """Answer a request that was carried in a file. The repeat gets the stored answer, or makes it."""
    site.serve()
    request, answer = site.directory / "request.json", site.directory / "answer.json"
    site.command("request", "--out", str(request))
    site.operate("airgap", "answer", str(request), "--out", str(answer))
    assert site.cloud.rows("fabric", "SELECT count(*), max(state) FROM airgap_exchange") == [(1, "answered")]
    assert json_decode(answer.read_bytes(), AnswerFile).body


def answer_of(site: Site) -> Path:
    """The file of the carried answer. It is beside the cloud's files, which a situation keeps."""
    return site.cloud.directory / "answer.json"


def _carry(site: Site, *options: str) -> None:
    """Make a request, and have it answered. A repeat makes the same request."""
    site.serve()
    request = site.directory / "request.json"
    site.command("request", *options, "--out", str(request))
    site.operate("airgap", "answer", str(request), "--out", str(answer_of(site)))


def _refresh_by_file(site: Site) -> None:
    _carry(site)
    import_file(site)


def _activate_by_file(site: Site) -> None:
    """Activate by two carried files. A repeat carries the same request, and gets the same node and generation."""
    _carry(site, "--file", str(site.file))
    import_file(site)
    assert site.cloud.rows("fabric", "SELECT count(*), max(last_generation) FROM node") == [(1, 1)]


def import_file(site: Site) -> None:
    """Import the carried answer. A repeat after the receipt is refused by name, because the answer was used."""
    site.serve()
    site.command("license", "import", str(answer_of(site)), expect=(0, USED))
    site.closed()


def _renew(site: Site) -> None:
    site.serve()
    site.command("renew")


def _rekey(site: Site) -> None:
    """Replace the key, and wait until the certificates of the old key are revoked."""
    site.serve()
    site.command("renew", "--rekey")
    site.see("the revocation of the old key", "SELECT NOT EXISTS (SELECT 1 FROM renewal WHERE state = 'issued')")


def _answer_renewal_wrongly(site: Site) -> None:
    site.serve()
    site.answer_renewal_wrongly()


def _stop_cloud(site: Site) -> None:
    """Stop the cloud, which then stores the reports of sessions."""
    site.serve()
    site.agent()
    process = site.cloud.process
    if process is not None and process.stop() != 0:
        raise Interrupted("the cloud ended with an error")


def _revoke(site: Site) -> None:
    site.serve()
    site.operate("node", "revoke", site.node(), "--reason", "walk")
    site.closed()
    _come_back(site)


def _deactivate(site: Site) -> None:
    """Deactivate, and activate again in the free seat. A repeat finds the machine deactivated already."""
    site.serve()
    site.command("deactivate", "--yes")
    assert site.cloud.rows("fabric", "SELECT sum(seats_taken), max(standing) FROM code, node") == [(0, "released")]
    assert {path.name for path in site.machine.state.iterdir()} == {"deactivated.json", "lock"}
    site.activate()
    assert not (site.machine.state / "deactivated.json").exists()
    site.closed()


def _come_back(site: Site) -> None:
    site.serve()
    site.refused_start()
    site.readmit()
    site.closed()


def _answer_wrongly(site: Site) -> None:
    site.serve()
    site.answer_wrongly()
    site.activate()


def _forge_session(site: Site) -> None:
    site.serve()
    site.forge_session()


def _lapse(site: Site) -> None:
    """Wait for the lapse of the activation. Then the same file activates again, in the free or the held seat."""
    site.serve()
    site.see("the lapse of the activation", "SELECT count(*) FROM activation WHERE state = 'lapsed'")
    held = 1 if site.sessions else 0
    assert site.cloud.rows("fabric", "SELECT sum(seats_taken) FROM code") == [(held,)]
    site.activate()


def _approve(site: Site) -> None:
    """Activate in a tenant that demands approval, approve, and activate again with the same file."""
    site.serve()
    site.demand_approval("attested")
    site.command("activate", str(site.file), "--no-wait", expect=(0, WAITS))
    site.approve()
    site.activate()


def _recover(site: Site) -> None:
    """Recover with an operator's approval. A repeat finds the case approved, or the machine intact."""
    site.serve()
    site.command("recover", "--no-wait", expect=(0, WAITS))
    site.approve_recoveries()
    site.command("recover", "--no-wait")
    site.closed()


def _come_back_approved(site: Site) -> None:
    site.serve()
    site.command("recover", "--no-wait")
    site.closed()


def _expire(site: Site) -> None:
    """Wait until the undecided activation has expired. Then the same file activates without approval."""
    site.serve()
    site.see("the end of the waiting activation", "SELECT count(*) FROM activation WHERE state = 'expired'")
    assert site.cloud.rows("fabric", "SELECT sum(seats_taken) FROM code") == [(0,)]
    site.activate()


def _end_recovery(site: Site) -> None:
    """Wait until the undecided case has lapsed. The node in force goes on."""
    site.serve()
    site.see("the end of the recovery case", "SELECT count(*) FROM recovery_case WHERE state = 'lapsed'")
    site.agent()


def _record(site: Site) -> None:
    """Wait until every object from before has its event, and the code is stored as expired."""
    site.serve()
    site.see(
        "the end of the walk", "SELECT count(*) FROM installation WHERE name = 'first_events' AND value = X'646f6e65'"
    )
    site.see("the expired code", "SELECT count(*) FROM code WHERE expired = 1")
    again = "SELECT subject FROM event_outbox WHERE type LIKE '%.recorded.v1' GROUP BY subject HAVING count(*) > 1"
    assert site.cloud.rows("fabric", again) == []
    recorded = "SELECT DISTINCT type FROM event_outbox WHERE type LIKE '%.recorded.v1' ORDER BY type"
    nouns = [str(row[0]).split(".")[3] for row in site.cloud.rows("fabric", recorded)]
    assert nouns == ["code", "node", "statement", "tenant"]
    site.agent()


def _free_seat(site: Site) -> None:
    site.serve()
    site.see("the free seat", "SELECT count(*) FROM node WHERE seat_held = 0")
    assert site.cloud.rows("fabric", "SELECT sum(seats_taken) FROM code") == [(0,)]
    site.readmit()


def _revoke_spare(site: Site) -> None:
    """Revoke a service's certificate at Breakwater, and wait until Fabric has stored the revocation."""
    site.serve()
    site.operate("pki", "revoke", "--dir", str(site.cloud.directory), "--certificate", str(site.spare_certificate()))
    site.see("the revoked certificate at Fabric", "SELECT count(*) FROM revoked_service")


def _new_session(site: Site) -> None:
    """Have the agent open another session, with the renewal token that is on the disk."""
    site.machine.down()
    site.agent()


def _first_token(site: Site) -> None:
    """The first session of a generation stores its renewal token, and removes that of the generation before."""
    site.serve()
    site.agent()
    site.machine.down()
    site.activate()
    site.agent()
    site.closed()


def _put_back(site: Site) -> None:
    """Put an older renewal token back, as a backup does. The cloud judges the machine as restored.

    A kill has the scenario begin again, and each time is another restore.
    """
    site.serve()
    site.allow_restores()
    site.agent()
    _new_session(site)
    older = {path: path.read_bytes() for path in site.machine.state.rglob("renewal-token*.json")}
    _new_session(site)
    _new_session(site)
    site.machine.down()
    for path, data in older.items():
        path.write_bytes(data)
    site.agent()
    site.see("the restored machine", "SELECT count(*) FROM audit WHERE action = 'node.restored'")


def _return_to_lost(site: Site) -> None:
    """Start the cloud that has lost its nodes. The node shows its certificate and its lease."""
    site.serve()
    site.see("the comparison", "SELECT count(*) FROM installation WHERE name = 'reconciled'")
    site.agent()
    site.see("the reconstructed node", "SELECT count(*) FROM node WHERE hold = 'unconfirmed'")


def _return_to_restored(site: Site) -> None:
    """Start the restored cloud, which compares its generations first, and let the node present its statement."""
    site.serve()
    site.see("the comparison", "SELECT count(*) FROM installation WHERE name = 'reconciled'")
    site.agent()
    site.see("the presented statement", "SELECT count(*) FROM node WHERE presented_epoch = 2")


class Scenario(msgspec.Struct, frozen=True):
    """A procedure, the situation that it starts from, and the fault points at which it is killed.

    A chain has fault points in the order in which a retry passes them.
    """

    name: str
    situation: Situation
    attempt: Callable[[Site], None]
    chains: tuple[tuple[str, ...], ...]
    renewed: bool = False
    """Whether the scenario renews the device certificate. The old certificate of the same key then stays valid."""

    @property
    def points(self) -> tuple[str, ...]:
        """The fault points of all chains."""
        return tuple(chain.from_iterable(self.chains))


SCENARIOS = (
    Scenario(
        "first activation",
        "new",
        _activate,
        (
            (
                "node.trust.fetch",
                "node.activation.start",
                "node.activation.prove",
                "node.trust.write",
                "node.trust.publish",
                "node.floor.establish",
            ),
            (
                "fabric.activation.challenge",
                "fabric.activation.prove",
                "fabric.generation.open",
                "fabric.certificate.request",
                "fabric.activation.store",
            ),
            (
                "fabric.session.request",
                "fabric.session.issuer",
                "fabric.session.lease_version",
                "fabric.session.floor",
                "fabric.confirm.commit",
            ),
        ),
    ),
    Scenario(
        "next generation",
        "active",
        _activate,
        (
            ("node.activation.save", "node.identity.save", "node.nonce.send", "node.session.send", "node.confirm.send"),
            ("node.statement.write", "node.statement.copy", "node.statement.prune"),
            ("node.identity.switch", "node.floor.write"),
            # A retry does not write what the interrupted run has written.
            ("node.floor.copy",),
            ("node.floor.count",),
            ("node.identity.prune", "node.activation.clear"),
            ("fabric.confirm.commit", "fabric.generation.close", "fabric.generation.closed"),
        ),
    ),
    Scenario(
        "first activation without a TPM",
        "new",
        _activate_without_tpm,
        (("node.activation.save", "fabric.activation.prove"),),
    ),
    Scenario("trust left behind", "unpublished trust", _activate, (("node.trust.prune",),)),
    Scenario("record left behind", "orphaned", _activate, (("breakwater.certificate.orphan",),)),
    Scenario("wrong answer", "unproven", _answer_wrongly, (("fabric.activation.answer",),)),
    Scenario("lapse", "overdue", _lapse, (("fabric.activation.lapse", "fabric.activation.lapsed"),)),
    Scenario("undecided activation", "undecided", _expire, (("fabric.approval.expire",),)),
    Scenario("undecided recovery", "undecided recovery", _end_recovery, (("fabric.recovery.lapse",),)),
    Scenario(
        "approval",
        "new",
        _approve,
        (("node.activation.save", "node.activation.prove"), ("fabric.activation.prove",)),
    ),
    Scenario(
        "recovery",
        "cleared",
        _recover,
        (("fabric.activation.prove", "fabric.confirm.commit"),),
    ),
    Scenario(
        "approved recovery",
        "approved recovery",
        _come_back_approved,
        (
            (
                "node.recovery.aside",
                "node.identity.save",
                "node.confirm.send",
                "node.identity.switch",
                "node.activation.clear",
            ),
        ),
    ),
    Scenario(
        "lapse beside a generation in force",
        "overdue beside another",
        _lapse,
        (("fabric.generation.close_one",),),
    ),
    Scenario(
        "agent",
        "active",
        _run,
        (
            (
                "node.statement.send",
                "fabric.statement.refresh",
                "fabric.activation.purge",
                "fabric.renewal.purge",
                "fabric.airgap.purge",
                "fabric.revoked.forget",
            ),
        ),
    ),
    Scenario(
        "first token of a generation",
        "active",
        _first_token,
        (("node.renewaltoken.write", "node.renewaltoken.copy"),),
    ),
    Scenario("machine put back", "active", _put_back, (("fabric.holders.commit",),)),
    Scenario("suspended and resumed", "active", _suspend_and_resume, (("node.events.send", "node.floor.count"),)),
    Scenario(
        "restored cloud",
        "restored cloud",
        _return_to_restored,
        (("fabric.closed.store", "fabric.reconcile.take", "fabric.reconcile.done", "fabric.presented.settle"),),
    ),
    Scenario(
        "lost database",
        "lost database",
        _return_to_lost,
        (("fabric.closed.store", "fabric.node.reconstruct"),),
    ),
    Scenario("revoked service", "active", _revoke_spare, (("events.batch.apply",),)),
    Scenario("forged session", "active", _forge_session, (("fabric.session.refuse",),)),
    Scenario("cloud stops", "active", _stop_cloud, (("fabric.session.seen",),)),
    Scenario("renewal", "active", _renew, (("node.device.send", "node.device.replace"),), renewed=True),
    Scenario(
        "rekey",
        "active",
        _rekey,
        (
            (
                "node.renewal.start",
                "node.renewal.save",
                "node.renewal.prove",
                "node.renewal.clear",
                "node.key.save",
            ),
            (
                "fabric.renewal.challenge",
                "fabric.renewal.prove",
                "fabric.renewal.store",
                "fabric.keys.supersede",
                "fabric.keys.superseded",
            ),
        ),
        renewed=True,
    ),
    Scenario("another rekey", "rekeyed", _rekey, (("node.key.prune",),), renewed=True),
    Scenario("answer to a file", "active", _answer_file, (("fabric.airgap.answer",),)),
    Scenario(
        "answer to a carried activation",
        "new",
        _activate_by_file,
        (("fabric.confirm.commit", "fabric.airgap.answer"),),
    ),
    Scenario("refresh by file", "active", _refresh_by_file, (("node.airgap.request",),)),
    Scenario(
        "activation by file", "carried activation", import_file, (("node.airgap.generation", "node.airgap.receipt"),)
    ),
    Scenario("wrong answer of a renewal", "active", _answer_renewal_wrongly, (("fabric.renewal.answer",),)),
    Scenario("revocation", "active", _revoke, (("fabric.standing.commit", "fabric.generation.close"),)),
    Scenario("revoked while off", "revoked", _come_back, (("node.tombstone.write",), ("fabric.revocation.tell",))),
    Scenario("rows without events", "unrecorded", _record, (("fabric.code.expire", "fabric.events.first"),)),
    Scenario("seat of a revoked node", "lease over", _free_seat, (("fabric.seat.free",),)),
    Scenario(
        "deactivation",
        "active",
        _deactivate,
        (
            (
                "node.release.send",
                "fabric.release.commit",
                "node.deactivation.begin",
                "node.deactivation.remove",
                "node.deactivation.complete",
                "node.counter.remove",
            ),
        ),
    ),
)


class Case(msgspec.Struct, frozen=True):
    """A scenario, and the fault point and stage of the kill."""

    scenario: Scenario
    point: str
    stage: Stage

    def __str__(self) -> str:
        return f"{self.scenario.name}: killed {self.stage} {self.point}"


STAGES: tuple[Stage, ...] = ("before", "after")


def all_cases() -> list[Case]:
    """The cases of `make drills PART=fault-walk`: a kill before and one after each fault point of each scenario."""
    return [Case(scenario, point, stage) for scenario in SCENARIOS for point in scenario.points for stage in STAGES]


def walk(lane: Lane, case: Case) -> float:
    """Kill, restart, retry, check. Returns the seconds from kill to the end of the checks. Raises AssertionError."""
    site = lane.site(case.scenario.situation)
    try:
        site.arm(case.point, case.stage)
        interruption = ""
        try:
            case.scenario.attempt(site)
        except Interrupted as error:
            interruption = str(error)
        assert site.died(case.point, case.stage), f"no process died at this fault point: {interruption}"
        died_at = time.monotonic()
        try:
            case.scenario.attempt(site)
            site.check_end(renewed=case.scenario.renewed)
        except Interrupted as error:
            raise AssertionError(str(error)) from error
        return time.monotonic() - died_at
    finally:
        site.end()
