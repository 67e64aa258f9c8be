"""Store: values of the whole installation, by name.

The values are the epoch, the server secrets, the renewal order, what is known of restores from a backup, and for each
issuing CA the time after which all its session certificates have expired.
"""

from datetime import UTC, datetime, timedelta

import msgspec

from cloud.fabric.store.rows import FIRST_EPOCH
from cloud.fabric.tables import Installation
from cloud.fabric.tuf.current_trust import RenewalOrder
from cloud.storage import ServiceEngine, compiled, excluded, insert_into, param

RENEWAL = "renew_devices"
SESSIONS = "sessions_until."
RECOVERY_KEY = "recovery_key"
"""The key of the hashes of recovery codes."""
CURSOR_KEY = "cursor_key"
"""The key of the signatures of lists' cursors."""
RECONCILED = "reconciled"
"""The epoch, and the time of Breakwater's last restore, at the last comparison of generations: `EPOCH:MILLISECONDS`."""
ISSUER = "breakwater_issuer"
"""The key id of the CA that issued Breakwater's own certificate, as Breakwater has reported it."""
REBUILD = "rebuild"
"""The rebuild of a lost database: `BEGIN END`, two times. No row while no rebuild runs. A rebuild that an earlier release
began has no end; it ends REBUILD_LIFE after its begin."""
REBUILD_LIFE = timedelta(days=30)
"""How long a rebuild runs, unless an operator sets another end. Nodes that are online are back within hours."""
BEAT = "beat"
"""When a replica last stored that Fabric runs."""
READINESS = "readiness"
"""The row that the check of readiness writes. No code reads it."""

_ALL = compiled(Installation.select().order_by(Installation.name).limit(100))
_INSERT = compiled(insert_into(Installation))
_INSERT_NEW = compiled(insert_into(Installation).on_conflict(target=Installation.name, action="DO NOTHING"))
_FIND = compiled(Installation.select(Installation.value).where(Installation.name == param("name")))
_SET = compiled(
    insert_into(Installation).on_conflict(target=Installation.name, action="DO UPDATE", values=[Installation.value])
)
_RAISE = compiled(
    insert_into(Installation).on_conflict(
        target=Installation.name,
        action="DO UPDATE",
        values=[Installation.value],
        where=Installation.value < excluded(Installation.value),
    )
)
_DELETE = compiled(Installation.delete().where(Installation.name == param("name")).returning(Installation.name))
_REPLACE = compiled(
    Installation.update({Installation.value: param("new")})
    .where(Installation.name == param("name"), Installation.value == param("old"))
    .returning(Installation.name)
)


class RunningRebuild(msgspec.Struct, frozen=True):
    """A rebuild that an operator began. It makes no rows from `until` on."""

    since: datetime
    until: datetime


class InstallationStore:
    """Values of the whole installation, by name."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def read_all(self) -> dict[str, bytes]:
        return {str(row["name"]): bytes(row["value"]) for row in await self._engine.fetch(_ALL)}

    async def insert(self, name: str, value: bytes) -> None:
        await self._engine.fetch(_INSERT, name=name, value=value)

    async def insert_new(self, name: str, value: bytes) -> None:
        """Insert a value unless there is one of this name."""
        await self._engine.fetch(_INSERT_NEW, name=name, value=value)

    async def set(self, name: str, value: bytes) -> None:
        """Store a value under a name, over the value before."""
        await self._engine.fetch(_SET, name=name, value=value)

    async def prove_writable(self, at: datetime) -> None:
        """Write the row `readiness`. Raises StorageError if the database stores nothing."""
        await self._engine.fetch(_SET, name=READINESS, value=at.isoformat().encode())

    async def beat(self) -> datetime | None:
        """When a replica last stored that Fabric runs; None if none ever did."""
        row = await self._engine.fetch_one(_FIND, name=BEAT)
        return None if row is None else datetime.fromisoformat(bytes(row["value"]).decode())

    async def set_beat(self, at: datetime) -> None:
        """Store that Fabric runs."""
        await self._engine.fetch(_SET, name=BEAT, value=at.isoformat().encode())

    async def renewal_order(self) -> RenewalOrder | None:
        """The newest renewal order; None if no operator has given one."""
        row = await self._engine.fetch_one(_FIND, name=RENEWAL)
        return None if row is None else msgspec.json.decode(bytes(row["value"]), type=RenewalOrder)

    async def set_renewal_order(self, order: RenewalOrder) -> None:
        await self._engine.fetch(_SET, name=RENEWAL, value=msgspec.json.encode(order))

    async def advance_renewal_order(self, old: RenewalOrder, new: RenewalOrder) -> bool:
        """Replace `old` by `new` by compare-and-set. False if another replica was first, or there is a newer order."""
        values = {"old": msgspec.json.encode(old), "new": msgspec.json.encode(new)}
        return bool(await self._engine.fetch(_REPLACE, name=RENEWAL, **values))

    async def reconciled(self) -> tuple[int, int]:
        """The epoch and the time of Breakwater's last restore (ms) at the last comparison; (FIRST_EPOCH, 0) before it."""
        row = await self._engine.fetch_one(_FIND, name=RECONCILED)
        if row is None:
            return FIRST_EPOCH, 0
        epoch, _, restored = bytes(row["value"]).decode().partition(":")
        return int(epoch), int(restored)

    async def set_reconciled(self, epoch: int, restored: int) -> None:
        """Store that generations were compared in this epoch with a Breakwater that was last restored at `restored`."""
        await self._engine.fetch(_SET, name=RECONCILED, value=f"{epoch}:{restored}".encode())

    async def issuer(self) -> str:
        """The key id (hex) of the CA that issued Breakwater's own certificate; empty before the first report."""
        row = await self._engine.fetch_one(_FIND, name=ISSUER)
        return "" if row is None else bytes(row["value"]).decode()

    async def set_issuer(self, key_id: str) -> None:
        await self._engine.fetch(_SET, name=ISSUER, value=key_id.encode())

    async def rebuild(self) -> RunningRebuild | None:
        """The rebuild that runs, or whose end has passed and is not stored yet. None otherwise."""
        row = await self._engine.fetch_one(_FIND, name=REBUILD)
        if row is None:
            return None
        since, *until = (datetime.fromisoformat(text) for text in bytes(row["value"]).decode().split())
        return RunningRebuild(since, until[0] if until else since + REBUILD_LIFE)

    async def set_rebuild(self, rebuild: RunningRebuild) -> None:
        text = f"{rebuild.since.isoformat()} {rebuild.until.isoformat()}"
        await self._engine.fetch(_SET, name=REBUILD, value=text.encode())

    async def end_rebuild(self) -> bool:
        """Store that no rebuild runs. False if none ran."""
        return bool(await self._engine.fetch(_DELETE, name=REBUILD))

    async def raise_sessions_until(self, key_id: str, until: datetime) -> None:
        """Store that session certificates of this issuing CA may be valid until `until`. An earlier time is ignored."""
        # The text has a fixed length in UTC, so the database compares times when it compares bytes.
        value = f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00}".encode()
        await self._engine.fetch(_RAISE, name=SESSIONS + key_id, value=value)


def sessions_until(rows: dict[str, bytes]) -> dict[str, datetime]:
    """The ends of sessions by the key id of the issuing CA, taken from the result of `read_all`."""
    return {
        name.removeprefix(SESSIONS): datetime.fromisoformat(value.decode())
        for name, value in rows.items()
        if name.startswith(SESSIONS)
    }
