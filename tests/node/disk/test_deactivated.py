"""`node.disk.deactivated`: the record ends the identity, and the next owner removes the state behind it."""

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from node.disk import deactivated
from node.disk.deactivated import STATE, Deactivated
from node.hwbind.counter_removal import Left
from node.state import NotActivated, State
from tests.node.shells import load_licence

RECORD = Deactivated(node="node_1", at=datetime(2030, 1, 1, tzinfo=UTC), seat="free", left=(Left("a/b", "", "x"),))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_record_ends_the_identity_before_any_file_is_removed(state: State) -> None:
    assert load_licence(state).lease is not None
    deactivated.begin(state.directory, RECORD)
    assert "current.json" in names(state.directory)
    with pytest.raises(NotActivated, match="deactivated at 2030-01-01T00:00:00Z as node node_1"):
        load_licence(state)


async def test_the_next_owner_removes_the_state_and_nothing_else(state: State) -> None:
    deactivated.begin(state.directory, RECORD)
    (state.directory / "notes of somebody").touch()
    (state.directory / ".airgap.json.tmp").touch()
    with state.owned():
        assert names(state.directory) == {"deactivated.json", "version", "lock", "notes of somebody"}
    assert deactivated.load_record(state.directory) == msgspec.structs.replace(RECORD, complete=True)
    with pytest.raises(NotActivated, match="deactivated"):
        load_licence(state)
    with state.owned():
        (state.directory / "identity").mkdir(mode=0o700)
    with state.owned():
        assert "identity" in names(state.directory), "a complete record removes nothing"


async def test_a_record_that_cannot_be_read_ends_nothing(state: State) -> None:
    (state.directory / "deactivated.json").write_text("{}")
    with state.owned():
        assert load_licence(state).lease is not None
    assert deactivated.usable_record(state.directory) is None


async def test_an_activation_removes_the_record(state: State) -> None:
    deactivated.begin(state.directory, msgspec.structs.replace(RECORD, complete=True))
    state.make_current(1)
    assert "deactivated.json" not in names(state.directory)
    deactivated.forget(state.directory)


def test_left_counters_are_noted_only_when_they_change(tmp_path: Path) -> None:
    assert deactivated.remove_rest(tmp_path) is None
    assert deactivated.note_left(tmp_path, RECORD, RECORD.left) is RECORD
    assert names(tmp_path) == set()
    tmp_path.chmod(0o700)
    done = deactivated.note_left(tmp_path, RECORD, ())
    assert done.left == ()
    assert deactivated.load_record(tmp_path) == done


def test_every_name_of_the_state_is_removed() -> None:
    """A store of a new file has to be in `STATE`, or a deactivated machine would keep the file."""
    made = set()
    for path in Path("node").rglob("*.py"):
        made |= set(re.findall(r"_?state_dir / \"([^\"]+)\"", path.read_text()))
    assert {"identity", "licence", "trust"} <= made
    assert made - {"version", "lock"} <= set(STATE)
