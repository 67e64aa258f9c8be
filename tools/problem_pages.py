"""Make the page of each problem code in `docs/problems`, or check that the pages are those of the code.

    python -m tools.problem_pages            compare, and fail on a difference
    python -m tools.problem_pages --write    write the pages of the code

A page joins the kind of a code (`protocol.problems`), its text (`cloud.http.catalogue`), and what the copies of the API
documents in `docs/api` say: the operations that answer with the code, and the callers that these admit.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cloud.http.catalogue import TEXTS, Text
from protocol.openapi import Json
from protocol.problems import CONTENT_TYPE, KINDS, TYPE_PREFIX, ProblemKind
from tools.docs import LINE_CHARACTERS_MAX

REPOSITORY = Path(__file__).parent.parent
FOLDER = Path("docs/problems")
INDEX = "README.md"
WRITE = "python -m tools.problem_pages --write"
DOCUMENTS = ("fabric", "fabric-repository", "breakwater", "breakwater-public")
"""The API documents of the services. The agent's document (`cascadia`) has codes of its own."""
OPERATIONS_SHOWN_MAX = 20
"""Codes of more operations come from what many operations have in common. Their pages name the documents only."""
TROUBLESHOOTING = Path("docs/troubleshooting.md")
REFUSALS = "Refusals of the cloud"

_CALLERS = {
    "operator": "operators",
    "node": "nodes",
    "service": "services",
    "enrolment": "services that enrol",
    "": "callers that need no certificate and no token",
}
"""What `security` of an operation calls its callers, and what a page calls them."""


class Operation(NamedTuple):
    """One operation of an API document."""

    document: str
    method: str
    path: str
    callers: frozenset[str]


def operations(documents: Mapping[str, Json]) -> dict[str, list[Operation]]:
    """The operations that answer with each code, in the order of the documents."""
    found: dict[str, list[Operation]] = {}
    for name, document in documents.items():
        for path, item in sorted(document["paths"].items()):
            for method, operation in item.items():
                callers = frozenset(_CALLERS[scheme] for way in operation["security"] for scheme in (way or ("",)))
                for code in _codes_of(operation, document["components"]["responses"]):
                    found.setdefault(code, []).append(Operation(name, method.upper(), path, callers))
    return found


def _codes_of(operation: Json, shared: Json) -> Iterator[str]:
    for response in operation["responses"].values():
        whole = shared[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
        yield from whole.get("content", {}).get(CONTENT_TYPE, {}).get("examples", {})


def page(kind: ProblemKind, text: Text, answering: list[Operation], on_machines: bool) -> str:
    """The page of a code. `on_machines`: the troubleshooting page has it too."""
    callers = sorted({caller for each in answering for caller in each.callers})
    repeat = (
        "The answer is about the request or its object. A repeat gets the same answer until the cause is gone."
        if kind.conclusive
        else "The answer is about this moment. A repeat may succeed later, and nothing follows from it until then."
    )
    parts = [
        f"# `{kind.code}`",
        f"**{kind.status}: {kind.title}**",
        text.meaning,
        "## Who gets it",
        f"{', '.join(callers) or 'every caller'}.".capitalize(),
        "## What to do",
        kind.next,
        repeat,
    ]
    if on_machines:
        anchor = REFUSALS.lower().replace(" ", "-")
        parts.append(f"On a machine: see [{REFUSALS}](../{TROUBLESHOOTING.name}#{anchor}).")
    parts += ["## Where it comes from", *_listed(answering)]
    return _joined([*parts, text.elsewhere] if text.elsewhere else parts)


def _listed(answering: list[Operation]) -> Iterator[str]:
    links = {name: f"[{name}](../api/{name}.json)" for name in dict.fromkeys(each.document for each in answering)}
    if len(answering) > OPERATIONS_SHOWN_MAX:
        yield f"More than {OPERATIONS_SHOWN_MAX} operations of {', '.join(links.values())}."
        return
    if answering:
        yield "\n".join(f"- `{each.method} {each.path}` of {links[each.document]}" for each in answering)


def index(kinds: Mapping[str, ProblemKind]) -> str:
    """The list of all pages."""
    about = (
        "A service refuses with a problem document (RFC 9457). Its `code` is for programs, and is never renamed or "
        f"reused; its `type` is `{TYPE_PREFIX}CODE`. Each code has a page here. [The API](../api.md) describes the "
        f"other fields. The codes that the agent shows are in [troubleshooting](../{TROUBLESHOOTING.name})."
    )
    rows = [_filled(f"- [`{kind.code}`]({kind.code}.md): {kind.status}, {kind.title}", "  ") for kind in kinds.values()]
    return _joined(
        [
            "# Problems",
            about,
            f"`{WRITE}` makes these pages of `protocol/problems.py`, `cloud/http/catalogue.py` and the API documents.",
            "\n".join(rows),
        ]
    )


def _joined(parts: list[str]) -> str:
    """The parts as paragraphs; prose is filled, and headings and lists stay as they are."""
    return "\n\n".join(part if part[0] in "#-" else _filled(part) for part in parts) + "\n"


def _filled(text: str, indent: str = "") -> str:
    filler = textwrap.TextWrapper(LINE_CHARACTERS_MAX, break_long_words=False, break_on_hyphens=False)
    filler.subsequent_indent = indent
    return filler.fill(text)


def pages(repository: Path) -> dict[str, str]:
    """Every page by the name of its file. Raises LookupError for a code without a text or an origin."""
    folder = repository / "docs/api"
    documents = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in DOCUMENTS}
    answering = operations(documents)
    section = (repository / TROUBLESHOOTING).read_text("utf-8").partition(f"\n## {REFUSALS}\n")[2].partition("\n## ")[0]
    on_machines = set(re.findall(r"`([a-z_]+)`", section))
    made = {INDEX: index(KINDS)}
    texts = {str(code): text for code, text in TEXTS.items()}
    for code, kind in KINDS.items():
        if code not in texts:
            raise LookupError(f"{code} has no text: add one to cloud/http/catalogue.py")
        found = answering.get(code, [])
        if not found and not texts[code].elsewhere:
            raise LookupError(f"{code}: no operation answers with it, and its text does not say where it comes from")
        made[f"{code}.md"] = page(kind, texts[code], found, code in on_machines)
    return made


def main(arguments: list[str] | None = None, repository: Path = REPOSITORY) -> int:
    """Compare or write; the exit code is 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.problem_pages", description="Pages of the problem codes.")
    parser.add_argument("--write", action="store_true", help="write the pages of the code into docs/problems")
    options = parser.parse_args(arguments)
    try:
        made = pages(repository)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    folder = repository / FOLDER
    if options.write:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (folder / name).write_text(text, "utf-8")
    stored = {path.name: path.read_text("utf-8") for path in folder.glob("*")}
    found = [f"{FOLDER / name}: differs from the code" for name, text in made.items() if stored.get(name) != text]
    if found:
        found.append(f"Record the change with `{WRITE}`.")
    found += [f"{FOLDER / name}: no code has this page: remove it" for name in sorted(set(stored) - set(made))]
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(made) - 1} pages of problem codes, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
