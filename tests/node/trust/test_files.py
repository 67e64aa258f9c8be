"""The trust on the disk: a generation is stored completely or not at all, and damage is found."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from node.disk import files
from node.errors import DiskFull, StateDamaged
from node.trust.files import METADATA, Current
from node.trust.published import load, refresh
from protocol.faults import Stage
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGET_SERVICES, TARGETS
from tests.fault_hooks import hooked
from tests.node.trust.states import DAY, at, bootstrap, tree
from tests.simulators.repository import START, Repository, content

pytestmark = pytest.mark.slow


class CrashedError(BaseException):
    """Takes the place of the end of the process: no code catches it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage", "generation"),
    [
        ("node.trust.write", "before", 1),
        ("node.trust.write", "after", 1),
        ("node.trust.publish", "before", 1),
        ("node.trust.publish", "after", 3),
    ],
)
async def test_a_crash_while_publishing_leaves_one_whole_generation(
    repository: Repository,
    tmp_path: Path,
    name: str,
    stage: Stage,
    generation: int,
) -> None:
    def crash(point: str, when: Stage) -> None:
        if (point, when) == (name, stage):
            raise CrashedError

    await bootstrap(repository, tmp_path)
    (tmp_path / "trust/gen-2").mkdir()
    (tmp_path / "trust/scratch-left").mkdir()
    repository.replace(content(port=9000), now=START + DAY)
    with hooked(crash), pytest.raises(CrashedError):
        await refresh(tmp_path, clock=at(START + DAY))
    assert load(tmp_path).generation == generation
    refreshed = await refresh(tmp_path, clock=at(START + DAY))
    assert refreshed.urls.fabric == "https://127.0.0.1:9000"
    repository.replace(content(port=9100), now=START + 2 * DAY)
    last = await refresh(tmp_path, clock=at(START + 2 * DAY))
    assert {path.name for path in (tmp_path / "trust").iterdir()} == {
        "current.json",
        f"gen-{refreshed.generation}",
        f"gen-{last.generation}",
    }


async def test_a_full_disk_leaves_the_old_generation(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await bootstrap(repository, tmp_path)
    repository.replace(content(port=9000), now=START + DAY)
    before = tree(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFull):
        await refresh(tmp_path, clock=at(START + DAY))
    monkeypatch.undo()
    assert tree(tmp_path) == before
    assert load(tmp_path).generation == 1


NAMES = ("current.json", "gen-1/1.root.json", *(f"gen-1/{name}" for name in (*METADATA, *TARGETS)))


def edit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        edit,
        link,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b" "),
        lambda path: path.write_bytes(b" " * 2_000_000),
    ],
    ids=["edited", "linked", "missing", "empty", "cut", "longer", "huge"],
)
async def test_damaged_files_are_noticed(
    repository: Repository, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    await bootstrap(repository, tmp_path)
    for name in NAMES:
        path = tmp_path / "trust" / name
        good = path.read_bytes()
        damage(path)
        with pytest.raises(StateDamaged, match="cannot trust") as caught:
            load(tmp_path)
        assert "activate" in caught.value.next
        with pytest.raises(StateDamaged):
            await refresh(tmp_path, clock=at(START))
        path.unlink(missing_ok=True)
        path.write_bytes(good)
        assert load(tmp_path).generation == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
async def test_activating_again_mends_damaged_files(repository: Repository, tmp_path: Path, name: str) -> None:
    await bootstrap(repository, tmp_path)
    edit(tmp_path / "trust" / name)
    assert (await bootstrap(repository, tmp_path)).generation == 2
    assert load(tmp_path).generation == 2


async def test_a_pointer_that_is_consistent_and_wrong_is_refused(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    home = tmp_path / "trust"
    current = files.read_state(home / "current.json", Current)
    assert current is not None
    hashes = dict(current.files)
    for change, match in (
        ({"pin": TrustPin(version=1, sha256="0" * 64)}, "not the pinned one"),
        ({"pin": TrustPin(version=2, sha256=current.pin.sha256)}, "not the pinned one"),
        ({"files": hashes | {"../../secret.json": "0" * 64}}, "does not name"),
        ({"files": {name: hash_ for name, hash_ in hashes.items() if name != TARGET_SERVICES}}, "does not name"),
        ({"generation": 7}, "missing"),
    ):
        values = {name: getattr(current, name) for name in current.__struct_fields__} | change
        (home / "current.json").write_bytes(files.encode_state(Current(**values)))
        with pytest.raises(StateDamaged, match=match):
            load(tmp_path)


def test_without_stored_trust_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateDamaged, match="no published trust is stored here"):
        load(tmp_path)
