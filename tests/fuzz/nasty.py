"""Requests with nasty values: valid requests in which one text, number or date is replaced. No answer may be a 5xx.

The only accepted status from 500 is the documented 503 with `Retry-After`.
"""

import copy
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from tests.fuzz.api import SECONDS_MAX, Caller, Listener, Report

TEXTS = (
    "\x00",
    "a\x00b",
    "\x1b]0;owned\x07\x1b[2J",
    "\x9b31m",
    "\u202eright to left",
    "line\u2028line\r\n",
    "\ud800",
    "\udc00\ud800",
    "\ufeff",
    "x" * 300,
    "\U0001f600" * 300,
    "x" * 40_000,
    "%00",
    "'; DROP TABLE node; --",
    "",
    " ",
)
DATES = (
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-14:00",
    "1969-12-31T23:59:59Z",
    "8999-12-31T23:59:59Z",
    "2026-11-30T00:00:00",
    "2026-02-30T00:00:00Z",
)
NUMBERS = (-1, 0, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, 1e400)
QUERY = ("\x00", "a\x00", "\x1b[2J", "\u202e", "x" * 5000, "-1", str(2**63), str(10**400), "", "AAAA", "AA==")


def exercise_nasty(
    listeners: Iterable[Listener], report: Report, *, random_seed: int = 0, until: float = math.inf
) -> None:
    """Send every nasty value at every place of every operation, as each caller whom the operation admits.

    The seed decides the order of the operations. After the time `until` of the monotonic clock, the function returns
    before the next operation.
    """
    operations = [
        (listener, method.upper(), path, operation)
        for listener in listeners
        for path, item in listener.document["paths"].items()
        for method, operation in item.items()
    ]
    random.Random(random_seed).shuffle(operations)
    for each in operations:
        if time.monotonic() > until:
            return
        _exercise(*each, report)


def _exercise(listener: Listener, method: str, path: str, operation: dict[str, Any], report: Report) -> None:
    real = listener.real_of(method, path)
    concrete = path
    for name, value in real.path.items():
        concrete = concrete.replace(f"{{{name}}}", quote(value, safe=""))
    for caller in listener.callers:
        if isinstance(real.body, dict):
            for body in _bodies(real.body):
                status = _ask(listener, caller, method, concrete, report, body)
                if status in (401, 403) and caller.name != "stranger":
                    break
        for target in _targets(path, real.path, operation, concrete):
            _ask(listener, caller, method, target, report, None if real.body is None else b"{}")


def _bodies(body: Any) -> Iterator[bytes]:
    """The body with one value replaced, for each place and each nasty value, as JSON."""
    for place, value in _leaves(body, ()):
        nasty: tuple[Any, ...] = NUMBERS
        if isinstance(value, str):
            nasty = (*TEXTS, *DATES)
        elif value is None:
            nasty = (*TEXTS[:3], *DATES, *NUMBERS)
        for each in nasty:
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


def _targets(path: str, real: Any, operation: dict[str, Any], concrete: str) -> Iterator[str]:
    """The path with one parameter of the path or of the query replaced."""
    for parameter in operation.get("parameters", ()):
        for value in QUERY:
            written = quote(value, safe="")
            if parameter["in"] == "query" and parameter["name"] != "wait":
                yield f"{concrete}?{parameter['name']}={written}"
            elif parameter["in"] == "path" and written:
                target = path.replace(f"{{{parameter['name']}}}", written)
                for name, known in real.items():
                    target = target.replace(f"{{{name}}}", quote(known, safe=""))
                yield target


def _ask(listener: Listener, caller: Caller, method: str, target: str, report: Report, body: bytes | None) -> int:
    headers = {**caller.headers, **({} if body is None else {"content-type": "application/json"})}
    answer = caller.session.request(
        method, listener.url + target, data=body, headers=headers, timeout=SECONDS_MAX, allow_redirects=False
    )
    report.answers[f"{listener.name} {caller.name} {answer.status_code}"] += 1
    documented = answer.status_code == 503 and "retry-after" in answer.headers
    if answer.status_code >= 500 and not documented and answer.status_code not in listener.may_fail:
        key = f"{listener.name} {caller.name} {method} {target.partition('?')[0][:120]}: {answer.status_code}"
        report.findings.setdefault(key, f"{key}\n{target[:300]}\n{(body or b'')[:2000]!r}\n{answer.text[:500]}")
    return answer.status_code
