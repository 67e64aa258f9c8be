"""Queries on renewals with fresh evidence. States change by compare-and-set; the answer says whether it held."""

from datetime import datetime

import msgspec

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import RenewalRow, generation_id
from cloud.storage import ServiceEngine, Statement
from protocol.ids import NodeId, RenewalId
from protocol.limits import CHALLENGE_TRIES_MAX

_RENEWAL = Mapper(RenewalRow, "renewal")
_BY_ID = _RENEWAL.select("WHERE id = {}")
_OPEN = Statement(
    "SELECT COUNT(*) AS n FROM renewal WHERE node = {} AND state IN ('challenged', 'failed') AND expires_at > {}"
)
_PROVED_SINCE = Statement(
    "SELECT COUNT(*) AS n FROM renewal WHERE node = {} AND state IN ('proved', 'issued', 'done') AND created_at > {}"
)
_WRONG = Statement(
    "UPDATE renewal SET tries = tries + 1, state = CASE WHEN tries + 1 >= {} THEN 'failed' ELSE 'challenged' END "
    "WHERE id = {} AND state = 'challenged' RETURNING tries"
)
_PROVED = Statement(
    "UPDATE renewal SET state = 'proved', proof_hash = {}, csr = {}, node_public_key = {}, not_after = {} "
    "WHERE id = {} AND state = 'challenged' RETURNING id"
)
_ISSUED = Statement(
    "UPDATE renewal SET state = {}, certificate_chain = {} WHERE id = {} AND state = 'proved' RETURNING id"
)
_REKEYED = _RENEWAL.select("WHERE state = 'issued' ORDER BY id LIMIT {}")
_DONE = Statement("UPDATE renewal SET state = 'done' WHERE id = {} AND state = 'issued' RETURNING id")
_SET_KEY = Statement("UPDATE generation SET node_public_key = {}, certificate_not_after = {} WHERE id = {}")
_PURGE = Statement("DELETE FROM renewal WHERE created_at < {} AND state <> 'issued'")


class RenewalStore:
    """Renewals with fresh evidence."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: RenewalRow) -> None:
        await self._engine.fetch(_RENEWAL.insert, *_RENEWAL.args(row))

    async def find(self, renewal: RenewalId) -> RenewalRow | None:
        return _RENEWAL.read_one(await self._engine.fetch_one(_BY_ID, renewal))

    async def count_open(self, node: NodeId, now: datetime) -> int:
        """Challenges of a node whose time is not over: those that failed early count, or failing would make room."""
        row = await self._engine.fetch_one(_OPEN, node, now)
        return 0 if row is None else int(row["n"])

    async def count_proved(self, node: NodeId, since: datetime) -> int:
        """Renewals of a node that were begun after `since` and proved."""
        row = await self._engine.fetch_one(_PROVED_SINCE, node, since)
        return 0 if row is None else int(row["n"])

    async def count_wrong_answer(self, renewal: RenewalId) -> int | None:
        """Count a wrong answer; the last one closes the renewal. None: it was not open any more."""
        row = await self._engine.fetch_one(_WRONG, CHALLENGE_TRIES_MAX, renewal)
        return None if row is None else int(row["tries"])

    async def set_proved(self, row: RenewalRow) -> bool:
        return bool(
            await self._engine.fetch(_PROVED, row.proof_hash, row.csr, row.node_public_key, row.not_after, row.id),
        )

    async def set_issued(self, renewal: RenewalId, chain: tuple[bytes, ...], *, rekeyed: bool) -> bool:
        state = "issued" if rekeyed else "done"
        return bool(await self._engine.fetch(_ISSUED, state, msgspec.json.encode(chain).decode(), renewal))

    async def rekeyed(self, limit: int) -> list[RenewalRow]:
        """Those for another key of which the issuer has still to hear."""
        return [_RENEWAL.read(row) for row in await self._engine.fetch(_REKEYED, limit)]

    async def set_done(self, renewal: RenewalId) -> bool:
        return bool(await self._engine.fetch(_DONE, renewal))

    async def set_key(self, node: NodeId, number: int, spki: bytes, not_after: datetime) -> None:
        """The key that the generation's certificate is of from now on, and until when that counts."""
        await self._engine.fetch(_SET_KEY, spki, not_after, generation_id(node, number))

    async def purge(self, before: datetime) -> None:
        """Forget renewals that were begun before a time; what became of them stands in the audit."""
        await self._engine.fetch(_PURGE, before)
