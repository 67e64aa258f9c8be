"""`cloud.fabric.service.nodes.seen`: the values of sessions are stored together, and none is lost."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec

from cloud.fabric.licensing.holders import judge
from cloud.fabric.licensing.known_holders import Arrival
from cloud.fabric.licensing.session_evidence import SessionEvidence
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.clones import Clones, Presented, read_holders
from cloud.fabric.service.nodes.revocation_delivery import RevocationDelivery
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.store.keys import REPORTS, REPORTS_PATIENCE_SECONDS, node_key
from cloud.fabric.store.nodes import NodeStore, Seen
from protocol.evidence import ClockInfo
from protocol.ids import NodeId
from tests.cloud.fabric.store.support import TENANT, generation, node

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NODE = node()


def note(seen: SeenSessions, key: str, version: str) -> None:
    """A session of the generation with this key. It changes the holders of the generation's key."""
    shown = SessionEvidence(NOW, NOW, ClockInfo(1, 1, 1, True), "k", "f", "192.0.2.1", version)
    arrival = Arrival("0badcafe", shown)
    presented = Presented(NODE, msgspec.structs.replace(generation(), id=key), arrival, "")
    seen.note(presented, Seen(NOW, {}, version, NOW + timedelta(days=1)), judge(None, arrival), None)


class Nodes:
    """The queries of the store that are used, and the audit."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, str]] = []
        self.modes: list[tuple[str, bool]] = []
        self.audited: list[tuple[object, ...]] = []
        self.transactions = 0
        self.meanwhile: Callable[[], object] = int
        self.changed_elsewhere: set[str] = set()
        self.judged_again: list[str] = []

    @asynccontextmanager
    async def transaction(
        self, *keys: str, reads: tuple[str, ...] = (), patience: float | None = None
    ) -> AsyncIterator[None]:
        assert not reads
        assert keys == (node_key(NODE.id),) or (keys, patience) == ((REPORTS,), REPORTS_PATIENCE_SECONDS)
        self.transactions += 1
        yield

    async def set_seen(self, key: str, seen: Seen) -> bool:
        """False for holders that another replica has changed."""
        if seen.holders and key in self.changed_elsewhere:
            return False
        self.stored.append((key, seen.agent_version))
        self.meanwhile()
        return True

    async def record(self, presented: Presented) -> None:
        """Judge a session again."""
        self.judged_again.append(presented.generation.id)
        self.meanwhile()

    async def set_development(self, node: NodeId, development: bool) -> bool:
        """True for the first node only."""
        self.modes.append((node, development))
        self.meanwhile()
        return node == NODE.id

    async def write(self, *values: object, **detail: object) -> None:
        """An audit entry, or the delivery of a revocation."""
        self.audited.append((*values, detail))
        self.meanwhile()


def seen_by(nodes: Nodes) -> SeenSessions:
    return SeenSessions(
        trust_domain="cascade.test",
        transaction=nodes.transaction,
        audit=cast(AuditLog, nodes),
        nodes=cast(NodeStore, nodes),
        delivery=cast(RevocationDelivery, nodes),
        clones=cast(Clones, nodes),
    )


async def test_the_last_session_of_each_generation_is_stored_in_one_transaction() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    await seen.store()
    assert nodes.transactions == 0
    for key, version in (("one.1", "1.0"), ("two.1", "1.0"), ("one.1", "1.1")):
        note(seen, key, version)
    assert len(seen) == 2
    await seen.store()
    assert (nodes.transactions, nodes.stored, len(seen)) == (1, [("one.1", "1.1"), ("two.1", "1.0")], 0)


async def test_values_that_arrive_during_a_store_wait_for_the_next_one() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    note(seen, "one.1", "1.0")
    nodes.meanwhile = lambda: note(seen, "one.1", "1.1")
    await seen.store()
    assert len(seen) == 1
    nodes.meanwhile = int
    await seen.store()
    assert nodes.stored == [("one.1", "1.0"), ("one.1", "1.1")]


async def test_holders_that_another_replica_changed_are_judged_again() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    nodes.changed_elsewhere = {"two.1"}
    note(seen, "one.1", "1.0")
    note(seen, "two.1", "1.0")
    await seen.store()
    assert nodes.stored == [("one.1", "1.0"), ("two.1", "1.0")]
    assert nodes.judged_again == ["two.1"]
    assert len(seen) == 0


async def test_holders_that_wait_to_be_stored_are_those_of_the_next_judgement() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    assert seen.kept("one.1") is None
    note(seen, "one.1", "1.0")
    kept = seen.kept("one.1")
    assert kept is not None
    assert read_holders(kept.holders) is not None
    assert seen.take_holders("one.1") == kept
    assert seen.kept("one.1") is None
    nodes.changed_elsewhere = {"one.1"}
    await seen.store()
    assert (nodes.stored, nodes.judged_again) == ([("one.1", "1.0")], [])


async def test_a_mode_that_differs_is_stored_and_a_mode_that_changed_is_audited() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    seen.note_mode(NODE, 1, development=False)
    await seen.store()
    assert nodes.transactions == 0
    seen.note_mode(NODE, 1, development=True)
    seen.note_mode(node(2), 3, development=True)
    await seen.store()
    assert (nodes.transactions, nodes.modes) == (1, [(NODE.id, True), (node(2).id, True)])
    assert nodes.audited == [
        (
            f"spiffe://cascade.test/tenant/{TENANT}/node/{NODE.id}",
            "node.mode_changed",
            NODE.id,
            TENANT,
            {"generation": 1, "mode": "development"},
        )
    ]


async def test_the_last_mode_of_a_node_counts() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    seen.note_mode(NODE, 1, development=True)
    seen.note_mode(NODE, 1, development=False)
    await seen.store()
    assert nodes.modes == [(NODE.id, False)]


async def test_a_mode_that_comes_while_another_is_stored_waits_for_the_next_time() -> None:
    """The session that reports it has read the row from before the write."""
    nodes = Nodes()
    seen = seen_by(nodes)
    seen.note_mode(NODE, 1, development=True)
    nodes.meanwhile = lambda: seen.note_mode(NODE, 2, development=False)
    await seen.store()
    nodes.meanwhile = int
    await seen.store()
    await seen.store()
    assert nodes.modes == [(NODE.id, True), (NODE.id, False)]
    assert [entry[-1] for entry in nodes.audited] == [
        {"generation": 1, "mode": "development"},
        {"generation": 2, "mode": "production"},
    ]


async def test_the_asks_of_a_superseded_generation_are_stored_in_one_transaction() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    row, first = node(current_generation=2), generation(confirmed_at=NOW, told_at=NOW)
    await seen.record_closed(row, first, NOW)
    later = NOW + timedelta(minutes=1)
    await seen.record_closed(row, first, later)
    assert nodes.transactions == 0
    nodes.meanwhile = lambda: seen.note_closed(row, first, later + timedelta(minutes=1))
    await seen.store()
    nodes.meanwhile = int
    await seen.store()
    await seen.store()
    assert nodes.transactions == 2
    assert [entry[2] for entry in nodes.audited] == [later, later + timedelta(minutes=1)]


async def test_the_first_delivery_is_stored_at_once() -> None:
    nodes = Nodes()
    await seen_by(nodes).record_closed(NODE, generation(), NOW)
    assert (nodes.transactions, nodes.audited) == (1, [(NODE, generation(), NOW, {})])


async def test_a_revoked_generation_that_asks_again_is_not_recorded() -> None:
    nodes = Nodes()
    seen = seen_by(nodes)
    await seen.record_closed(node(current_generation=1), generation(confirmed_at=NOW, told_at=NOW), NOW)
    await seen.store()
    assert nodes.transactions == 0
