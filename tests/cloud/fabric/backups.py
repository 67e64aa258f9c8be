"""Helper: rows of a database as they were at a time, put back later, as a restore from a backup does."""

from dataclasses import dataclass

from cloud.storage import Row, ServiceEngine, Statement
from tests.cloud.fabric.support import World

FABRIC_TABLES = ("node", "generation", "activation", "renewal", "code", "recovery_case", "audit")
EVENT_TABLES = ("event_outbox", "event_object")
"""Their rows go with the objects. Tenants are not put back, and neither are their events."""
OF_OBJECTS = dict.fromkeys(EVENT_TABLES, "WHERE subject NOT LIKE 'tenant/%'")
BREAKWATER_TABLES = ("generation", "closing", "certificate")
EPOCH = Statement("UPDATE installation SET value = {value} WHERE name = 'epoch'")
RESTORED = Statement("INSERT INTO counter (name, value) VALUES ('restored', {value})")


@dataclass
class Backup:
    """The rows of some tables."""

    rows: dict[str, list[Row]]

    async def put_back(self, engine: ServiceEngine) -> None:
        """Replace the present rows by those of the backup."""
        for table, rows in self.rows.items():
            # Names of tables and columns, not values from outside.
            await engine.fetch(Statement(f"DELETE FROM {table} {OF_OBJECTS.get(table, '')}"))  # noqa: S608 (as above)
            for row in rows:
                names = ", ".join(row)
                text = f"INSERT INTO {table} ({names}) VALUES ({', '.join(f'{{{name}}}' for name in row)})"  # noqa: S608 (as above)
                await engine.fetch(Statement(text), **row)


async def backup_of(engine: ServiceEngine, tables: tuple[str, ...]) -> Backup:
    """The present rows of the tables."""
    texts = {table: f"SELECT * FROM {table} {OF_OBJECTS.get(table, '')}" for table in tables}  # noqa: S608 (as above)
    return Backup({table: await engine.fetch(Statement(text)) for table, text in texts.items()})


async def fabric_backup(world: World) -> Backup:
    """The present rows of Fabric."""
    return await backup_of(world.stores.engine, (*FABRIC_TABLES, *EVENT_TABLES))


async def breakwater_backup(world: World) -> Backup:
    """The present rows of Breakwater."""
    return await backup_of(world.breakwater.stores.engine, BREAKWATER_TABLES)


async def restore_fabric(world: World, backup: Backup, epoch: int = 2) -> None:
    """Put Fabric's rows back, and begin the epoch. The world must be opened again."""
    await backup.put_back(world.stores.engine)
    await world.stores.engine.fetch(EPOCH, value=str(epoch).encode())


async def restore_breakwater(world: World, backup: Backup, at: int = 1_796_000_000_000) -> None:
    """Put Breakwater's rows back. `at` is the time of the restore in milliseconds."""
    await backup.put_back(world.breakwater.stores.engine)
    await world.breakwater.stores.engine.fetch(RESTORED, value=at)
