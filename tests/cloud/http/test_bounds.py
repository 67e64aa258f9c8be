"""Every text, number and date of every body has bounds at the edge, and a type without bounds makes no application."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import msgspec
import pytest
from litestar import get, post
from litestar.params import FromQuery, JSONBody

from cloud.http.admission import PROBES
from cloud.http.app import make_app
from cloud.http.bounds import OutOfBounds, Unbounded, checker
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import operation_options
from protocol.bounds import limits
from protocol.ids import NodeId
from tests.cloud.http.test_app import guard

NODE = "node_01jd8xk3v5e2r9qz7w4m6n8p0a"
AT = datetime(2026, 11, 22, tzinfo=UTC)


class Inner(msgspec.Struct, frozen=True):
    number: Annotated[int, limits(minimum=-1, maximum=2**31 - 1)] = 0


class Body(msgspec.Struct, frozen=True):
    name: Annotated[str, limits(minLength=1, maxLength=4)] = "name"
    pem: Annotated[str, limits(maxLength=20), msgspec.Meta(extra={"lines": True})] = "-\r\n\t-"
    node: NodeId | None = None
    at: datetime | None = AT
    hex: Annotated[str, limits(pattern="^[0-9a-f]{4}$")] = "00ff"
    inner: Inner = Inner()
    many: Annotated[tuple[Annotated[str, limits(maxLength=2)], ...], limits(maxItems=2)] = ()
    named: Annotated[dict[Annotated[str, limits(maxLength=2)], Inner], limits(maxProperties=1)] = {}
    unset: Annotated[int | msgspec.UnsetType, limits(minimum=0, maximum=1)] = msgspec.UNSET
    data: bytes = b""


CHECK = checker(Body)

NOT_PRINTABLE = ("\x00", "\x1b[m", "\x7f", "\x9b", "\u202e", "\u2028", "\ud800", "\ufeff", "\n")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(({"name": text}, "name") for text in (*NOT_PRINTABLE, "", " ", "12345")),
        *(({"pem": text}, "pem") for text in ("\x00", "\x1b", "x" * 21)),
        *(({"node": text}, "node") for text in ("", "node_1", NODE.upper(), f"{NODE}\n")),
        ({"at": AT.replace(tzinfo=None)}, "at"),
        ({"at": datetime.min.replace(tzinfo=UTC)}, "at"),
        ({"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))}, "at"),
        ({"at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))}, "at"),
        ({"at": datetime(9000, 1, 1, tzinfo=UTC)}, "at"),
        ({"hex": "00FF"}, "hex"),
        ({"inner": Inner(-2)}, "number"),
        ({"inner": Inner(2**31)}, "number"),
        ({"inner": Inner(2**200)}, "number"),
        ({"many": ("a", "b", "c")}, "many"),
        ({"many": ("\x00",)}, "many"),
        ({"named": {"\x00": Inner()}}, "named"),
        ({"named": {"a": Inner(-2)}}, "number|named"),
        ({"named": {"a": Inner(), "b": Inner()}}, "named"),
        ({"unset": 2}, "unset"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_by_the_name_of_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(OutOfBounds, match=f"^({field}): ") as caught:
        CHECK(msgspec.structs.replace(Body(), **change), "body")
    assert str(caught.value).isprintable()


def test_values_within_their_bounds_pass() -> None:
    CHECK(Body(), "body")
    CHECK(Body("müll", node=NodeId(NODE), at=None, many=("a", "ü"), named={"a": Inner(5)}, unset=1), "body")


class FreeText(msgspec.Struct, frozen=True):
    text: str


class FreeNumber(msgspec.Struct, frozen=True):
    number: int | None = None


class FreeFloat(msgspec.Struct, frozen=True):
    number: float = 0.0


class FreeNames(msgspec.Struct, frozen=True):
    names: dict[str, Annotated[str, limits(maxLength=3)]]


class Nested(msgspec.Struct, frozen=True):
    inner: tuple[FreeText, ...] = ()


@pytest.mark.parametrize("kind", [FreeText, FreeNumber, FreeFloat, FreeNames, Nested], ids=lambda kind: kind.__name__)
def test_a_type_without_bounds_makes_no_application(kind: type[msgspec.Struct]) -> None:
    @post("/new", opt=operation_options(ANONYMOUS, bucket=PROBES))
    async def new_route(data: JSONBody[kind]) -> None:  # type: ignore[valid-type]  # the parameter of this test
        """A route that somebody adds."""

    with pytest.raises(Unbounded, match=r"\w+\.\w+: "):
        make_app([new_route], guard())


def test_a_parameter_without_bounds_makes_no_application() -> None:
    @get("/new", opt=operation_options(ANONYMOUS, bucket=PROBES))
    async def new_route(filter_text: FromQuery[str] = "") -> None:
        """A route that somebody adds."""

    with pytest.raises(Unbounded, match="filter_text"):
        make_app([new_route], guard())
