"""`cloud.storage.schema`: each step on both engines, and migrations that make the same tables as `tables.py`."""

import asyncio
import importlib
import re
from pathlib import Path

import pytest
from piccolo.columns import BigInt, Column, Integer, Text, Varchar
from piccolo.table import create_table_class

from cloud.events import tables as events
from cloud.storage import UNBOUND, Location, ServiceEngine, Statement, StorageError
from cloud.storage.schema import add_column, add_index, add_table
from lab.postgres import cluster, database_location
from tests.cloud.engines import ENGINES
from tests.cloud.storage.picture import differences, picture, tables_of
from tests.cloud.storage_sample.support import SERVICE


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(kind: str, tmp_path: Path) -> Location:
    """A database without tables. On SQLite there is no file."""
    return cluster().create() if kind == "postgresql" else tmp_path / "empty.sqlite"


@pytest.mark.parametrize("package", ["cloud.breakwater", "cloud.fabric", SERVICE])
async def test_migrations_make_what_tables_say(package: str, kind: str, empty: Location, tmp_path: Path) -> None:
    """A change of tables.py needs a migration in the same commit."""
    modules = [importlib.import_module(f"{package}.tables"), *([events] if package != SERVICE else [])]
    tables = [table for module in modules for table in tables_of(module)]
    indexes = [index for module in modules for index in getattr(module, "INDEXES", ())]
    migrated = await asyncio.to_thread(database_location, kind, package.removeprefix("cloud."), tmp_path)
    assert await differences(tables, empty, migrated, indexes) == []


_SAME = {
    "CHARACTER VARYING": "VARCHAR",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
    "BIGINT": "INTEGER",
    "BYTEA": "BLOB",
    "DEFAULT current_timestamp": "DEFAULT CURRENT_TIMESTAMP",
    "DEFAULT null": "DEFAULT NULL",
    "DEFAULT None": "DEFAULT NULL",
    "'-1'": "-1",
    "'\\x'": "''",
}
NUMBERED = {"event_outbox: UNIQUE INDEX (number)"}
"""Tables that number their rows. On SQLite the number is the row's own key, which has no index."""


def _common(line: str) -> str:
    """A line of a description in the words of both engines.

    PostgreSQL has long names of types and two sizes of integers, and casts defaults.
    """
    line = re.sub(r"DEFAULT nextval\(.*\)", "DEFAULT None", line)  # SQLite numbers rows without a default
    line = re.sub(r"::[a-z ]+", "", line)
    for name, same in _SAME.items():
        line = line.replace(name, same)
    return line


@pytest.mark.slow
@pytest.mark.parametrize("package", ["cloud.breakwater", "cloud.fabric", SERVICE])
async def test_the_schema_of_a_service_is_the_same_on_both_engines(package: str, tmp_path: Path) -> None:
    cluster()  # started by this thread, and ends with it
    pictures = []
    for kind in ("sqlite", "postgresql"):
        engine = ServiceEngine(kind)
        location = await asyncio.to_thread(database_location, kind, package.removeprefix("cloud."), tmp_path)
        engine.configure(location)
        await engine.open()
        try:
            pictures.append({_common(line) for line in await picture(engine)})
        finally:
            await engine.close()
    assert pictures[0] == pictures[1] - NUMBERED
    assert len(pictures[0]) > 5


async def test_each_difference_is_named(kind: str, empty: Location, tmp_path: Path) -> None:
    columns: dict[str, Column] = {
        "id": Varchar(length=64, primary_key=True),
        "widget": Varchar(length=32, index=True),
        "number": Integer(null=True, default=5, unique=True),
    }
    part = create_table_class("Part", class_kwargs={"tablename": "part", "db": UNBOUND}, class_members=columns)
    widget = tables_of(importlib.import_module(f"{SERVICE}.tables"))[0]
    migrated = await asyncio.to_thread(database_location, kind, SERVICE, tmp_path)
    found = await differences([widget, part], empty, migrated)
    text, default = ("VARCHAR", "''") if kind == "sqlite" else ("CHARACTER VARYING", "''::character varying")
    assert found == [
        "only in tables.py: part.number: INTEGER, NULL, DEFAULT 5",
        f"only in tables.py: part.widget: {text}(32), NOT NULL, DEFAULT {default}",
        "only in tables.py: part: INDEX (widget)",
        "only in tables.py: part: UNIQUE INDEX (number)",
        f"only in the migrations: part.widget: {text}(64), NOT NULL, DEFAULT {default}",
    ]


async def test_steps_change_a_table_with_rows(empty: Location) -> None:
    engine = ServiceEngine("steps")
    engine.configure(empty)
    await engine.open()
    try:
        await add_table("item", id=Varchar(length=8, primary_key=True), old=Text(index=True))(engine)
        await engine.fetch(Statement("INSERT INTO item (id, old) VALUES ({id}, {old})"), id="a", old="x")
        async with engine.transaction():
            await add_column("item", size=BigInt(default=3, index=True), note=Text(null=True, default=None))(engine)
            await add_index("item", "note", "size")(engine)
        assert await engine.fetch(Statement("SELECT * FROM item")) == [{"id": "a", "old": "x", "size": 3, "note": None}]
        lines = await picture(engine)
        assert {line for line in lines if "INDEX" in line} == {
            "item: UNIQUE INDEX (id)",
            "item: INDEX (old)",
            "item: INDEX (size)",
            "item: INDEX (note, size)",
        }
        assert any(
            line.startswith("item.size: BIGINT" if engine.engine_type == "postgres" else "item.size: INTEGER")
            for line in lines
        )
        with pytest.raises(StorageError):
            await add_column("nothing", size=BigInt())(engine)
    finally:
        await engine.close()


async def test_a_step_leaves_its_columns_as_they_are(empty: Location, tmp_path: Path) -> None:
    """A migration runs on any number of databases of one process."""
    step = add_table("item", id=Varchar(length=8, primary_key=True), note=Text(index=True))
    pictures = []
    for location in empty, tmp_path / "another.sqlite", tmp_path / "third.sqlite":
        engine = ServiceEngine("steps")
        engine.configure(location)
        await engine.open()
        await step(engine)
        pictures.append(await picture(engine))
        await engine.close()
    assert pictures[1] == pictures[2]
    assert len(pictures[0]) == len(pictures[1]) == 4


def test_a_table_has_a_key() -> None:
    with pytest.raises(ValueError, match="no primary key"):
        add_table("item", note=Text())
