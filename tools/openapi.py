"""Check the API documents in `docs/api` against the code, and against the rules of OpenAPI.

    python -m tools.openapi            compare, check, and fail on a difference or a finding
    python -m tools.openapi --write    write the documents of the code

A document is made from the code each time. Its copy in `docs/api` shows a reviewer what a change does to the API.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from cloud.breakwater.routes.documents import documents as breakwater_documents
from cloud.fabric.routes.documents import documents as fabric_documents
from node.local.openapi import encoded as agent_document

REPOSITORY = Path(__file__).parent.parent
FOLDER = Path("docs/api")
DIFFERENCES_SHOWN = 5
WRITE = "python -m tools.openapi --write"

_OPERATION_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def documents() -> dict[str, bytes]:
    """Every document of the code, by the name of its file."""
    made: dict[str, Callable[[], bytes]] = {"cascadia": agent_document}
    found = {**fabric_documents(), **breakwater_documents()}
    return {
        **{f"{name}.json": document.encoded for name, document in found.items()},
        **{f"{name}.json": encode() for name, encode in made.items()},
    }


def differences(path: str, stored: Any, current: Any) -> Iterator[str]:
    """Where two documents differ, by the path of the member."""
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in sorted({*stored, *current}):
            place = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in current:
                yield f"{place}: is not in the code any more"
            elif key not in stored:
                yield f"{place}: is new"
            else:
                yield from differences(place, stored[key], current[key])
    elif stored != current:
        yield f"{path}: is {_short(current)}, the copy has {_short(stored)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def stale(name: str, stored: bytes | None, current: bytes) -> list[str]:
    """Differences between the copy of a document and the code, one a line, at most `DIFFERENCES_SHOWN`."""
    if stored == current:
        return []
    if stored is None:
        return [f"{FOLDER / name}: is missing"]
    try:
        found = list(differences("#", json.loads(stored), json.loads(current)))
    except ValueError:
        return [f"{FOLDER / name}: is not JSON"]
    more = [f"  and {len(found) - DIFFERENCES_SHOWN} more"] if len(found) > DIFFERENCES_SHOWN else []
    return [f"{FOLDER / name}: differs from the code", *(f"  {each}" for each in found[:DIFFERENCES_SHOWN]), *more]


def invalid(name: str, document: dict[str, Any]) -> list[str]:
    """Where a document breaks OpenAPI 3.1, as openapi-spec-validator finds it."""
    members: dict[Hashable, Any] = dict(document.items())
    findings = OpenAPIV31SpecValidator(members).iter_errors()
    return [f"{name}: {'/'.join(map(str, each.absolute_path))}: {each.message}" for each in findings]


def unclear(name: str, document: dict[str, Any]) -> Iterator[str]:
    """Where a document does not say enough: our rules of style."""
    tags = {tag["name"] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield from (f"{name}: {method.upper()} {path}: {each}" for each in _unclear_operation(operation, tags))
    for title, schema in document["components"]["schemas"].items():
        if not schema.get("description"):
            yield f"{name}: the struct {title} has no docstring"
        for field, described in schema.get("properties", {}).items():
            if not described.get("description"):
                yield f"{name}: the field {title}.{field} has no text below it"


def _unclear_operation(operation: dict[str, Any], tags: set[str]) -> Iterator[str]:
    if not _OPERATION_ID.fullmatch(operation["operationId"]):
        yield f"the operation id {operation['operationId']} is not in snake case"
    if not operation["summary"] or operation["summary"].endswith("."):
        yield "the docstring has no first line, or no sentence in it"
    if not set(operation["tags"]) <= tags:
        yield "a tag is not declared"
    if "security" not in operation:
        yield "it does not say which callers it admits"
    for parameter in operation.get("parameters", ()):
        if not parameter.get("description"):
            yield f"the parameter {parameter['name']} has no description"
    yield from _unclear_responses(operation["responses"])


def _unclear_responses(responses: dict[str, Any]) -> Iterator[str]:
    if not any(status.startswith("2") for status in responses):
        yield "there is no response for success"
    for status, response in responses.items():
        for media_type, content in response.get("content", {}).items():
            if "$ref" in content["schema"] and not {"example", "examples"} & set(content):
                yield f"the response {status} has no example of {media_type}"


def main(
    arguments: list[str] | None = None,
    repository: Path = REPOSITORY,
    made: Callable[[], dict[str, bytes]] = documents,
) -> int:
    """Compare or write; the exit code is 1 if something is wrong. `made` makes the documents by the name of the file."""
    parser = argparse.ArgumentParser(prog="python -m tools.openapi", description="API documents of the repository.")
    parser.add_argument("--write", action="store_true", help="write the documents of the code into docs/api")
    options = parser.parse_args(arguments)
    folder = repository / FOLDER
    current = made()
    if options.write:
        folder.mkdir(parents=True, exist_ok=True)
        for name, encoded in current.items():
            (folder / name).write_bytes(encoded)
    found: list[str] = []
    for name, encoded in current.items():
        copy = folder / name
        found += stale(name, copy.read_bytes() if copy.exists() else None, encoded)
    for extra in sorted({path.name for path in folder.glob("*.json")} - set(current)):
        found.append(f"{FOLDER / extra}: no service has this document: remove it")
    if found:
        found.append(f"Record the change with `{WRITE}`, and read docs/api.md about compatibility.")
    for name, encoded in current.items():
        document = json.loads(encoded)
        found += invalid(name, document)
        found += unclear(name, document)
    for each in found:
        print(each, file=sys.stderr)
    operations = sum(len(item) for encoded in current.values() for item in json.loads(encoded)["paths"].values())
    print(f"{len(current)} API documents, {operations} operations, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
