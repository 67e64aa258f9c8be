"""Requests with nasty values: valid requests in which one text, number or date is replaced. No answer may be a 5xx.

The only accepted status from 500 is the documented 503 with `Retry-After`.
"""

import math
import random
import time
from collections.abc import Iterable
from typing import Any

from tests.fuzz.api import SECONDS_MAX, Caller, Listener, Report
from tests.fuzz.nasty_values import MANY, bodies, concrete, targets


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
    usual = concrete(path, real.path)
    for caller in listener.callers:
        if isinstance(real.body, dict):
            for body in bodies(real.body, MANY):
                status = _ask(listener, caller, method, usual, report, body)
                if status in (401, 403) and caller.name != "stranger":
                    break
        for target in targets(path, real.path, operation, MANY):
            _ask(listener, caller, method, target, report, None if real.body is None else b"{}")


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
