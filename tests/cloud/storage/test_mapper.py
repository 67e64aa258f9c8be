"""`cloud.storage.mapper`: structs become rows on both engines, and structs again."""

from datetime import datetime
from pathlib import Path
from typing import Literal, NewType

import msgspec
import pytest
from piccolo.query.functions import Count

from cloud.storage import Location, Mapper, compiled, json_text, param, params, value_of
from lab.postgres import database_location
from tests.cloud.engines import ENGINES
from tests.cloud.storage_sample.support import ENGINE, NOW, SERVICE, on
from tests.cloud.storage_sample.tables import Part, Widget

WidgetId = NewType("WidgetId", str)


class Size(msgspec.Struct, frozen=True):
    width: int


class Label(msgspec.Struct, frozen=True):
    """A widget whose label is JSON text."""

    id: WidgetId
    label: tuple[Size, ...]
    is_open: bool
    blob: bytes
    made_at: datetime | None
    amount_minor: Literal[1, 2] | None = 1


LABELS = Mapper(Label, Widget)
BY_ID = compiled(LABELS.select().where(Widget.id == param("id")))
LABEL = Label(id=WidgetId("w1"), label=(Size(3), Size(4)), is_open=False, blob=b"\x00\xff", made_at=NOW, amount_minor=2)


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A migrated, empty database."""
    return database_location(request.param, SERVICE, tmp_path)


def test_a_struct_comes_back_as_it_went(database: Location) -> None:
    async def test() -> None:
        await ENGINE.fetch(LABELS.insert, **LABELS.values(LABEL))
        assert LABELS.read_one(await ENGINE.fetch_one(BY_ID, id="w1")) == LABEL
        assert LABELS.read_one(await ENGINE.fetch_one(BY_ID, id="w2")) is None

    on(database, test())


class Optional(msgspec.Struct, frozen=True):
    """A widget whose label is a list of byte strings, a struct, or None, as JSON text."""

    id: WidgetId
    label: tuple[bytes, ...] | Size | None
    is_open: bool
    blob: bytes
    made_at: datetime


@pytest.mark.parametrize("label", [None, Size(3), (b"\x00\xff", b"")])
def test_values_of_types_that_no_column_has_come_back(
    database: Location, label: tuple[bytes, ...] | Size | None
) -> None:
    optional = Mapper(Optional, Widget)
    read = compiled(optional.select().where(Widget.id == param("id")))
    value = Optional(WidgetId("w1"), label, True, b"", NOW)
    values = optional.values(value)
    assert values["label"] == json_text(label)

    async def test() -> None:
        await ENGINE.fetch(optional.insert, **values)
        assert optional.read_one(await ENGINE.fetch_one(read, id="w1")) == value

    on(database, test())


def test_values_of_a_statement_are_those_that_it_names() -> None:
    update = compiled(Widget.update(params(Widget.label, Widget.blob)).where(Widget.id == param("id")))
    values = {"id": "w1", "label": '[{"width":3},{"width":4}]', "blob": b"\x00\xff"}
    assert LABELS.values(LABEL, update) == values
    assert update.arguments(values) == tuple(values[name] for name in ("label", "blob", "id"))


def test_insert_new_says_whether_the_row_is_new(database: Location) -> None:
    async def test() -> None:
        assert await ENGINE.fetch(LABELS.insert_new, **LABELS.values(LABEL)) == [{"id": "w1"}]
        other = msgspec.structs.replace(LABEL, label=())
        assert await ENGINE.fetch(LABELS.insert_new, **LABELS.values(other)) == []
        assert LABELS.read_one(await ENGINE.fetch_one(BY_ID, id="w1")) == LABEL

    on(database, test())


def test_a_row_that_the_struct_cannot_hold_is_a_fault() -> None:
    row = {**LABELS.values(LABEL), "amount_minor": 3}
    with pytest.raises(msgspec.ValidationError, match="amount_minor"):
        LABELS.read(row)
    assert LABELS.read(LABELS.values(LABEL)) == LABEL


def test_each_field_is_a_column() -> None:
    with pytest.raises(ValueError, match="the table part has no column label"):
        Mapper(Label, Part)


def test_a_field_may_be_computed(database: Location) -> None:
    class Counted(msgspec.Struct, frozen=True):
        id: str
        widgets: int
        amount_minor: int

    counted = Mapper(Counted, Widget, widgets=value_of(Widget.select(Count())))
    read = compiled(counted.select().where(Widget.id == param("id")))

    async def test() -> None:
        for number in (1, 2):
            label = msgspec.structs.replace(LABEL, id=WidgetId(f"w{number}"), amount_minor=number)
            await ENGINE.fetch(LABELS.insert, **LABELS.values(label))
        assert counted.read_one(await ENGINE.fetch_one(read, id="w1")) == Counted("w1", 2, 1)

    on(database, test())


def test_a_struct_may_leave_out_what_it_does_not_read() -> None:
    class Brief(msgspec.Struct, frozen=True):
        made_at: datetime
        id: str

    brief = Mapper(Brief, Widget)
    assert compiled(brief.select()).sqlite == (
        'SELECT ALL "widget"."made_at" AS "made_at", "widget"."id" AS "id" FROM "widget"'
    )
