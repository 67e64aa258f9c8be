"""Queries on what is true of the whole installation: epoch and server secrets."""

from cloud.fabric.tables import ENGINE
from cloud.storage import Statement

_ALL = Statement("SELECT name, value FROM installation ORDER BY name LIMIT 100")
_INSERT = Statement("INSERT INTO installation (name, value) VALUES ({}, {})")


async def read_all() -> dict[str, bytes]:
    return {str(row["name"]): bytes(row["value"]) for row in await ENGINE.fetch(_ALL)}


async def insert(name: str, value: bytes) -> None:
    await ENGINE.fetch(_INSERT, name, value)
