"""Store: runs of the activation exchange.

States change by compare-and-set. The methods `set_...` return True if the row was in the expected state and changed.
"""

from datetime import datetime

from piccolo.query.functions import Case, Count, When

from cloud.fabric.schemas import ActivationState
from cloud.fabric.store.rows import ActivationRow
from cloud.fabric.tables import Activation
from cloud.storage import Mapper, ServiceEngine, compiled, filtered, json_text, literal, param, params
from protocol.ids import ActivationId, CodeId, NodeId, TenantId
from protocol.limits import CHALLENGE_TRIES_MAX

_ACTIVATION = Mapper(ActivationRow, Activation)
_IS_LIVE = Activation.state.is_in(["proved", "issued"])
_WAITS = Activation.state.is_in(["pending", "approved"])

_ADD = _ACTIVATION.insert
_BY_ID = compiled(_ACTIVATION.select().where(Activation.id == param("id")))
_BY_GENERATION = compiled(
    _ACTIVATION.select().where(Activation.node == param("node"), Activation.generation == param("generation"))
)
_BY_PROOF = compiled(
    _ACTIVATION.select()
    .where(Activation.proof_hash == param("proof_hash"))
    .order_by(Activation.id, ascending=False)
    .limit(1)
)
_OVERDUE = compiled(
    _ACTIVATION.select().where(_IS_LIVE, Activation.confirm_by <= param("now")).order_by(Activation.id),
    limit=param("limit"),
)
_LAPSING = compiled(
    _ACTIVATION.select().where(Activation.state == "lapsing").order_by(Activation.id), limit=param("limit")
)
_MADE = compiled(
    Activation.select(Activation.created_at)
    .where(
        Activation.code == param("code"), Activation.tenant == param("tenant"), Activation.created_at > param("since")
    )
    .order_by(Activation.created_at, ascending=False),
    limit=param("limit"),
)
_LIVE = compiled(Activation.select(Count(alias="n")).where(Activation.node == param("node"), _IS_LIVE))
_WRONG = compiled(
    Activation.update(
        {
            Activation.tries: Activation.tries + 1,
            Activation.state: Case(
                When(Activation.tries + 1 >= CHALLENGE_TRIES_MAX, then=literal("failed")), default=literal("challenged")
            ),
        }
    )
    .where(Activation.id == param("id"), Activation.state == "challenged")
    .returning(Activation.tries)
)
_PROVED = compiled(
    Activation.update(
        {
            Activation.state: "proved",
            **params(
                Activation.node,
                Activation.generation,
                Activation.proof_hash,
                Activation.csr,
                Activation.not_after,
                Activation.confirm_by,
                Activation.fingerprint,
                Activation.matched,
                Activation.recovery,
                Activation.candidate,
            ),
            Activation.seat_reserved: False,
        }
    )
    .where(Activation.id == param("id"), Activation.state.is_in(["challenged", "approved"]))
    .returning(Activation.id)
)
_ISSUED = compiled(
    Activation.update({Activation.state: "issued", **params(Activation.certificate_chain)})
    .where(Activation.id == param("id"), Activation.state == "proved")
    .returning(Activation.id)
)
_CONFIRMED = compiled(
    Activation.update({Activation.state: "confirmed"})
    .where(Activation.id == param("id"), Activation.state == "issued")
    .returning(Activation.id)
)
_TO_LAPSING = compiled(
    Activation.update({Activation.state: "lapsing"})
    .where(Activation.id == param("id"), _IS_LIVE)
    .returning(Activation.id)
)
_LAPSED = compiled(
    Activation.update({Activation.state: "lapsed"})
    .where(Activation.id == param("id"), Activation.state == "lapsing")
    .returning(Activation.id)
)
_SUPERSEDE = compiled(
    Activation.update({Activation.state: "superseded"}).where(
        Activation.node == param("node"), Activation.generation <= param("up_to"), _IS_LIVE
    )
)
# Approval.
_PAGE = compiled(
    _ACTIVATION.select()
    .where(
        Activation.id > param("after"),
        filtered(Activation.tenant),
        filtered(Activation.code),
        filtered(Activation.state),
    )
    .order_by(Activation.id),
    limit=param("limit"),
)
_ASK = compiled(
    Activation.update(
        {
            Activation.state: "pending",
            **params(
                Activation.proof_hash,
                Activation.csr,
                Activation.fingerprint,
                Activation.matched,
                Activation.candidate,
                Activation.recovery,
                Activation.asked_at,
                Activation.approve_by,
            ),
        }
    )
    .where(Activation.id == param("id"), Activation.state == "challenged")
    .returning(Activation.id)
)
_DECIDE = compiled(
    Activation.update(
        params(
            Activation.state,
            Activation.approve_by,
            Activation.decided_at,
            Activation.decided_by,
            Activation.decision_reason,
            Activation.seat_reserved,
        )
    )
    .where(Activation.id == param("id"), Activation.state == "pending")
    .returning(Activation.id)
)
_LIFT = compiled(
    Activation.update({Activation.state: "lifted"})
    .where(Activation.id == param("id"), Activation.state == "denied")
    .returning(Activation.id)
)
_END_WAITING = compiled(
    Activation.update({Activation.seat_reserved: False, **params(Activation.state)})
    .where(Activation.id == param("id"), _WAITS)
    .returning(Activation.id)
)
_WAITING_OF_CHIP = compiled(
    _ACTIVATION.select().where(Activation.code == param("code"), Activation.ek_hash == param("ek_hash"), _WAITS)
)
_DENIED = compiled(
    _ACTIVATION.select()
    .where(Activation.code == param("code"), Activation.ek_hash == param("ek_hash"), Activation.state == "denied")
    .order_by(Activation.id)
    .limit(1)
)
_PENDING_OF_CODE = compiled(
    Activation.select(Count(alias="n")).where(
        Activation.tenant == param("tenant"),  # the index of tenant and state bounds the rows that are read
        Activation.code == param("code"),
        Activation.state == "pending",
    )
)
_PENDING_OF_TENANT = compiled(
    Activation.select(Count(alias="n")).where(Activation.tenant == param("tenant"), Activation.state == "pending")
)
_UNDECIDED = compiled(
    _ACTIVATION.select().where(_WAITS, Activation.approve_by <= param("now")).order_by(Activation.id),
    limit=param("limit"),
)
PURGED_AT_ONCE = 500
"""Rows that one statement deletes. With SQLite it blocks the event loop for a few milliseconds."""
_UNPROVED = (
    Activation.select(Activation.id)
    .where(
        Activation.state.is_in(["challenged", "failed", "superseded"]),
        Activation.node == "",  # superseded while it waited, so it made no generation
        Activation.expires_at < param("before"),
    )
    .limit(PURGED_AT_ONCE)
)
_DECIDED = (
    Activation.select(Activation.id)
    .where(Activation.state.is_in(["denied", "lifted", "expired"]), Activation.approve_by < param("before"))
    .limit(PURGED_AT_ONCE)
)
_PURGE_DECIDED = compiled(Activation.delete().where(Activation.id.is_in(_DECIDED)).returning(Activation.id))
_PURGE = compiled(Activation.delete().where(Activation.id.is_in(_UNPROVED)).returning(Activation.id))


class ActivationStore:
    """Runs of the activation exchange."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: ActivationRow) -> None:
        await self._engine.fetch(_ADD, **_ACTIVATION.values(row))

    async def find(self, activation: ActivationId) -> ActivationRow | None:
        return _ACTIVATION.read_one(await self._engine.fetch_one(_BY_ID, id=activation))

    async def find_by_generation(self, node: NodeId, generation: int) -> ActivationRow | None:
        row = await self._engine.fetch_one(_BY_GENERATION, node=node, generation=generation)
        return _ACTIVATION.read_one(row)

    async def find_by_proof(self, proof_hash: str) -> ActivationRow | None:
        """The newest activation that the request with this hash proved."""
        row = await self._engine.fetch_one(_BY_PROOF, proof_hash=proof_hash)
        return _ACTIVATION.read_one(row)

    async def made_after(self, code: str, tenant: TenantId, since: datetime, limit: int) -> list[datetime]:
        """Return the times of a code's newest challenges after `since`, the oldest first, at most `limit`.

        Without a code: those of the tenant's recoveries.

        Challenges that failed or expired count too. Otherwise a caller could free a place by answering wrongly.
        """
        rows = await self._engine.fetch(_MADE, code=code, tenant=tenant, since=since, limit=limit)
        return [row["created_at"] for row in reversed(rows)]

    async def count_live(self, node: NodeId) -> int:
        """Count a node's activations that may still be confirmed."""
        (row,) = await self._engine.fetch(_LIVE, node=node)
        return int(row["n"])

    async def count_wrong_answer(self, activation: ActivationId) -> int | None:
        """Count a wrong answer. The last allowed one ends the activation.

        Returns the number of wrong answers so far, or None if the activation was not open.
        """
        row = await self._engine.fetch_one(_WRONG, id=activation)
        return None if row is None else int(row["tries"])

    async def set_proved(self, row: ActivationRow) -> bool:
        """Store the results of the proof, and set the state. False if it was neither open nor approved."""
        return bool(await self._engine.fetch(_PROVED, **_ACTIVATION.values(row, _PROVED)))

    async def set_issued(self, activation: ActivationId, chain: tuple[bytes, ...]) -> bool:
        return bool(await self._engine.fetch(_ISSUED, id=activation, certificate_chain=json_text(chain)))

    async def set_confirmed(self, activation: ActivationId) -> bool:
        return bool(await self._engine.fetch(_CONFIRMED, id=activation))

    async def set_lapsing(self, activation: ActivationId) -> bool:
        return bool(await self._engine.fetch(_TO_LAPSING, id=activation))

    async def set_lapsed(self, activation: ActivationId) -> bool:
        return bool(await self._engine.fetch(_LAPSED, id=activation))

    async def supersede(self, node: NodeId, up_to: int) -> None:
        """End every unconfirmed activation of the node's generations up to and including `up_to`."""
        await self._engine.fetch(_SUPERSEDE, node=node, up_to=up_to)

    async def overdue(self, now: datetime, limit: int) -> list[ActivationRow]:
        """Unconfirmed activations whose `confirm_by` has passed."""
        return [_ACTIVATION.read(row) for row in await self._engine.fetch(_OVERDUE, now=now, limit=limit)]

    async def lapsing(self, limit: int) -> list[ActivationRow]:
        """Activations whose lapse has begun and is not finished."""
        return [_ACTIVATION.read(row) for row in await self._engine.fetch(_LAPSING, limit=limit)]

    async def purge(self, before: datetime) -> None:
        """Delete challenges that expired before `before`, if they are unproved or were superseded without a node."""
        while len(await self._engine.fetch(_PURGE, before=before)) == PURGED_AT_ONCE:
            pass

    # Approval.

    async def page(self, tenant: str, code: str, state: str, after: str, limit: int) -> list[ActivationRow]:
        """Activations after the id `after`, in order of id. An empty filter matches every activation.

        A filter that few activations match reads many rows.
        """
        rows = await self._engine.browse(_PAGE, after=after, tenant=tenant, code=code, state=state, limit=limit)
        return [_ACTIVATION.read(row) for row in rows]

    async def set_pending(self, row: ActivationRow) -> bool:
        """Store proof and evidence of an activation that a person must approve. False if it was not open."""
        return bool(await self._engine.fetch(_ASK, **_ACTIVATION.values(row, _ASK)))

    async def set_decided(self, row: ActivationRow) -> bool:
        """Store a decision: the state `approved` or `denied`, and who decided. False if it was not pending."""
        return bool(await self._engine.fetch(_DECIDE, **_ACTIVATION.values(row, _DECIDE)))

    async def set_lifted(self, activation: ActivationId) -> bool:
        """End a denial. False if the activation was not denied."""
        return bool(await self._engine.fetch(_LIFT, id=activation))

    async def end_waiting(self, activation: ActivationId, state: ActivationState) -> bool:
        """Set the state of a pending or approved activation to `expired` or `superseded`. False if it was neither.

        The row holds no seat afterwards; the caller frees the seat that it held.
        """
        return bool(await self._engine.fetch(_END_WAITING, id=activation, state=state))

    async def waiting_of(self, code: CodeId, ek_hash: str) -> list[ActivationRow]:
        """The pending and approved activations of a chip with a code: one at most."""
        return [_ACTIVATION.read(row) for row in await self._engine.fetch(_WAITING_OF_CHIP, code=code, ek_hash=ek_hash)]

    async def denied(self, code: CodeId, ek_hash: str) -> ActivationRow | None:
        """The first activation of a chip with a code that an operator denied."""
        return _ACTIVATION.read_one(await self._engine.fetch_one(_DENIED, code=code, ek_hash=ek_hash))

    async def count_pending_of_code(self, tenant: TenantId, code: CodeId) -> int:
        (row,) = await self._engine.fetch(_PENDING_OF_CODE, tenant=tenant, code=code)
        return int(row["n"])

    async def count_pending_of_tenant(self, tenant: TenantId) -> int:
        (row,) = await self._engine.fetch(_PENDING_OF_TENANT, tenant=tenant)
        return int(row["n"])

    async def undecided(self, now: datetime, limit: int) -> list[ActivationRow]:
        """Pending and approved activations whose `approve_by` has passed."""
        return [_ACTIVATION.read(row) for row in await self._engine.fetch(_UNDECIDED, now=now, limit=limit)]

    async def purge_decided(self, before: datetime) -> None:
        """Delete denied, lifted and expired activations whose `approve_by` was before `before`."""
        while len(await self._engine.fetch(_PURGE_DECIDED, before=before)) == PURGED_AT_ONCE:
            pass
