"""`tools.events_schemas`: the check finds stale copies, breaking changes and changed records of promises."""

import inspect
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from cloud.contracts.event_nouns import EventNoun
from tools import events_schemas
from tools.events_schemas import FOLDER, PROMISES, Promise, broken, chained, document, promises_of, read_promises


class Part(msgspec.Struct, frozen=True):
    """A part."""

    size: int
    """Size."""


class BodyV1(msgspec.Struct, frozen=True, kw_only=True):
    """A thing."""

    id: str
    """Id."""
    state: Literal["on", "off"]
    """State."""
    parts: tuple[Part, ...]
    """Parts."""
    by_name: dict[str, Part]
    """Parts by name."""
    owner: str | None
    """Owner."""
    note: str = ""
    """Note."""


def noun(fields: dict[str, Any] | None = None, *, pasts: tuple[str, ...] = ("made",), version: int = 1) -> EventNoun:
    """The events of a thing. `fields` changes its body: a type, a type with a default, or None for a removed field."""
    body: type[msgspec.Struct] = BodyV1
    if fields is not None:
        kept: dict[str, Any] = {**BodyV1.__annotations__, "note": (str, ""), **fields}
        made = [(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, kind in kept.items() if kind]
        body = msgspec.defstruct("BodyV1", made, kw_only=True, module=__name__, namespace={"__doc__": "A thing."})
    return EventNoun(service="lab", noun="thing", version=version, body=body, pasts=pasts)


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """A struct made in a test has no source text."""
    real = inspect.getsource

    def source(cls: type) -> str:
        return real(cls) if cls in (Part, BodyV1) else "class BodyV1: pass"

    monkeypatch.setattr(inspect, "getsource", source)


def promises(made: EventNoun) -> list[Promise]:
    return list(promises_of(made.schema_name, document(made)))


def test_a_body_promises_its_types_and_fields_at_any_depth() -> None:
    assert [each.line for each in promises(noun())] == [
        "lab.thing.v1 dev.cascade.lab.thing.made.v1 type event",
        "lab.thing.v1 id required string",
        "lab.thing.v1 state required enum(off,on)",
        "lab.thing.v1 parts required array(object)",
        "lab.thing.v1 parts[].size required integer",
        "lab.thing.v1 by_name required map(object)",
        "lab.thing.v1 by_name{}.size required integer",
        "lab.thing.v1 owner required null|string",
        "lab.thing.v1 note optional string",
    ]


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        (noun({"owner": None}), "owner is not in the code any more"),
        (noun({"id": int}), "id is required integer, not required string"),
        (noun({"state": Literal["on", "off", "lost"]}), "state is required enum(lost,off,on)"),
        (noun({"state": Literal["on"]}), "state is required enum(on)"),
        (noun({"owner": str}), "owner is required string, not required null|string"),
        (noun({"id": (str, "")}), "id is optional string, not required string"),
        (noun({"added": str}), "added is new and has no default"),
        (noun(pasts=("changed",)), "dev.cascade.lab.thing.made.v1 is not in the code any more"),
        (noun(version=2), "lab.thing.v1: id is not in the code any more"),
    ],
)
def test_each_breaking_change_is_found(changed: EventNoun, finding: str) -> None:
    assert any(finding in each for each in broken(promises(noun()), promises(changed)))


@pytest.mark.parametrize(
    "changed",
    [
        noun({"added": (str, "")}),
        noun({"added": (Part | None, None)}),  # its own fields may be required
        noun(pasts=("made", "changed")),
    ],
)
def test_an_addition_breaks_nothing(changed: EventNoun) -> None:
    assert list(broken(promises(noun()), promises(changed))) == []
    assert list(broken(promises(noun()), [*promises(noun()), *promises(noun({"added": str}, version=2))])) == []


def test_a_changed_or_removed_line_is_found() -> None:
    lines = chained([each.line for each in promises(noun())], "")
    assert read_promises("\n".join(lines)) == promises(noun())
    for wrong in ([*lines[:3], *lines[4:]], [*lines[:3], lines[3].replace("array", "map"), *lines[4:]], lines[1:]):
        with pytest.raises(ValueError, match="was changed"):
            read_promises("\n".join(wrong))
    last = lines[-1].partition(" ")[0]
    assert read_promises("\n".join(lines), (len(lines), last))
    for wrong in (lines[:-1], []):
        with pytest.raises(ValueError, match="last release"):
            read_promises("\n".join(wrong), (len(lines), last))


def test_a_breaking_change_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str, made: EventNoun) -> int:
        return events_schemas.main(list(arguments), tmp_path, (made,))

    assert run(made=noun()) == 1
    assert run("--write", made=noun()) == 0
    assert run(made=noun()) == 0
    written = (tmp_path / PROMISES).read_text(), (tmp_path / FOLDER / "lab.thing.v1.json").read_bytes()
    broken_body = noun({"owner": None})
    assert run("--write", made=broken_body) == 1
    assert ((tmp_path / PROMISES).read_text(), (tmp_path / FOLDER / "lab.thing.v1.json").read_bytes()) == written
    (tmp_path / FOLDER / "lab.thing.v1.json").unlink()  # new copies do not hide the change
    assert run("--write", made=broken_body) == 1
    assert "add a noun with the next version" in capsys.readouterr().err


def test_an_addition_must_be_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert events_schemas.main(["--write"], tmp_path, (noun(),)) == 0
    before = (tmp_path / PROMISES).read_text()
    added = noun({"added": (str, "")})
    assert events_schemas.main([], tmp_path, (added,)) == 1
    assert "added optional string is not recorded" in capsys.readouterr().err
    assert events_schemas.main(["--write"], tmp_path, (added,)) == 0
    assert (tmp_path / PROMISES).read_text().startswith(before)
    (tmp_path / FOLDER / "lab.other.v1.json").write_text("{}")
    assert events_schemas.main([], tmp_path, (added,)) == 1
    assert "no event has this schema" in capsys.readouterr().err
