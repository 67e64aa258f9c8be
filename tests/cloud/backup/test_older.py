"""A backup of an older schema is restored into that schema, and then migrated."""

from pathlib import Path
from typing import Any

from cloud.backup.contents import Installation, read_installation
from cloud.backup.format import ServicePart
from cloud.backup.reading import verify
from cloud.storage import Location
from cloud.storage.migrate import known_ids
from cloud.storage.whole.loading import begin_loading, load, opened_for_loading, unmark
from cloud.storage.whole.snapshot import snapshot_of
from tests.cloud.backup.support import UNLOCK, Content, back_up, content_of, databases_of, order_of, over, restored

OLDEST: dict[ServicePart, str] = {"fabric": "m0014_denied_machines", "breakwater": "m0002_sessions_by_node"}
"""The last migration of the older version."""

DROPPED = 0
"""The value of columns that a later version has dropped. Both were numbers."""


async def of_the_older_version(installed: Installation, directory: Path) -> dict[ServicePart, Location]:
    """Databases of an older version, with the rows of `installed` as far as that version has their tables and columns."""
    made: dict[ServicePart, Location] = {}
    for service, last in OLDEST.items():
        made[service] = directory / f"{service}.sqlite"
        ids = sorted(name for name in known_ids(service) if name <= last)
        async with (
            opened_for_loading(service, made[service]) as engine,
            snapshot_of(installed.database(service)) as snapshot,
        ):
            shapes = {shape.table: shape for shape in await begin_loading(service, made[service], ids, engine)}
            for shape in await snapshot.shapes():
                if (older := shapes.get(shape.table)) is None:
                    continue
                names = shape.columns
                async for page in snapshot.rows(shape):
                    rows = [dict(zip(names, row, strict=True)) for row in page]
                    await load(engine, older, [tuple(row.get(name, DROPPED) for name in older.columns) for row in rows])
            await unmark(engine)
    return made


def keys_of(content: Content, name: tuple[str, str]) -> set[Any]:
    return {row[0] for row in content[name]}


async def test_an_older_backup_is_migrated(installed: Installation, pin: str, tmp_path: Path) -> None:
    older = over(installed, await of_the_older_version(installed, tmp_path))
    await back_up(older, tmp_path / "b")
    assert verify(tmp_path / "b", UNLOCK, None, None).manifest.migrations["fabric"][-1] == OLDEST["fabric"]
    report = await restored(order_of(tmp_path / "b", tmp_path / "new", pin))
    assert {name.partition(".")[2] for name in report.migrated} == {
        name for service, last in OLDEST.items() for name in known_ids(service) if name > last
    }
    before = await content_of(databases_of(installed))
    after = await content_of(databases_of(read_installation(tmp_path / "new")))
    assert before.keys() == after.keys()
    for name in (("fabric", "tuf_metadata"), ("breakwater", "authority"), ("breakwater", "certificate")):
        assert before[name] == after[name] != []
