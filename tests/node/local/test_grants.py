"""The files of the grants: their names and modes, what a directory of others does, and that a failure is a condition."""

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from node.clock import utc_now
from node.conditions import Conditions
from node.local.changes import Changes
from node.local.grants import Grants, GrantsUnusable, grants_of
from protocol.signed.statements import Entitlement
from tests.node.licensing.samples import changed, trusted
from tests.node.licensing.test_entitlements import LEASE, START, snapshot
from tests.waiting import until

NOBODY = 65534


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "granted"


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(utc_now)


@pytest.fixture
def grants(directory: Path, conditions: Conditions) -> Grants:
    return Grants(directory, conditions)


def write(grants: Grants, wanted: dict[str, bytes]) -> None:
    trio.run(grants.write, wanted)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_granted_has_a_file() -> None:
    assert grants_of(snapshot()).keys() == {".licence", "render"}
    assert grants_of(snapshot(time=trusted(START))).keys() == {".licence", "render", "cameras"}
    assert grants_of(snapshot(lease=None)) == {}
    assert grants_of(snapshot(hardware="other")) == {}
    odd = changed(LEASE, entitlements=("a/b", "../x", ".licence", "\N{SNOWMAN}" * 64, Entitlement(name="a b")))
    assert grants_of(snapshot(odd)).keys() == {".licence", "a-b", r"\x2e.-x", r"\x2elicence", r"a\x20b"}


def test_the_content_names_the_entitlement() -> None:
    made = {name: json.loads(content) for name, content in grants_of(snapshot()).items()}
    assert made == {".licence": {"format": 1, "entitlement": None}, "render": {"format": 1, "entitlement": "render"}}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_files_come_and_go(grants: Grants, directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(grants, {"a": b"1", "b": b"2"})
    finally:
        os.umask(before)
    assert names(directory) == {"a", "b"}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / "a")] == [0o755, 0o644]
    assert (directory / "b").read_bytes() == b"2"
    (directory / "a").unlink()
    (directory / ".new").write_bytes(b"cut")
    write(grants, {"a": b"1", "c": b"3"})
    assert names(directory) == {"a", "c"}
    write(grants, {})
    assert names(directory) == set()


def test_without_a_grant_no_directory_is_made(grants: Grants, directory: Path, conditions: Conditions) -> None:
    write(grants, {})
    assert not directory.exists()
    assert conditions.current() == ()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_directory_that_others_may_write_is_tightened(grants: Grants, directory: Path, mode: int) -> None:
    directory.mkdir(parents=True)
    directory.chmod(mode)
    (directory / "forged").write_bytes(b"")
    write(grants, {"a": b"1"})
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert names(directory) == {"a"}


def of_another_user(directory: Path) -> None:
    directory.mkdir(parents=True)
    os.chown(directory, NOBODY, NOBODY)


def a_link(directory: Path) -> None:
    directory.parent.mkdir(parents=True)
    (directory.parent / "target").mkdir()
    directory.symlink_to("target")


def a_file(directory: Path) -> None:
    directory.parent.mkdir(parents=True)
    directory.write_bytes(b"")


@pytest.mark.parametrize("spoil", [of_another_user, a_link, a_file])
def test_a_directory_that_cannot_be_used_is_a_condition(
    grants: Grants,
    directory: Path,
    conditions: Conditions,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
) -> None:
    if os.geteuid() != 0 and spoil is of_another_user:
        monkeypatch.setattr(os, "chown", lambda *_: monkeypatch.setattr(os, "geteuid", lambda: 1))
    spoil(directory)
    write(grants, {"a": b"1"})
    (condition,) = conditions.current()
    assert (condition.code, condition.text.startswith("cannot write the grants in ")) == (GrantsUnusable.code, True)
    assert not (directory / "a").exists()
    if directory.is_dir() and not directory.is_symlink():
        directory.rmdir()
    else:
        directory.unlink()
    write(grants, {"a": b"1"})
    assert conditions.current() == ()
    assert names(directory) == {"a"}


def test_one_bad_entry_does_not_stop_the_others(grants: Grants, directory: Path, conditions: Conditions) -> None:
    (directory / "a folder").mkdir(parents=True)
    (directory / "old").write_bytes(b"")
    write(grants, {"a": b"1"})
    assert names(directory) == {"a folder", "a"}
    assert "a folder: " in conditions.current()[0].text


async def test_a_directory_that_does_not_answer_stops_nothing(
    directory: Path, conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed = threading.Event()
    monkeypatch.setattr(os, "listdir", lambda _: thawed.wait() and [])
    await Grants(directory, conditions, write_seconds=0.01).write({"a": b"1"})
    thawed.set()
    assert "no answer within 0.01 s" in conditions.current()[0].text


async def test_it_follows_the_changes_and_mends_what_is_missing(
    grants: Grants, directory: Path, nursery: trio.Nursery
) -> None:
    changes, now = Changes("run"), [snapshot()]
    changes.observe(now[0])
    nursery.start_soon(grants.keep, lambda: now[0], changes, 0.01)
    await until("the files", lambda: directory.exists() and names(directory) == {".licence", "render"})
    (directory / "render").unlink()
    await until("the missing file", lambda: names(directory) == {".licence", "render"})
    now[0] = snapshot(lease=None)
    changes.observe(now[0])
    await until("the end of the grants", lambda: names(directory) == set())


async def test_a_change_is_written_at_once(grants: Grants, directory: Path, nursery: trio.Nursery) -> None:
    changes, now = Changes("run"), [snapshot(lease=None)]
    changes.observe(now[0])
    nursery.start_soon(grants.keep, lambda: now[0], changes, 3600.0)
    now[0] = snapshot()
    changes.observe(now[0])
    await until("the files", lambda: directory.exists() and names(directory) == {".licence", "render"})
