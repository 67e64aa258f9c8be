"""Pure functions: check that every text, number and date of a request's body is within the bounds of its field.

A checker is made from the type of the body, once. The bounds are those of the API document (`protocol.bounds.limits`),
and these apply to every field:

- A text is printable: it has no control character, line break, mark of the writing direction or lone surrogate. So
  every database stores it, and every terminal shows it. A field with `LINES` may have line breaks and tabs.
- A text has a largest number of characters. UTF-8 has at most four bytes a character.
- A date has a time zone and is from 1970 to 8999, so that times can be converted and any life can be added.
- An integer has a smallest and a largest value, which its column can store.

A field without bounds is an error of the program: `checker` refuses its type, so no application with it is made.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import inspect as types

from protocol.limits import REQUEST_BODY_BYTES_MAX
from protocol.openapi import id_pattern, id_prefix_of

TIME_MIN = datetime(1970, 1, 1, tzinfo=UTC)
TIME_MAX = datetime(9000, 1, 1, tzinfo=UTC)
"""Far enough from the ends of the calendar (years 1 and 9999): times can be converted and added to."""
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"
"""Pattern of a text in a query: no control characters, and no marks of lines or of the writing direction."""
LINES = "lines"
"""Keyword of `msgspec.Meta(extra={LINES: True})`: the text may have line breaks and tabs."""

Check = Callable[[Any, str], None]
"""Checks a value. The second argument is the name of its field, for the message. Raises OutOfBounds."""


class OutOfBounds(ValueError):
    """A value is outside the bounds of its field. The text names the field and the bounds, and never the value."""


class Unbounded(TypeError):
    """A field has no bounds. The program is wrong."""


def checker(kind: Any) -> Check:
    """Return the check of a type. Raises Unbounded if a field of it has no bounds."""
    return _struct_check(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else _check(kind, "body")


def check_time(value: datetime, name: str) -> None:
    """Check that a time has a zone and is from 1970 to 8999. Raises OutOfBounds."""
    if value.tzinfo is None or not TIME_MIN <= value < TIME_MAX:
        raise OutOfBounds(f"{name}: must be a time with its zone, from 1970 to 8999")


@cache
def _struct_check(kind: type[msgspec.Struct]) -> Check:
    hints = get_type_hints(kind, include_extras=True)
    checks = [(name, _check(hints[name], f"{kind.__name__}.{name}")) for name in kind.__struct_fields__]

    def check(value: Any, _name: str) -> None:
        for name, each in checks:
            found = getattr(value, name)
            if found is not msgspec.UNSET:
                each(found, name)

    return check


def _check(hint: Any, place: str) -> Check:
    """Return the check of a type hint. `place` names the field in the error Unbounded."""
    prefix = id_prefix_of(hint)
    if prefix:
        return _id_check(id_pattern(prefix), type(None) in get_args(hint))
    return _typed_check(types.type_info(hint), {}, False, place)


def _typed_check(info: types.Type, bounds: dict[str, Any], lines: bool, place: str) -> Check:
    match info:
        case types.Metadata():
            extra = info.extra or {}
            return _typed_check(
                info.type, {**(info.extra_json_schema or {}), **bounds}, lines or bool(extra.get(LINES)), place
            )
        case types.StrType():
            return _text_check(info, bounds, lines, place)
        case types.IntType():
            return _integer_check(info, bounds, place)
        case types.DateTimeType():
            return check_time
        case types.StructType():
            return _struct_check(info.cls)
        case types.UnionType():
            return _union_check(info, bounds, lines, place)
        case types.VarTupleType():
            return _items_check(_typed_check(info.item_type, {}, lines, place), bounds.get("maxItems"))
        case types.DictType():
            return _mapping_check(info, bounds, place)
        case types.BytesType() | types.BoolType() | types.LiteralType() | types.NoneType():
            return _accept  # the size of the body bounds bytes; the decoder checks the other types
        case _:
            raise Unbounded(f"{place}: no bounds are known for {type(info).__name__}")


def _accept(_value: Any, _name: str) -> None:
    """Accept a value that needs no check."""


def _id_check(pattern: str, may_be_none: bool) -> Check:
    matches = re.compile(pattern).fullmatch

    def check(value: Any, name: str) -> None:
        if value is None and may_be_none:
            return
        if not matches(value):
            raise OutOfBounds(f"{name}: is not an id of this kind")

    return check


def _text_check(info: types.StrType, bounds: dict[str, Any], lines: bool, place: str) -> Check:
    least = info.min_length or bounds.get("minLength", 0)
    most = info.max_length or bounds.get("maxLength")
    pattern = info.pattern or bounds.get("pattern")
    if most is None and pattern is None:
        raise Unbounded(f"{place}: a text needs limits(maxLength=...) or a pattern")
    most = most or REQUEST_BODY_BYTES_MAX
    matches = re.compile(pattern).fullmatch if pattern else None

    def check(value: Any, name: str) -> None:
        plain = re.sub(r"[\r\n\t]", "", value) if lines else value
        if not least <= len(value) <= most or not plain.isprintable() or (least == 1 and not value.strip()):
            raise OutOfBounds(f"{name}: {f'{least} to' if least else 'up to'} {most} printable characters")
        if matches is not None and not matches(value):
            raise OutOfBounds(f"{name}: must match {pattern}")

    return check


def _integer_check(info: types.IntType, bounds: dict[str, Any], place: str) -> Check:
    least = bounds.get("minimum") if info.ge is None else info.ge
    most = bounds.get("maximum") if info.le is None else info.le
    if least is None or most is None:
        raise Unbounded(f"{place}: an integer needs limits(minimum=..., maximum=...)")

    def check(value: Any, name: str) -> None:
        if not least <= value <= most:
            raise OutOfBounds(f"{name}: {least} to {most}")

    return check


def _union_check(info: types.UnionType, bounds: dict[str, Any], lines: bool, place: str) -> Check:
    """Return the check of `X | None`. Raises Unbounded for other unions."""
    others = [each for each in info.types if not isinstance(each, types.NoneType)]
    if len(others) != 1:
        raise Unbounded(f"{place}: no bounds are known for a union of several types")
    inner = _typed_check(others[0], bounds, lines, place)

    def check(value: Any, name: str) -> None:
        if value is not None:
            inner(value, name)

    return check


def _items_check(inner: Check, most: int | None) -> Check:
    def check(value: Any, name: str) -> None:
        if most is not None and len(value) > most:
            raise OutOfBounds(f"{name}: at most {most}")
        for each in value:
            inner(each, name)

    return check


def _mapping_check(info: types.DictType, bounds: dict[str, Any], place: str) -> Check:
    keys, values = (_typed_check(each, {}, False, place) for each in (info.key_type, info.value_type))
    most = bounds.get("maxProperties")
    if most is None:
        raise Unbounded(f"{place}: a mapping needs limits(maxProperties=...)")

    def check(value: Any, name: str) -> None:
        if len(value) > most:
            raise OutOfBounds(f"{name}: at most {most}")
        for key, each in value.items():
            keys(key, name)
            values(each, name)

    return check
