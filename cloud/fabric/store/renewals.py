"""Store: renewals of device certificates with new TPM evidence.

States change by compare-and-set. The methods `set_...` that return a bool return True if the row changed.
"""

from datetime import datetime

from piccolo.query.functions import Case, Count, When

from cloud.fabric.licensing.former_keys import FormerKey
from cloud.fabric.store.rows import RenewalRow, generation_id
from cloud.fabric.tables import Generation, Renewal
from cloud.storage import Mapper, ServiceEngine, compiled, json_text, literal, param, params
from protocol.ids import NodeId, RenewalId
from protocol.limits import CHALLENGE_TRIES_MAX

_RENEWAL = Mapper(RenewalRow, Renewal)

_ADD = _RENEWAL.insert
_BY_ID = compiled(_RENEWAL.select().where(Renewal.id == param("id")))
_BY_PROOF = compiled(_RENEWAL.select().where(Renewal.node == param("node"), Renewal.proof_hash == param("proof_hash")))
_OPEN = compiled(
    Renewal.select(Count(alias="n")).where(
        Renewal.node == param("node"),
        Renewal.held_key == param("held_key"),
        Renewal.state.is_in(["challenged", "failed"]),
        Renewal.expires_at > param("now"),
    )
)
_PROVED_SINCE = compiled(
    Renewal.select(Count(alias="n")).where(
        Renewal.node == param("node"),
        Renewal.state.is_in(["proved", "issued", "done"]),
        Renewal.returned == literal(False),
        Renewal.created_at > param("since"),
    )
)
_WRONG = compiled(
    Renewal.update(
        {
            Renewal.tries: Renewal.tries + 1,
            Renewal.state: Case(
                When(Renewal.tries + 1 >= CHALLENGE_TRIES_MAX, then=literal("failed")), default=literal("challenged")
            ),
        }
    )
    .where(Renewal.id == param("id"), Renewal.state == "challenged")
    .returning(Renewal.tries)
)
_PROVED = compiled(
    Renewal.update(
        {
            Renewal.state: "proved",
            **params(Renewal.proof_hash, Renewal.csr, Renewal.node_public_key, Renewal.not_after, Renewal.returned),
        }
    )
    .where(Renewal.id == param("id"), Renewal.state == "challenged")
    .returning(Renewal.id)
)
_REFUSED = compiled(
    Renewal.update({Renewal.state: "failed", Renewal.expires_at: param("until")}).where(
        Renewal.id == param("id"), Renewal.state == "challenged"
    )
)
_ISSUED = compiled(
    Renewal.update(params(Renewal.state, Renewal.certificate_chain))
    .where(Renewal.id == param("id"), Renewal.state == "proved")
    .returning(Renewal.id)
)
_REKEYED = compiled(_RENEWAL.select().where(Renewal.state == "issued").order_by(Renewal.id), limit=param("limit"))
_DONE = compiled(
    Renewal.update({Renewal.state: "done"})
    .where(Renewal.id == param("id"), Renewal.state == "issued")
    .returning(Renewal.id)
)
_SET_KEY = compiled(
    Generation.update(
        params(Generation.node_public_key, Generation.certificate_not_after, Generation.former_keys)
    ).where(Generation.id == param("id"))
)
PURGED_AT_ONCE = 500
"""Rows that one statement deletes. With SQLite it blocks the event loop for a few milliseconds."""
_OLD = (
    Renewal.select(Renewal.id)
    .where(Renewal.created_at < param("before"), Renewal.state != "issued")
    .limit(PURGED_AT_ONCE)
)
_PURGE = compiled(Renewal.delete().where(Renewal.id.is_in(_OLD)).returning(Renewal.id))


class RenewalStore:
    """Renewals with new TPM evidence."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: RenewalRow) -> None:
        await self._engine.fetch(_ADD, **_RENEWAL.values(row))

    async def find(self, renewal: RenewalId) -> RenewalRow | None:
        return _RENEWAL.read_one(await self._engine.fetch_one(_BY_ID, id=renewal))

    async def find_proved(self, node: NodeId, proof_hash: str) -> RenewalRow | None:
        """The node's renewal that a proof with this hash proved."""
        return _RENEWAL.read_one(await self._engine.fetch_one(_BY_PROOF, node=node, proof_hash=proof_hash))

    async def count_open(self, node: NodeId, now: datetime, held_key: str = "") -> int:
        """Count a node's challenges that have not expired at `now`, among those with this `RenewalRow.held_key`.

        Challenges that failed early count too. Otherwise a caller could free a place by answering wrongly.
        """
        (row,) = await self._engine.fetch(_OPEN, node=node, held_key=held_key, now=now)
        return int(row["n"])

    async def count_proved(self, node: NodeId, since: datetime) -> int:
        """Count a node's renewals that were begun after `since` and proved, except those by a former key's holder."""
        (row,) = await self._engine.fetch(_PROVED_SINCE, node=node, since=since)
        return int(row["n"])

    async def count_wrong_answer(self, renewal: RenewalId) -> int | None:
        """Count a wrong answer. The last allowed one ends the renewal.

        Returns the number of wrong answers so far, or None if the renewal was not open.
        """
        row = await self._engine.fetch_one(_WRONG, id=renewal)
        return None if row is None else int(row["tries"])

    async def set_proved(self, row: RenewalRow) -> bool:
        """Store the results of the proof, and set the state. False if the renewal was not open."""
        return bool(await self._engine.fetch(_PROVED, **_RENEWAL.values(row, _PROVED)))

    async def set_refused(self, renewal: RenewalId, until: datetime) -> None:
        """End a renewal whose machine is a copy that gets no certificate. It counts as open before `until`."""
        await self._engine.fetch(_REFUSED, id=renewal, until=until)

    async def set_issued(self, renewal: RenewalId, chain: tuple[bytes, ...], *, rekeyed: bool) -> bool:
        """Store the certificate chain (DER). The state becomes `issued` if the key changed, else `done`."""
        state = "issued" if rekeyed else "done"
        return bool(await self._engine.fetch(_ISSUED, id=renewal, state=state, certificate_chain=json_text(chain)))

    async def rekeyed(self, limit: int) -> list[RenewalRow]:
        """Renewals with a new key, for which the issuer has not revoked the certificates of the old key yet."""
        return [_RENEWAL.read(row) for row in await self._engine.fetch(_REKEYED, limit=limit)]

    async def set_done(self, renewal: RenewalId) -> bool:
        """Store that the issuer has revoked the certificates of the old key."""
        return bool(await self._engine.fetch(_DONE, id=renewal))

    async def set_key(
        self, node: NodeId, number: int, spki: bytes, not_after: datetime, former: tuple[FormerKey, ...] = ()
    ) -> None:
        """Store the generation's key (`spki`, DER), its former keys, and the end of its device certificate."""
        await self._engine.fetch(
            _SET_KEY,
            id=generation_id(node, number),
            node_public_key=spki,
            certificate_not_after=not_after,
            former_keys=json_text(former),
        )

    async def purge(self, before: datetime) -> None:
        """Delete renewals that were begun before `before`, except those in state `issued`."""
        while len(await self._engine.fetch(_PURGE, before=before)) == PURGED_AT_ONCE:
            pass
