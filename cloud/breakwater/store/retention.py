"""Store: deletes records long after their certificates ended: sessions, responders and replaced device certificates.

A node has at least two sessions a day, so records of sessions outnumber all others. No CRL and no OCSP answer contains
a session or a responder. A hostile node can renew its device certificate 2,400 times a day. Rules: A revoked record
stays, because it blocks a new certificate for its key. A generation's newest device certificate stays, because it says
to which generation the key belongs.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from cloud.breakwater.store.generations import DEVICE_OF_GENERATION
from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.storage import Mapper, ServiceEngine, compiled, param

ROWS_LOOKED_AT = 500
"""Records in one step. With SQLite a step blocks the event loop for a few milliseconds."""


class Step(msgspec.Struct, frozen=True):
    """The result of one step: the cursor of the next step (empty at the end), and the number of deleted records."""

    cursor: str
    deleted: int


class _Device(msgspec.Struct, frozen=True):
    """A device certificate that ended: its generation and key."""

    serial: str
    node: str
    generation: int
    spki_sha256: str
    recorded_at: datetime


_DEVICE = Mapper(_Device, Certificate)

# Pages are in order of the key. A search by date would read the whole table when there is nothing to delete.
_PAGE = compiled(
    Certificate.select(
        Certificate.serial,
        Certificate.profile,
        Certificate.state,
        Certificate.node,
        Certificate.generation,
        Certificate.spki_sha256,
        Certificate.recorded_at,
        Certificate.not_after,
    )
    .where(Certificate.serial > param("after"))
    .order_by(Certificate.serial),
    limit=param("limit"),
)
# The states are named by what they are not: SQLite would search by the index of the state, and read millions of records.
_DELETE = compiled(
    Certificate.delete()
    .where(
        Certificate.serial > param("after"),
        Certificate.serial <= param("last"),
        Certificate.profile.is_in(["session", "responder"]),
        Certificate.state.not_in(["recorded", "revoked"]),
        Certificate.not_after < param("before"),
    )
    .returning(Certificate.serial)
)
_NEWEST = compiled(
    _DEVICE.select()
    .where(DEVICE_OF_GENERATION, Certificate.state == "issued")
    .order_by(Certificate.recorded_at, ascending=False)
    .limit(1)
)
_DELETE_DEVICE = compiled(
    Certificate.delete()
    .where(Certificate.serial == param("serial"), Certificate.state == "issued")
    .returning(Certificate.serial)
)


class RetentionStore:
    """The queries that delete old records."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def step(self, cursor: str, before: datetime) -> Step:
        """Read the next records after `cursor`. Delete those that ended before `before` and have no further use."""
        page = await self._engine.fetch(_PAGE, after=cursor, limit=ROWS_LOOKED_AT)
        if not page:
            return Step("", 0)
        last = str(page[-1]["serial"])
        ended = [row for row in page if row["not_after"] < before]
        deleted = 0
        if any(row["profile"] in ("session", "responder") for row in ended):
            deleted += len(await self._engine.fetch(_DELETE, after=cursor, last=last, before=before))
        devices = [_DEVICE.read(row) for row in ended if (row["profile"], row["state"]) == ("device", "issued")]
        if devices:
            deleted += await self._delete_replaced(devices)
        return Step(last if len(page) == ROWS_LOOKED_AT else "", deleted)

    async def _delete_replaced(self, devices: Sequence[_Device]) -> int:
        """Delete the device certificates that a newer one of the same generation and key has replaced."""
        newest: dict[tuple[str, int], _Device | None] = {}
        for device in devices:
            generation = device.node, device.generation
            if generation not in newest:
                row = await self._engine.fetch_one(_NEWEST, node=device.node, generation=device.generation)
                newest[generation] = _DEVICE.read_one(row)
        replaced = [each.serial for each in devices if _replaces(newest[each.node, each.generation], each)]
        deleted = 0
        if replaced:
            async with self._engine.transaction("retention"):
                for serial in replaced:
                    deleted += len(await self._engine.fetch(_DELETE_DEVICE, serial=serial))
        return deleted


def _replaces(newest: _Device | None, device: _Device) -> bool:
    return newest is not None and newest.spki_sha256 == device.spki_sha256 and newest.recorded_at > device.recorded_at
