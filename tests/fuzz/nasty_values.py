"""Pure functions: valid requests of an API document in which one text, number or date is replaced by a nasty value."""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True)
class Values:
    """Nasty values by the kind of the value that they replace."""

    texts: tuple[str, ...]
    dates: tuple[str, ...]
    numbers: tuple[float, ...]
    parameters: tuple[str, ...]
    """Values of parameters in paths and queries, percent-encoded."""


FEW = Values(
    texts=("a\x00b", "\x1b]0;owned\x07\x1b[2J", "\u202eright to left", "\ud800", "x" * 40_000),
    dates=(
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "8999-12-31T23:59:59Z",
    ),
    numbers=(-1, 2**63, 10**400, 1e400),
    parameters=("%00", "%1B%5B2J", "%ED%A0%80", "x" * 5000, str(2**63), str(10**400), "AAAA"),
)
"""One value for each way in which a service or its database could fail."""
MANY = Values(
    texts=(
        *FEW.texts,
        "\x00",
        "\x9b31m",
        "line\u2028line\r\n",
        "\udc00\ud800",
        "\ufeff",
        "x" * 300,
        "\U0001f600" * 300,
        "%00",
        "'; DROP TABLE node; --",
        "",
        " ",
    ),
    dates=(
        *FEW.dates,
        "9999-12-31T23:59:59.999999Z",
        "1969-12-31T23:59:59Z",
        "2026-11-30T00:00:00",
        "2026-02-30T00:00:00Z",
    ),
    numbers=(*FEW.numbers, 0, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**64, -(2**63) - 1, 1.5),
    parameters=(*FEW.parameters, "a%00", "%E2%80%AE", "%C2%9B", "-1", "", "AA==", "%FF%FE", "%zz"),
)
LONG_POLL = "wait"
"""The parameter of a long poll, in seconds. It is 0 in each request, so that no answer takes minutes."""
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T")


def bodies(body: Any, nasty: Values) -> Iterator[bytes]:
    """Return the body with one value replaced, for each place and each nasty value, as JSON."""
    for place, value in _leaves(body, ()):
        replacements: tuple[object, ...] = nasty.numbers
        if isinstance(value, str):
            replacements = nasty.dates if _DATE.match(value) else nasty.texts
        elif value is None:
            replacements = (nasty.texts[0], *nasty.dates, *nasty.numbers)
        for each in replacements:
            yield json.dumps(_with(body, place, each)).encode()


def _leaves(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inside:
            yield from _leaves(each, (*place, key))
    else:
        yield place, value


def _with(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(body)
    holder = made
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return made


def concrete(path: str, values: Mapping[str, str]) -> str:
    """Return the path template with its parameters replaced by values, percent-encoded."""
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    return path


def targets(path: str, values: Mapping[str, str], operation: Mapping[str, Any], nasty: Values) -> Iterator[str]:
    """Return the path with one parameter of the path or of the query replaced, for each parameter and nasty value.

    Each target is percent-encoded. `values` has a valid value for each parameter in the path template.
    """
    parameters = operation.get("parameters", ())
    polls = f"&{LONG_POLL}=0" if any(each["name"] == LONG_POLL for each in parameters) else ""
    for parameter in parameters:
        for each in nasty.parameters:
            if parameter["in"] == "query" and parameter["name"] != LONG_POLL:
                yield f"{concrete(path, values)}?{parameter['name']}={each}{polls}"
            elif parameter["in"] == "path" and each:
                yield concrete(path.replace(f"{{{parameter['name']}}}", each), values)
