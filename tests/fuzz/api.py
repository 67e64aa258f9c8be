"""Requests from API documents: Schemathesis generates them and sends them to real listeners as each kind of caller.

The document must describe every answer: status, media type, headers and body, including the problem code. An answer of
5xx is a finding as well. The requests are valid or invalid. Some have ids of existing objects, some a complete valid
body, so that the services accept some of them.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from protocol.limits import EVENT_WAIT_SECONDS_MAX
from protocol.problems import CONTENT_TYPE

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SECONDS_MAX = 60
"""The time limit for an answer, in seconds."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
FINDINGS_MAX = 50
BINARY = ("application/pkcs10", "application/ocsp-request")


@schemathesis.serializer(*BINARY)
def _as_bytes(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Real:
    """Existing values for one operation: ids for the parameters in its path, and a valid body or None."""

    path: Mapping[str, str] = field(default_factory=dict)
    body: object = None


RealOf = Callable[[str, str], Real]
"""A function from method and path template to existing values."""


def nothing_real(_method: str, _path: str) -> Real:
    """No values, for a listener whose paths have no parameters."""
    return Real()


@dataclass(frozen=True)
class Caller:
    """A kind of caller: the session has its certificate, `headers` its token."""

    name: str
    session: requests.Session
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listener:
    """A listener, its document, and the callers that send requests to it."""

    name: str
    url: str
    document: dict[str, Any]
    callers: tuple[Caller, ...]
    real_of: RealOf = nothing_real
    may_fail: frozenset[int] = frozenset()
    """The accepted statuses from 500. The simulated parts behind the listener fail on purpose."""


@dataclass
class Report:
    """The numbers of answers, and the findings."""

    answers: Counter[str] = field(default_factory=Counter)
    """The number of answers by listener, caller and status."""
    codes: set[str] = field(default_factory=set)
    """The problem codes in answers."""
    findings: dict[str, str] = field(default_factory=dict)
    impossible: set[str] = field(default_factory=set)
    """The operations and modes (valid, invalid) for which Schemathesis can generate no request."""

    @property
    def requests(self) -> int:
        """The number of answered requests."""
        return self.answers.total()


def exercise(
    listeners: Iterable[Listener],
    report: Report,
    *,
    examples: int,
    random_seed: int | None = None,
    until: float = math.inf,
) -> None:
    """Send `examples` valid and as many invalid requests to every operation of the listeners, as each caller.

    Without a seed the requests are the same in every run. After the time `until` of the monotonic clock, the function
    returns before the next operation.
    """
    for listener in listeners:
        schema = schemathesis.openapi.from_dict(listener.document)
        for result in schema.get_all_operations():
            if time.monotonic() > until:
                return
            assert isinstance(result, Ok), result
            operation = result.ok()
            described = listener.document["paths"][operation.path][operation.method.lower()]
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 2 if can_be_invalid(described) else 1]:
                _exercise(listener, operation, mode, report, examples, random_seed)


def can_be_invalid(operation: Mapping[str, Any]) -> bool:
    """Whether an invalid request exists. It needs a body, or a parameter that is not free text."""
    schemas = [parameter["schema"] for parameter in operation.get("parameters", ())]
    return "requestBody" in operation or any(set(schema) - {"default"} != {"type"} for schema in schemas)


def _exercise(
    listener: Listener,
    operation: Any,
    mode: GenerationMode,
    report: Report,
    examples: int,
    random_seed: int | None,
) -> None:
    real = listener.real_of(operation.method.upper(), operation.path)

    @settings(
        max_examples=examples,
        derandomize=random_seed is None,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        # The first request of a run is the simplest one, with existing ids and a valid body.
        with_ids=st.sampled_from((True, False)),
        with_body=st.sampled_from((True, False)),
    )
    def ask(case: Any, *, with_ids: bool, with_body: bool) -> None:
        if with_ids and real.path:
            case.path_parameters = {**case.path_parameters, **real.path}
        if with_body and real.body is not None and mode is GenerationMode.POSITIVE:
            case.body = real.body
        _shorten_wait(case)
        for caller in listener.callers:
            _send(listener, caller, case, report)

    try:
        (ask if random_seed is None else seed(random_seed)(ask))()
    except Unsatisfiable:
        # For example, free text in a path has no invalid value.
        report.impossible.add(f"{listener.name} {operation.method.upper()} {operation.path} {mode.name.lower()}")


def _send(listener: Listener, caller: Caller, case: Any, report: Report) -> None:
    """Send one request as one caller, and compare the answer with the document."""
    answer = case.call(
        base_url=listener.url,
        session=caller.session,
        headers=dict(caller.headers),
        timeout=SECONDS_MAX,
        allow_redirects=False,
        verify=caller.session.verify,
        cert=caller.session.cert,
    )
    report.answers[f"{listener.name} {caller.name} {answer.status_code}"] += 1
    if answer.headers.get("content-type") == [CONTENT_TYPE] and answer.content:
        report.codes.add(answer.json()["code"])
    try:
        checks = CHECKS if answer.status_code in listener.may_fail else [not_a_server_error, *CHECKS]
        case.validate_response(answer, checks=checks)
    except (Failure, FailureGroup) as failure:
        _note(report, f"{listener.name} {caller.name} {case.method} {case.operation.path}", failure)


def _shorten_wait(case: Any) -> None:
    """Make long polls return at once, because they would take minutes. A `wait` out of bounds stays."""
    wait = str((case.query or {}).get("wait"))
    if wait.isdecimal() and len(wait) <= 3 and int(wait) <= EVENT_WAIT_SECONDS_MAX:
        case.query = {**case.query, "wait": 0}


def _note(report: Report, place: str, failure: BaseException) -> None:
    each = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
    for one in each:
        key = f"{place}: {getattr(one, 'title', type(one).__name__)}"
        if key not in report.findings and len(report.findings) < FINDINGS_MAX:
            notes = "\n".join(getattr(failure, "__notes__", ()))
            report.findings[key] = f"{key}\n{one}\n{failure}\n{notes}"


def refuse_other_methods(listeners: Iterable[Listener], report: Report) -> None:
    """Send every undocumented method to each path. The answer must be 405 with the documented methods in `Allow`."""
    for listener in listeners:
        for path, item in listener.document["paths"].items():
            documented = {method.upper() for method in item}
            concrete = path
            for name, value in listener.real_of(min(documented), path).path.items():
                concrete = concrete.replace(f"{{{name}}}", value)
            for method in sorted(set(METHODS) - documented):
                answer = listener.callers[0].session.request(method, listener.url + concrete, timeout=SECONDS_MAX)
                report.answers[f"{listener.name} method {answer.status_code}"] += 1
                allowed = {each.strip() for each in answer.headers.get("allow", "").split(",")}
                if answer.status_code != 405 or not documented <= allowed:
                    key = f"{listener.name} {method} {path}: {answer.status_code}, Allow: {sorted(allowed)}"
                    report.findings.setdefault(key, key)
