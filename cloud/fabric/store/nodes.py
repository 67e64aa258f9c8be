"""Store: nodes and their generations.

Every query is bounded by a key or a limit, since each session runs some. The exceptions are the operators' list and the
revoked nodes that hold a seat. Both use `browse`.
"""

from datetime import datetime

import msgspec
from piccolo.query.functions import Case, When

from cloud.contracts.fabric_events import NodePast
from cloud.fabric.attestation.drift import Drift, Machine
from cloud.fabric.bodies.restored import Hold
from cloud.fabric.store.events.bodies import node_body
from cloud.fabric.store.events.facts import Facts
from cloud.fabric.store.hints import hint_of
from cloud.fabric.store.rows import GenerationRow, NodeRow, generation_id
from cloud.fabric.tables import Generation, Node
from cloud.storage import Mapper, ServiceEngine, compiled, filtered, json_text, literal, param, params
from protocol.ids import NodeId

GENERATIONS_SHOWN_MAX = 20

_NODE = Mapper(NodeRow, Node)
_GENERATION = Mapper(GenerationRow, Generation)

_ADD = _NODE.insert
_BY_ID = compiled(_NODE.select().where(Node.id == param("id")))
_BY_EK = compiled(_NODE.select().where(Node.ek_hash == param("ek_hash")))
_PAGE = compiled(
    _NODE.select().where(Node.id > param("after"), filtered(Node.tenant), filtered(Node.standing)).order_by(Node.id),
    limit=param("limit"),
)
_CLOSING = compiled(
    _NODE.select().where(Node.closing == literal(True), Node.id > param("after")).order_by(Node.id),
    limit=param("limit"),
)
_SEATS_DUE = compiled(
    _NODE.select()
    .where(
        Node.standing == "revoked",
        Node.seat_held == literal(True),
        Node.closed_up_to == Node.last_generation,
        Node.lease_until.is_null() | (Node.lease_until <= param("now")),
    )
    .order_by(Node.id),
    limit=param("limit"),
)
_CURSOR = compiled(Node.select(Node.wake_cursor).where(Node.id == param("id")))
_NODE_OF = Generation.node.join_on(Node.id)
_OPEN = compiled(
    Generation.select(Generation.id).where(
        Generation.id == param("id"),
        Generation.state != "closed",
        _NODE_OF.tenant == param("tenant"),
        Generation.number > _NODE_OF.closed_up_to,
    )
)
_UPDATE = compiled(
    Node.update(
        params(
            Node.ek_hash,
            Node.standing,
            Node.standing_reason,
            Node.standing_at,
            Node.current_generation,
            Node.last_generation,
            Node.closed_up_to,
            Node.closing,
            Node.epoch,
            Node.seq,
            Node.code,
            Node.seat_held,
            Node.tier,
            Node.profile,
            Node.entitlements,
            Node.lease,
            Node.intervals,
            Node.lease_until,
            Node.confirmed_at,
            Node.clone_cause,
            Node.clone_at,
            Node.enrolled,
            Node.overlap_until,
            Node.presented_epoch,
            Node.hold,
            Node.hold_at,
            Node.repairs,
            Node.silent_until,
        )
        | {Node.wake_cursor: param("wakes") + Node.wake_cursor}
    )
    .where(Node.id == param("id"))
    .returning(Node.development)
)
_CLOSED = compiled(
    Node.update(
        {
            Node.closed_at_issuer: param("up_to"),
            Node.closing: Case(When(Node.closed_up_to > param("up_to"), then=literal(True)), default=literal(False)),
        }
    ).where(Node.id == param("id"), Node.closed_at_issuer < param("up_to"))
)
_SET_DEVELOPMENT = compiled(
    Node.update(params(Node.development))
    .where(Node.id == param("id"), Node.development != param("development"))
    .returning(*Node.all_columns())
)
_SET_FLOOR = compiled(
    Node.update(params(Node.floor_index, Node.floor_value, Node.floor_reset_at)).where(Node.id == param("id"))
)

_SET_SUPERSEDED_ASKED = compiled(
    Node.update(params(Node.superseded_asked_at, Node.superseded_asked_generation)).where(
        Node.id == param("id"),
        Node.superseded_asked_at.is_null() | (Node.superseded_asked_at <= param("superseded_asked_at")),
    )
)

_ADD_GENERATION = _GENERATION.insert
_GENERATION_BY_ID = compiled(_GENERATION.select().where(Generation.id == param("id")))
_GENERATIONS = compiled(
    _GENERATION.select()
    .where(Generation.node == param("node"))
    .order_by(Generation.number, ascending=False)
    .limit(GENERATIONS_SHOWN_MAX)
)
_OPEN_GENERATIONS = compiled(
    _GENERATION.select()
    .where(Generation.node == param("node"), Generation.state != "closed", Generation.number <= param("up_to"))
    .order_by(Generation.number)
)
_UPDATE_GENERATION = compiled(
    Generation.update(
        params(
            Generation.state,
            Generation.confirmed_at,
            Generation.statement,
            Generation.statement_type,
            Generation.seq,
            Generation.issued_at,
            Generation.refresh_after,
            Generation.terminate_at,
            Generation.lease_facts,
            Generation.recovery,
            Generation.grace_until,
        )
    ).where(Generation.id == param("id"))
)
_SET_FINGERPRINT = compiled(Generation.update(params(Generation.fingerprint)).where(Generation.id == param("id")))
_SET_LEASE_VERSION = compiled(Generation.update(params(Generation.lease_version)).where(Generation.id == param("id")))
_SET_FIRST_AK = compiled(
    Generation.update(params(Generation.ak_public)).where(
        Generation.id == param("id"), Generation.ak_public == param("none")
    )
)
_SET_CERTIFICATE = compiled(
    Generation.update(params(Generation.certificate_not_after)).where(Generation.id == param("id"))
)
_SET_DELIVERED = compiled(
    Generation.update(params(Generation.told_at))
    .where(Generation.id == param("id"), Generation.told_at.is_null())
    .returning(Generation.id)
)
_SEEN = compiled(
    Generation.update(
        params(
            Generation.seen_at,
            Generation.seen_fingerprint,
            Generation.agent_version,
            Generation.certificate_not_after,
        )
    ).where(Generation.id == param("id"))
)
_MACHINES = compiled(Generation.select(Generation.machines).where(Generation.id == param("id")))
_SET_DRIFT = compiled(
    Generation.update(params(Generation.drift, Generation.machines)).where(Generation.id == param("id"))
)
_SET_PCRS = compiled(
    Generation.update(params(Generation.pcr_values, Generation.pcr_fault, Generation.pcr_changed_at))
    .where(
        Generation.id == param("id"),
        (Generation.pcr_values != param("pcr_values")) | (Generation.pcr_fault != param("pcr_fault")),
    )
    .returning(Generation.id)
)
_ACCEPT_FIRST_PCRS = compiled(
    Generation.update(params(Generation.pcr_accepted)).where(
        Generation.id == param("id"), Generation.pcr_accepted == "[]"
    )
)
_ACCEPT_PCRS = compiled(
    Generation.update(params(Generation.pcr_accepted))
    .where(Generation.id == param("id"), Generation.pcr_values == param("pcr_accepted"))
    .returning(Generation.id)
)
_SEEN_HOLDERS = compiled(
    Generation.update(
        params(
            Generation.seen_at,
            Generation.seen_fingerprint,
            Generation.agent_version,
            Generation.certificate_not_after,
            Generation.holders,
        )
        | {Generation.holders_version: literal(1) + Generation.holders_version}
    )
    .where(Generation.id == param("id"), Generation.holders_version == param("version"))
    .returning(Generation.id)
)
_SET_HOLDERS = compiled(
    Generation.update(
        params(Generation.holders, Generation.sessions_from)
        | {Generation.holders_version: literal(1) + Generation.holders_version}
    )
    .where(Generation.id == param("id"), Generation.holders_version == param("version"))
    .returning(Generation.id)
)
_HELD = compiled(
    _NODE.select().where(Node.hold == param("hold"), Node.id > param("after"), filtered(Node.tenant)).order_by(Node.id),
    limit=param("limit"),
)
_UNPRESENTED = compiled(
    _NODE.select()
    .where(Node.presented_epoch < param("epoch"), Node.id > param("after"), filtered(Node.tenant))
    .order_by(Node.id),
    limit=param("limit"),
)
_SUSPECTED = compiled(
    _NODE.select().where(Node.clone_cause > "", Node.id > param("after"), filtered(Node.tenant)).order_by(Node.id),
    limit=param("limit"),
)


_machines = msgspec.json.Decoder(tuple[Machine, ...])


class Seen(msgspec.Struct, frozen=True):
    """Values that the last session of a generation reported.

    `holders` has the generation's holders after the session as JSON, made of the row with `holders_version`. It is
    empty if the session changed nothing there.
    """

    at: datetime
    fingerprint: dict[str, str]
    agent_version: str
    certificate_not_after: datetime
    holders: str = ""
    holders_version: int = 0


class NodeStore:
    """Nodes and their generations."""

    def __init__(self, engine: ServiceEngine, facts: Facts) -> None:
        self._engine = engine
        self._facts = facts

    async def insert(self, row: NodeRow, past: NodePast) -> None:
        """Insert a node, and add the event `past`."""
        row = msgspec.structs.replace(row, closing=row.closed_up_to > row.closed_at_issuer)
        await self._engine.fetch(_ADD, **_NODE.values(row))
        await self._facts.node(row, past)

    async def find(self, node: NodeId) -> NodeRow | None:
        return _NODE.read_one(await self._engine.fetch_one(_BY_ID, id=node))

    async def find_by_ek(self, ek_hash: str) -> NodeRow | None:
        return _NODE.read_one(await self._engine.fetch_one(_BY_EK, ek_hash=ek_hash))

    async def page(self, tenant: str, standing: str, after: str, limit: int) -> list[NodeRow]:
        """Nodes after the id `after`, in order of id. An empty `tenant` or `standing` matches every node.

        A filter that few nodes match reads all nodes.
        """
        rows = await self._engine.browse(_PAGE, after=after, tenant=tenant, standing=standing, limit=limit)
        return [_NODE.read(row) for row in rows]

    async def closing(self, after: str, limit: int) -> list[NodeRow]:
        """Nodes with generations that Fabric has closed and Breakwater has not."""
        return [_NODE.read(row) for row in await self._engine.fetch(_CLOSING, after=after, limit=limit)]

    async def seats_due(self, now: datetime, limit: int) -> list[NodeRow]:
        """Revoked nodes that hold a seat, whose last lease has terminated, and that have no open generation.

        It reads all revoked nodes that hold a seat: many, if an operator has just revoked many.
        """
        return [_NODE.read(row) for row in await self._engine.browse(_SEATS_DUE, now=now, limit=limit)]

    async def cursor(self, node: NodeId) -> int | None:
        """The node's wake cursor; None if the node is unknown."""
        row = await self._engine.fetch_one(_CURSOR, id=node)
        return None if row is None else int(row["wake_cursor"])

    async def generation_open(self, tenant: str, node: NodeId, number: int) -> bool:
        """Whether the tenant's node has this generation, and it is not closed."""
        return await self._engine.fetch_one(_OPEN, id=generation_id(node, number), tenant=tenant) is not None

    async def update(self, row: NodeRow, past: NodePast, *, wakes: bool = False, since: NodeRow | None = None) -> None:
        """Write all columns that change during a node's life, except `closed_at_issuer`, and add the event `past`.

        With `wakes` the wake cursor advances, and all replicas get a hint to wake the node's polls after the commit.
        `since` is the row that the transaction has read: without a change of the public state there is no event.
        Call it in the transaction that read the row, or a change by another transaction is overwritten.
        """
        values = _NODE.values(row, _UPDATE)
        values["closing"] = row.closed_up_to > row.closed_at_issuer
        values["wakes"] = int(wakes)
        stored = await self._engine.fetch_one(_UPDATE, **values)
        if wakes:
            self._engine.hint(hint_of([row.id]))
        if stored is not None and (since is None or node_body(since) != node_body(row)):
            # A report of the mode is stored without the key of the node, so the row that was read may have an older one.
            await self._facts.node(msgspec.structs.replace(row, development=stored["development"]), past)

    async def set_closed_at_issuer(self, node: NodeId, up_to: int) -> None:
        """Store that Breakwater has closed the generations up to `up_to`. The number never falls."""
        await self._engine.fetch(_CLOSED, id=node, up_to=up_to)

    async def insert_generation(self, row: GenerationRow) -> None:
        await self._engine.fetch(_ADD_GENERATION, **_GENERATION.values(row))

    async def find_generation(self, node: NodeId, number: int) -> GenerationRow | None:
        row = await self._engine.fetch_one(_GENERATION_BY_ID, id=generation_id(node, number))
        return _GENERATION.read_one(row)

    async def generations(self, node: NodeId) -> list[GenerationRow]:
        """The node's generations, the newest first, at most GENERATIONS_SHOWN_MAX."""
        return [_GENERATION.read(row) for row in await self._engine.fetch(_GENERATIONS, node=node)]

    async def open_generations(self, node: NodeId, up_to: int) -> list[GenerationRow]:
        """Generations up to and including `up_to` that are not closed. Few, because a confirm closes earlier ones."""
        rows = await self._engine.fetch(_OPEN_GENERATIONS, node=node, up_to=up_to)
        return [_GENERATION.read(row) for row in rows]

    async def update_generation(self, row: GenerationRow, node: NodeRow) -> None:
        """Write the generation's state and its new statement, and add the event. `node` is the node after it."""
        await self._engine.fetch(_UPDATE_GENERATION, **_GENERATION.values(row, _UPDATE_GENERATION))
        await self._facts.statement(row, node, "issued")

    async def set_certificate_end(self, node: NodeId, number: int, not_after: datetime) -> None:
        await self._engine.fetch(_SET_CERTIFICATE, id=generation_id(node, number), certificate_not_after=not_after)

    async def set_first_ak(self, node: NodeId, number: int, ak_public: bytes) -> None:
        """Store the attestation key of a generation that has none, because it was reconstructed."""
        await self._engine.fetch(_SET_FIRST_AK, id=generation_id(node, number), ak_public=ak_public, none=b"")

    async def set_revocation_delivered(self, node: NodeId, number: int, at: datetime) -> bool:
        """Store when the node first received its revocation. False if a time is stored already."""
        return bool(await self._engine.fetch(_SET_DELIVERED, id=generation_id(node, number), told_at=at))

    async def set_fingerprint(self, node: NodeId, number: int, fingerprint: dict[str, str]) -> None:
        """Store the fingerprint of a generation whose activation reported none."""
        await self._engine.fetch(_SET_FINGERPRINT, id=generation_id(node, number), fingerprint=json_text(fingerprint))

    async def set_lease_version(self, node: NodeId, number: int, version: int) -> None:
        """Store the highest version of leases that the node reads."""
        await self._engine.fetch(_SET_LEASE_VERSION, id=generation_id(node, number), lease_version=version)

    async def set_development(self, node: NodeId, development: bool) -> bool:
        """Store whether the node runs in development mode; True if the stored value changed."""
        row = _NODE.read_one(await self._engine.fetch_one(_SET_DEVELOPMENT, id=node, development=development))
        if row is not None:
            await self._facts.node(row, "changed")
        return row is not None

    async def set_floor(self, node: NodeId, index: int, value: int, reset_at: datetime | None) -> None:
        """Store the counter that versions the node's floor record, and when it was last reset."""
        await self._engine.fetch(_SET_FLOOR, id=node, floor_index=index, floor_value=value, floor_reset_at=reset_at)

    async def set_superseded_asked(self, node: NodeId, number: int, at: datetime) -> None:
        """Store which superseded generation asked last, and when. An earlier time changes nothing."""
        await self._engine.fetch(
            _SET_SUPERSEDED_ASKED, id=node, superseded_asked_at=at, superseded_asked_generation=number
        )

    async def set_seen(self, key: str, seen: Seen) -> bool:
        """Store values that a session reported. `key` is the generation's id.

        False if the holders have changed since the session read them. Then nothing is stored.
        """
        values = {
            "seen_at": seen.at,
            "seen_fingerprint": json_text(seen.fingerprint),
            "agent_version": seen.agent_version,
            "certificate_not_after": seen.certificate_not_after,
        }
        if not seen.holders:
            await self._engine.fetch(_SEEN, id=key, **values)
            return True
        changed = await self._engine.fetch(
            _SEEN_HOLDERS, id=key, version=seen.holders_version, holders=seen.holders, **values
        )
        return bool(changed)

    async def machines(self, node: NodeId, number: int) -> tuple[Machine, ...]:
        """The machines that a generation's fingerprints have shown, the latest first."""
        row = await self._engine.fetch_one(_MACHINES, id=generation_id(node, number))
        return () if row is None else _machines.decode(row["machines"])

    async def set_drift(self, node: NodeId, number: int, drift: Drift, machines: tuple[Machine, ...]) -> None:
        """Store what a reported fingerprint shows."""
        await self._engine.fetch(
            _SET_DRIFT, id=generation_id(node, number), drift=json_text(drift), machines=json_text(machines)
        )

    async def set_pcrs(self, key: str, values: tuple[str, ...], fault: str, at: datetime) -> bool:
        """Store the result of a PCR quote; True if it changed. `key` is the generation's id.

        The first values of a generation are its accepted ones.
        """
        text = json_text(values)
        row = await self._engine.fetch(_SET_PCRS, id=key, pcr_values=text, pcr_fault=fault, pcr_changed_at=at)
        if row and values:
            await self._engine.fetch(_ACCEPT_FIRST_PCRS, id=key, pcr_accepted=text)
        return bool(row)

    async def accept_pcrs(self, node: NodeId, number: int, values: tuple[str, ...]) -> bool:
        """Accept PCR values. False if they are not the values of the generation's last quote."""
        row = await self._engine.fetch(_ACCEPT_PCRS, id=generation_id(node, number), pcr_accepted=json_text(values))
        return bool(row)

    async def set_holders(self, row: GenerationRow, holders: str, sessions_from: datetime | None) -> bool:
        """Store the holders (JSON) of the generation, if they are still those of `row`. False if they have changed."""
        changed = await self._engine.fetch(
            _SET_HOLDERS, id=row.id, version=row.holders_version, holders=holders, sessions_from=sessions_from
        )
        return bool(changed)

    async def suspected(self, tenant: str, after: str, limit: int) -> list[NodeRow]:
        """Nodes of which a clone is suspected, after the id `after`, in order of id. An empty `tenant` matches all."""
        rows = await self._engine.fetch(_SUSPECTED, tenant=tenant, after=after, limit=limit)
        return [_NODE.read(row) for row in rows]

    async def held(self, hold: Hold, tenant: str, after: str, limit: int) -> list[NodeRow]:
        """Nodes with this hold after the id `after`, in order of id. An empty `tenant` matches all."""
        rows = await self._engine.browse(_HELD, hold=hold, tenant=tenant, after=after, limit=limit)
        return [_NODE.read(row) for row in rows]

    async def unpresented(self, epoch: int, tenant: str, after: str, limit: int) -> list[NodeRow]:
        """Nodes that have presented no statement since `epoch` began. It reads all nodes, as `page` does."""
        rows = await self._engine.browse(_UNPRESENTED, epoch=epoch, tenant=tenant, after=after, limit=limit)
        return [_NODE.read(row) for row in rows]
