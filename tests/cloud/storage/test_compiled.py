"""`cloud.storage.compiled`: Piccolo queries become SQL of both dialects, and return the same rows on both engines."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from piccolo.columns import BigInt, Boolean, Bytea, Integer, Text, Timestamptz, Varchar
from piccolo.query.functions import Case, Coalesce, Count, Max, When
from piccolo.query.methods.delete import DeletionError
from piccolo.query.methods.update import UpdateError
from piccolo.table import Table

from cloud.storage import (
    UNBOUND,
    Location,
    ServiceEngine,
    Statement,
    compiled,
    excluded,
    exists,
    filtered,
    insert_if,
    insert_into,
    literal,
    missing,
    param,
    params,
    sql,
    value_of,
)
from lab.postgres import cluster
from tests.cloud.engines import ENGINES
from tests.cloud.storage_sample.support import NOW


class Item(Table, db=UNBOUND, tablename="item"):
    """A table with each column type that the services use."""

    id = Varchar(length=8, primary_key=True)
    note = Text()
    small = Integer()
    large = BigInt()
    is_open = Boolean()
    data = Bytea()
    at = Timestamptz(default=None)
    ended_at = Timestamptz(default=None, null=True)


class Tag(Table, db=UNBOUND, tablename="tag"):
    """Rows that refer to items."""

    id = Varchar(length=8, primary_key=True)
    item = Varchar(length=8)


CREATE = (
    Statement(
        "CREATE TABLE item (id VARCHAR(8) PRIMARY KEY, note TEXT NOT NULL, small INTEGER NOT NULL, large BIGINT NOT NULL, "
        "is_open BOOLEAN NOT NULL, data BYTEA NOT NULL, at TIMESTAMPTZ NOT NULL, ended_at TIMESTAMPTZ)"
    ),
    Statement("CREATE TABLE tag (id VARCHAR(8) PRIMARY KEY, item VARCHAR(8) NOT NULL)"),
)
ITEM: dict[str, Any] = {
    "id": "a",
    "note": "it's {x} — ü",
    "small": 7,
    "large": 2**60,
    "is_open": True,
    "data": b"\x00\xff{}",
    "at": NOW,
    "ended_at": None,
}
EVERY = Item(params(Item.id, Item.note, Item.small, Item.large, Item.is_open, Item.data, Item.at, Item.ended_at))
INSERT = compiled(Item.insert(EVERY))
INSERT_TAG = compiled(Tag.insert(Tag(params(Tag.id, Tag.item))))
IDS = compiled(Item.select(Item.id).order_by(Item.id))
ONE = compiled(Item.select().where(Item.id == param("id")))


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty database."""
    return cluster().create() if request.param == "postgresql" else tmp_path / "items.sqlite"


@pytest.fixture
async def engine(database: Location) -> Any:
    """An engine with two tables, and the items a, b and c in one of them."""
    engine = ServiceEngine("items")
    engine.configure(database)
    await engine.open()
    for statement in CREATE:
        await engine.fetch(statement)
    for number, key in enumerate("abc"):
        await engine.fetch(INSERT, **{**ITEM, "id": key, "small": number, "at": NOW + timedelta(hours=number)})
    yield engine
    await engine.close()


def test_one_query_becomes_two_dialects() -> None:
    query = Item.select(Item.id).where(
        Item.small > param("low"), Item.is_open == literal(True), Item.note == "it's {x}"
    )
    statement = compiled(query.order_by(Item.id, ascending=False), limit=param("count"))
    text = (
        'SELECT ALL "item"."id" AS "id" FROM "item" WHERE (("item"."small" > {} AND "item"."is_open" = TRUE) '
        """AND "item"."note" = 'it''s {{x}}') ORDER BY "item"."id" DESC LIMIT {}"""
    )
    assert statement.sqlite == text.format("?", "?")
    assert statement.postgres == text.format("$1", "$2")
    assert statement.arguments({"count": 5, "low": 1}) == (1, 5)
    assert statement.reads


def test_a_parameter_passes_unchanged_through_every_column_type() -> None:
    """A parameter as a value, in a comparison, in a list, and in an insert."""
    columns = Item.id, Item.note, Item.small, Item.large, Item.is_open, Item.data, Item.at, Item.ended_at
    assert INSERT.arguments(ITEM) == tuple(ITEM.values())
    for column in columns:
        query = Item.update({column: param("new")}).where(
            column == param("old"), column.is_in([param("one"), param("two")])
        )
        names = {"new": 1, "old": 2, "one": 3, "two": 4}
        assert compiled(query).arguments(names) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "'x'"),
        ("'; --", "'''; --'"),
        ("{a}", "'{a}'"),
        (-3, "-3"),
        (True, "TRUE"),
        (False, "FALSE"),
        (None, "NULL"),
    ],
)
def test_a_constant_is_a_literal(value: Any, text: str) -> None:
    statement = compiled(Item.update({Item.note: value}).where(Item.id == param("id")))
    assert f'SET "note" = {text} WHERE' in statement.sqlite
    assert statement.arguments({"id": "a"}) == ("a",)


@pytest.mark.parametrize("value", [b"x", NOW, 1.5, "\0", "\\"])
def test_a_constant_without_a_common_literal_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="make it a parameter"):
        compiled(Item.select().where(Item.note == value))


def test_a_change_of_all_rows_is_written_with_force() -> None:
    with pytest.raises(UpdateError):
        compiled(Item.update({Item.note: ""}))
    with pytest.raises(DeletionError):
        compiled(Item.delete())
    assert compiled(Item.delete(force=True)).sqlite == 'DELETE FROM "item"'


@pytest.mark.parametrize("name", ["", "1", "a b", "a}"])
def test_a_parameter_has_the_name_of_a_variable(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        param(name)


async def test_a_row_comes_back_as_it_went(engine: ServiceEngine) -> None:
    await engine.fetch(INSERT, **{**ITEM, "id": "z", "ended_at": NOW})
    assert await engine.fetch(ONE, id="z") == [{**ITEM, "id": "z", "ended_at": NOW}]
    for name, value in {**ITEM, "id": "z"}.items():
        column = Item._meta.get_column_by_name(name)
        found = compiled(Item.select(Item.id).where(column == param("value"), Item.id == "z"))
        assert await engine.fetch(found, value=value) == ([] if value is None else [{"id": "z"}])


async def test_conditions_order_and_limit(engine: ServiceEngine) -> None:
    query = Item.select(Item.id).where((Item.small >= param("low")) | (Item.note == ""), Item.ended_at.is_null())
    found = await engine.fetch(compiled(query.order_by(Item.at, ascending=False), limit=param("count")), low=1, count=1)
    assert found == [{"id": "c"}]
    among = compiled(
        Item.select(Item.id).where(Item.id.is_in([param("one"), "c"]), Item.id.not_in(["b"])).order_by(Item.id)
    )
    assert await engine.fetch(among, one="a") == [{"id": "a"}, {"id": "c"}]


async def test_updates_return_what_they_changed(engine: ServiceEngine) -> None:
    update = Item.update(
        {
            Item.small: Item.small + 1,
            Item.large: param("more") + Item.large,
            Item.is_open: False,
            Item.ended_at: Coalesce(Item.ended_at, param("now")),
            Item.note: Case(When(Item.small >= param("high"), then=literal("high")), default=literal("low")),
        }
    )
    change = compiled(
        update.where(Item.id == param("id"), Item.is_open == literal(True)).returning(Item.small, Item.note)
    )
    assert await engine.fetch(change, id="b", more=-1, now=NOW, high=1) == [{"small": 2, "note": "high"}]
    assert await engine.fetch(change, id="b", more=-1, now=NOW, high=1) == []
    row = await engine.fetch_one(ONE, id="b")
    assert row is not None
    assert (row["large"], row["is_open"], row["ended_at"]) == (2**60 - 1, False, NOW)


async def test_inserts_and_what_they_do_on_a_conflict(engine: ServiceEngine) -> None:
    new = compiled(Item.insert(EVERY).on_conflict(target=Item.id, action="DO NOTHING"))
    assert await engine.fetch(new, **ITEM) == []
    assert await engine.fetch(new, **{**ITEM, "id": "d"}) == [{"id": "d"}]
    higher = compiled(
        Item.insert(EVERY).on_conflict(
            target=Item.id,
            action="DO UPDATE",
            values=[Item.small, (Item.note, "raised")],
            where=Item.small < excluded(Item.small),
        )
    )
    assert await engine.fetch(higher, **{**ITEM, "small": 9}) == [{"id": "a"}]
    assert await engine.fetch(higher, **{**ITEM, "small": 8}) == []
    row = await engine.fetch_one(ONE, id="a")
    assert row is not None
    assert (row["small"], row["note"]) == (9, "raised")


async def test_an_insert_of_every_column(engine: ServiceEngine) -> None:
    """Constants are literals, and an insert returns nothing unless asked to."""
    plain = insert_into(Item, {Item.note: "it's {}", Item.ended_at: None})
    values = {name: value for name, value in ITEM.items() if name not in ("note", "ended_at")}
    assert await engine.fetch(compiled(plain), **{**values, "id": "d"}) == []
    new = compiled(plain.on_conflict(target=Item.id, action="DO NOTHING").returning(Item.id))
    assert await engine.fetch(new, **{**values, "id": "d"}) == []
    assert await engine.fetch(new, **{**values, "id": "e"}) == [{"id": "e"}]
    for key in "de":
        assert await engine.fetch_one(ONE, id=key) == {**ITEM, "id": key, "note": "it's {}"}


async def test_an_insert_with_a_condition(engine: ServiceEngine) -> None:
    """The columns give the row's parameters their types, on PostgreSQL too."""
    unless_open = missing(Item.select(Item.id).where(Item.small == param("small"), Item.is_open == literal(True)))
    insert = insert_if(Item, unless_open, {Item.note: "it's {}"})
    statement = compiled(sql("{} ON CONFLICT (id) DO NOTHING RETURNING id", insert))
    values = {name: value for name, value in ITEM.items() if name != "note"}
    assert await engine.fetch(statement, **{**values, "id": "d"}) == [{"id": "d"}]
    assert await engine.fetch(statement, **{**values, "id": "e"}) == []
    assert await engine.fetch(statement, **{**values, "small": 8}) == []
    assert await engine.fetch_one(ONE, id="d") == {**ITEM, "id": "d", "note": "it's {}"}


async def test_deletes_and_counts(engine: ServiceEngine) -> None:
    delete = compiled(Item.delete().where(Item.at < param("before")).returning(Item.id))
    assert sorted(row["id"] for row in await engine.fetch(delete, before=NOW + timedelta(minutes=90))) == ["a", "b"]
    count = compiled(Item.select(Count(alias="n"), Max(Item.small)).where(Item.is_open == param("is_open")))
    assert await engine.fetch(count, is_open=True) == [{"n": 1, "max": 2}]
    assert await engine.fetch(compiled(Item.count())) == [{"count": 1}]


async def test_subqueries_and_joins(engine: ServiceEngine) -> None:
    await engine.fetch(INSERT_TAG, id="t1", item="a")
    await engine.fetch(INSERT_TAG, id="t2", item="a")
    tags = Tag.select(Tag.id).where(Tag.item == Item.id)
    number = value_of(Tag.select(Count()).where(Tag.item == Item.id)).as_alias("tags")
    tagged = compiled(Item.select(Item.id, number).where(exists(tags), Item.id >= param("id")))
    assert await engine.fetch(tagged, id="a") == [{"id": "a", "tags": 2}]
    bare = compiled(Item.select(Item.id).where(missing(tags) & (Item.id > param("id"))).order_by(Item.id))
    assert await engine.fetch(bare, id="a") == [{"id": "b"}, {"id": "c"}]
    item = Tag.item.join_on(Item.id)
    joined = compiled(Tag.select(Tag.id, item.at.as_alias("at")).where(item.small == 0).order_by(Tag.id))
    assert await engine.fetch(joined) == [{"id": "t1", "at": NOW}, {"id": "t2", "at": NOW}]


async def test_an_optional_filter(engine: ServiceEngine) -> None:
    """An empty value matches every row. The condition can be combined with others."""
    page = compiled(Item.select(Item.id).where(filtered(Item.id), Item.small < 2).order_by(Item.id))
    assert await engine.fetch(page, id="") == [{"id": "a"}, {"id": "b"}]
    assert await engine.fetch(page, id="b") == [{"id": "b"}]
    assert await engine.fetch(page, id="c") == []


async def test_what_piccolo_says_in_parts(engine: ServiceEngine) -> None:
    """A part is a query, a condition, a column or a parameter. One parameter can occur in several parts."""
    few = Item.select(Item.id).where(Item.small >= param("low"))
    counted = compiled(sql("SELECT COUNT(*) AS n FROM ({} LIMIT {}) AS few", few, param("count")))
    assert await engine.fetch(counted, low=0, count=2) == [{"n": 2}]
    either = compiled(sql("{} UNION {} ORDER BY id LIMIT 5", few, Item.select(Item.id).where(Item.id == "a")))
    assert await engine.fetch(either, low=2) == [{"id": "a"}, {"id": "c"}]
    asked = compiled(sql("SELECT 1 AS yes WHERE {}", exists(few) & missing(Tag.select(Tag.id))))
    assert await engine.fetch(asked, low=2) == [{"yes": 1}]
