"""Queries on runs of the activation exchange. States change by compare-and-set; the answer says whether it held."""

from datetime import datetime

import msgspec

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import ActivationRow
from cloud.storage import ServiceEngine, Statement
from protocol.ids import ActivationId, CodeId, NodeId
from protocol.limits import CHALLENGE_TRIES_MAX

_ACTIVATION = Mapper(ActivationRow, "activation")
_BY_ID = _ACTIVATION.select("WHERE id = {}")
_BY_GENERATION = _ACTIVATION.select("WHERE node = {} AND generation = {}")
_OVERDUE = _ACTIVATION.select("WHERE state IN ('proved', 'issued') AND confirm_by <= {} ORDER BY id LIMIT {}")
_LAPSING = _ACTIVATION.select("WHERE state = 'lapsing' ORDER BY id LIMIT {}")
_OPEN = Statement(
    "SELECT (SELECT COUNT(*) FROM activation WHERE state = 'challenged' AND code = {} AND expires_at > {}) "
    "+ (SELECT COUNT(*) FROM activation WHERE state = 'failed' AND code = {} AND expires_at > {}) AS n"
)
_LIVE = Statement("SELECT COUNT(*) AS n FROM activation WHERE node = {} AND state IN ('proved', 'issued')")
_WRONG = Statement(
    "UPDATE activation SET tries = tries + 1, state = CASE WHEN tries + 1 >= {} THEN 'failed' ELSE 'challenged' END "
    "WHERE id = {} AND state = 'challenged' RETURNING tries"
)
_PROVED = Statement(
    "UPDATE activation SET state = 'proved', node = {}, generation = {}, proof_hash = {}, csr = {}, not_after = {}, "
    "confirm_by = {} WHERE id = {} AND state = 'challenged' RETURNING id"
)
_ISSUED = Statement(
    "UPDATE activation SET state = 'issued', certificate_chain = {} WHERE id = {} AND state = 'proved' RETURNING id"
)
_CONFIRMED = Statement("UPDATE activation SET state = 'confirmed' WHERE id = {} AND state = 'issued' RETURNING id")
_TO_LAPSING = Statement(
    "UPDATE activation SET state = 'lapsing' WHERE id = {} AND state IN ('proved', 'issued') RETURNING id"
)
_LAPSED = Statement("UPDATE activation SET state = 'lapsed' WHERE id = {} AND state = 'lapsing' RETURNING id")
_SUPERSEDE = Statement(
    "UPDATE activation SET state = 'superseded' WHERE node = {} AND generation <= {} AND state IN ('proved', 'issued')"
)
_PURGE = Statement("DELETE FROM activation WHERE state IN ('challenged', 'failed') AND expires_at < {}")


class ActivationStore:
    """Runs of the activation exchange."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: ActivationRow) -> None:
        await self._engine.fetch(_ACTIVATION.insert, *_ACTIVATION.args(row))

    async def find(self, activation: ActivationId) -> ActivationRow | None:
        return _ACTIVATION.read_one(await self._engine.fetch_one(_BY_ID, activation))

    async def find_by_generation(self, node: NodeId, generation: int) -> ActivationRow | None:
        return _ACTIVATION.read_one(await self._engine.fetch_one(_BY_GENERATION, node, generation))

    async def count_open(self, code: CodeId, now: datetime) -> int:
        """Challenges of a code whose time is not over: those that failed early count, or failing would make room."""
        row = await self._engine.fetch_one(_OPEN, code, now, code, now)
        return 0 if row is None else int(row["n"])

    async def count_live(self, node: NodeId) -> int:
        """Activations of a node that may still be confirmed."""
        row = await self._engine.fetch_one(_LIVE, node)
        return 0 if row is None else int(row["n"])

    async def count_wrong_answer(self, activation: ActivationId) -> int | None:
        """Count a wrong answer; the last one closes the activation. None: it was not open any more."""
        row = await self._engine.fetch_one(_WRONG, CHALLENGE_TRIES_MAX, activation)
        return None if row is None else int(row["tries"])

    async def set_proved(self, row: ActivationRow) -> bool:
        return bool(
            await self._engine.fetch(
                _PROVED, row.node, row.generation, row.proof_hash, row.csr, row.not_after, row.confirm_by, row.id
            )
        )

    async def set_issued(self, activation: ActivationId, chain: tuple[bytes, ...]) -> bool:
        return bool(await self._engine.fetch(_ISSUED, msgspec.json.encode(chain).decode(), activation))

    async def set_confirmed(self, activation: ActivationId) -> bool:
        return bool(await self._engine.fetch(_CONFIRMED, activation))

    async def set_lapsing(self, activation: ActivationId) -> bool:
        return bool(await self._engine.fetch(_TO_LAPSING, activation))

    async def set_lapsed(self, activation: ActivationId) -> bool:
        return bool(await self._engine.fetch(_LAPSED, activation))

    async def supersede(self, node: NodeId, up_to: int) -> None:
        """End every unconfirmed activation of generations up to `up_to`."""
        await self._engine.fetch(_SUPERSEDE, node, up_to)

    async def overdue(self, now: datetime, limit: int) -> list[ActivationRow]:
        return [_ACTIVATION.read(row) for row in await self._engine.fetch(_OVERDUE, now, limit)]

    async def lapsing(self, limit: int) -> list[ActivationRow]:
        return [_ACTIVATION.read(row) for row in await self._engine.fetch(_LAPSING, limit)]

    async def purge(self, before: datetime) -> None:
        """Forget challenges that nobody answered."""
        await self._engine.fetch(_PURGE, before)
