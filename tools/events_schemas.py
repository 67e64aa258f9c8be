"""Check the JSON Schemas of events in `docs/events` against the code, and against what was promised before.

    python -m tools.events_schemas            compare, and fail on a difference or a breaking change
    python -m tools.events_schemas --write    write the schemas of the code, unless they break a promise

A schema is made from the body in `cloud/contracts` each time. Its copy in `docs/events/schemas` is what consumers read.
`docs/events/promises.txt` has one line for each field and type of event that was ever published. Lines are only added:
each begins with a hash over itself and the line before, so a changed or removed line is found, and `--write` never
changes a line. So new copies of the schemas do not hide a breaking change. `PINNED` finds lines that were removed from
the end; raise it at each release.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from cloud.contracts import breakwater_events, fabric_events
from cloud.contracts.event_nouns import EventNoun
from protocol import openapi
from tools.openapi import differences

REPOSITORY = Path(__file__).parent.parent
FOLDER = Path("docs/events/schemas")
PROMISES = Path("docs/events/promises.txt")
WRITE = "python -m tools.events_schemas --write"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
NOUNS: tuple[EventNoun, ...] = (*breakwater_events.NOUNS, *fabric_events.NOUNS)
HASH_CHARS = 12
PINNED = (0, "")
"""How many promises there are at least, and the hash of the last of them."""
DIFFERENCES_SHOWN = 5

Json = dict[str, Any]


class Promise(NamedTuple):
    """What a consumer may rely on: a field of a body with its presence and form, or a type of event."""

    schema: str
    place: str
    presence: str
    form: str

    @property
    def line(self) -> str:
        """The promise as it is recorded, without the hash."""
        return " ".join(self)


def document(noun: EventNoun) -> Json:
    """The JSON Schema of the body of a noun's events."""
    made = openapi.schemas([noun.body], inspect.getsource)
    text = json.dumps(made).replace("#/components/schemas/", "#/$defs/")
    definitions: Json = json.loads(text)
    root: Json = definitions.pop(noun.body.__name__)
    identity = {"$schema": DIALECT, "$id": f"urn:cascade:event:{noun.schema_name}", "x-event-types": list(noun.types)}
    return {**identity, **root, **({"$defs": definitions} if definitions else {})}


def promises_of(name: str, schema: Json) -> Iterator[Promise]:
    """Everything that the schema `name` promises."""
    yield from (Promise(name, each, "type", "event") for each in schema["x-event-types"])
    yield from _fields(name, "", schema, schema)


def _fields(name: str, path: str, part: Json, root: Json) -> Iterator[Promise]:
    part = _resolved(part, root)
    for field, described in part.get("properties", {}).items():
        place = f"{path}.{field}" if path else field
        presence = "required" if field in part.get("required", ()) else "optional"
        yield Promise(name, place, presence, _form(described, root))
        yield from _fields(name, place, described, root)
    if isinstance(part.get("items"), dict):
        yield from _fields(name, f"{path}[]", part["items"], root)
    if isinstance(part.get("additionalProperties"), dict):
        yield from _fields(name, f"{path}{{}}", part["additionalProperties"], root)
    for branch in part.get("anyOf", ()):
        yield from _fields(name, path, branch, root)


def _form(part: Json, root: Json) -> str:
    """The values that a schema admits, on one line without spaces."""
    part = _resolved(part, root)
    if "anyOf" in part:
        return "|".join(sorted(_form(each, root) for each in part["anyOf"]))
    if "enum" in part:
        return f"enum({','.join(sorted(map(str, part['enum'])))})"
    form = str(part.get("type", "any"))
    if form == "array":
        return f"array({_form(part['items'], root)})"
    if form == "object" and isinstance(part.get("additionalProperties"), dict):
        return f"map({_form(part['additionalProperties'], root)})"
    rules = {key: part[key] for key in sorted(part) if key not in _NO_RULES}
    return form + "".join(f";{key}={value}" for key, value in rules.items())


_NO_RULES = frozenset({"type", "title", "description", "default", "properties", "required", "items", "$defs"})
"""Keywords that promise nothing, or that are promised by lines of their own."""


def _resolved(part: Json, root: Json) -> Json:
    if "$ref" not in part:
        return part
    found: Json = root["$defs"][part["$ref"].rpartition("/")[2]]
    return found


def chained(lines: Sequence[str], last: str) -> list[str]:
    """The lines, each behind a hash over itself and the hash before it. `last` is the hash of the line before them."""
    made = []
    for line in lines:
        last = sha256(f"{last} {line}".encode()).hexdigest()[:HASH_CHARS]
        made.append(f"{last} {line}")
    return made


def read_promises(text: str, pinned: tuple[int, str] = PINNED) -> list[Promise]:
    """The recorded promises. Raises ValueError if a line was changed or removed."""
    lines, (count, last) = text.splitlines(), pinned
    if count and (len(lines) < count or lines[count - 1].partition(" ")[0] != last):
        raise ValueError(f"{PROMISES}: the first {count} lines are not those of the last release")
    plain = [line.partition(" ")[2] for line in lines]
    for number, (line, wanted) in enumerate(zip(lines, chained(plain, ""), strict=True), 1):
        if line != wanted:
            raise ValueError(f"{PROMISES}:{number}: this line was changed, or one before it was removed")
    return [Promise(*line.split(" ", 3)) for line in plain]


def broken(recorded: Sequence[Promise], current: Sequence[Promise]) -> Iterator[str]:
    """Every recorded promise that the code does not keep, and every new field that old events lack."""
    now = {(each.schema, each.place): each for each in current}
    before = {(each.schema, each.place): each for each in recorded}
    for key, each in before.items():
        if key not in now:
            yield f"{each.schema}: {each.place} is not in the code any more"
        elif now[key] != each:
            found = now[key]
            yield f"{each.schema}: {each.place} is {found.presence} {found.form}, not {each.presence} {each.form}"
    schemas = {each.schema for each in recorded}
    for key, each in now.items():
        parent = each.place.rpartition(".")[0].rstrip("[]{}")
        extends = each.schema in schemas and (not parent or (each.schema, parent) in before)
        if key not in before and each.presence == "required" and extends:
            yield f"{each.schema}: {each.place} is new and has no default, and events of earlier releases lack it"


def stale(name: str, stored: bytes | None, current: bytes) -> list[str]:
    """Differences between the copy of a schema and the code, one a line."""
    if stored == current:
        return []
    if stored is None:
        return [f"{FOLDER / name}: is missing"]
    try:
        found = list(differences("#", json.loads(stored), json.loads(current)))
    except ValueError:
        return [f"{FOLDER / name}: is not JSON"]
    return [f"{FOLDER / name}: differs from the code", *(f"  {each}" for each in found[:DIFFERENCES_SHOWN])]


def _write(repository: Path, files: Mapping[str, bytes], recorded: Sequence[Promise], new: Sequence[Promise]) -> None:
    folder, path = repository / FOLDER, repository / PROMISES
    folder.mkdir(parents=True, exist_ok=True)
    for name, encoded in files.items():
        (folder / name).write_bytes(encoded)
    known = chained([each.line for each in recorded], "")
    last = known[-1].partition(" ")[0] if known else ""
    path.write_text("".join(f"{line}\n" for line in (*known, *chained([each.line for each in new], last))))


def main(
    arguments: list[str] | None = None, repository: Path = REPOSITORY, nouns: tuple[EventNoun, ...] = NOUNS
) -> int:
    """Compare or write; the exit code is 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.events_schemas", description="JSON Schemas of the events.")
    parser.add_argument("--write", action="store_true", help="write the schemas of the code into docs/events")
    options = parser.parse_args(arguments)
    made = {noun.schema_name: document(noun) for noun in nouns}
    files = {f"{name}.json": openapi.encoded(schema) for name, schema in made.items()}
    current = [each for name, schema in made.items() for each in promises_of(name, schema)]
    path = repository / PROMISES
    try:
        recorded = read_promises(path.read_text() if path.exists() else "")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    found = list(broken(recorded, current))
    if found:
        found.append("This breaks consumers: keep the body, and add a noun with the next version beside it.")
    new = [each for each in current if each not in recorded]
    if options.write and not found:
        _write(repository, files, recorded, new)
    elif not found:
        found += [f"{PROMISES}: {each.line} is not recorded" for each in new[:DIFFERENCES_SHOWN]]
        found += [f"Record the change with `{WRITE}`." for _ in new[:1]]
    folder = repository / FOLDER
    for name, encoded in files.items():
        found += stale(name, (folder / name).read_bytes() if (folder / name).exists() else None, encoded)
    extra = sorted({each.name for each in folder.glob("*.json")} - set(files))
    found += [f"{FOLDER / each}: no event has this schema: remove it" for each in extra]
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(files)} schemas of events, {len(current)} promises, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
