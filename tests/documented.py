"""Check that an API document describes an answer. The tests' clients call it for every refusal.

So the document of an operation must have each problem code that any test receives, including rare ones.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from cloud.breakwater.routes.documents import documents as breakwater_documents
from cloud.fabric.routes.documents import documents as fabric_documents
from protocol.problems import CONTENT_TYPE, ProblemDocument


class Undocumented(AssertionError):
    """The listener's document does not describe the answer."""


def check_documented(
    document: str, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Check one answer. `headers` have names in lower case. Raises Undocumented.

    An answer that ends the connection is not checked, because the listener refused the head of the request.
    """
    if status >= 400 and headers.get("content-type") == CONTENT_TYPE and body and headers.get("connection") != "close":
        check_problem(document, method, path, msgspec.json.decode(body, type=ProblemDocument))


def check_problem(document: str, method: str, path: str, problem: ProblemDocument) -> None:
    """Check one refusal. A path or method outside of the document is not checked. Raises Undocumented."""
    codes = _codes_of(document, method, path.partition("?")[0])
    if codes is None or problem.code in codes.get(str(problem.status), frozenset()):
        return
    raise Undocumented(f"{document} {method} {path}: {problem.status} {problem.code} is not in the document: {codes}")


def codes_below(document: str, *prefixes: str, operators: bool = True) -> frozenset[str]:
    """All problem codes of the operations whose path begins with one of the prefixes.

    `operators`: also of operations that operators alone call.
    """
    paths: dict[str, Any] = described(document)["paths"]
    found: set[str] = set()
    for path, operations in paths.items():
        if path.startswith(prefixes):
            for method, operation in operations.items():
                if not operators and {"operator": []} in operation["security"]:
                    continue
                for codes in (_codes_of(document, method.upper(), path) or {}).values():
                    found |= codes
    return frozenset(found)


@cache
def described(document: str) -> dict[str, Any]:
    """The API document with this name."""
    made: dict[str, Any] = json.loads({**fabric_documents(), **breakwater_documents()}[document].encoded)
    return made


@cache
def _operations(document: str) -> list[tuple[re.Pattern[str], str, dict[str, frozenset[str]]]]:
    """Pattern of the path, method, and codes by status."""
    api = described(document)
    found = []
    for path, item in api["paths"].items():
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
        for method, operation in item.items():
            responses = {
                status: frozenset(_codes(response, api["components"]["responses"]))
                for status, response in operation["responses"].items()
                if int(status) >= 400
            }
            found.append((pattern, method.upper(), responses))
    return found


def _codes(response: dict[str, Any], shared: dict[str, Any]) -> list[str]:
    if "$ref" in response:
        response = shared[response["$ref"].rpartition("/")[2]]
    (content,) = response["content"].values()
    codes: list[str] = content["schema"]["properties"]["code"]["enum"]
    return codes


def _codes_of(document: str, method: str, path: str) -> dict[str, frozenset[str]] | None:
    for pattern, known, codes in _operations(document):
        if known == method and pattern.fullmatch(path):
            return codes
    return None
