"""The node's trust against a real repository over HTTP: what it publishes, what it refuses, and what it then keeps."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from itertools import repeat
from pathlib import Path
from time import sleep

import pytest
import trio
from tuf.api.metadata import Metadata, Root, Timestamp

from cloud.fabric.tuf.repository import MetadataFile, signer_of
from node.disk import files
from node.errors import DiskFull, StateDamaged
from node.exits import Exit
from node.trust import files as trust_files
from node.trust import published as trust
from node.trust.published import TrustError, TrustSet, TrustUnreachable
from protocol import faults
from protocol.encoding import json_encode, sha256_hex
from protocol.faults import Hook, Stage
from protocol.messages.activation import TrustPin
from protocol.signed.envelope import EnvelopeError, open_envelope, seal
from protocol.signed.trust import TARGET_SERVICES, TARGET_SIGNING_KEYS, TARGETS
from tests.simulators.repository import (
    START,
    Answer,
    Repository,
    content,
    p256,
    pieces,
    redirect_to,
    status,
    verification_key,
)

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository().served() as served:
        yield served


def at(when: datetime) -> Callable[[], datetime]:
    return lambda: when


async def bootstrap(repository: Repository, state: Path, when: datetime = START) -> TrustSet:
    return await trust.bootstrap(repository.url, repository.pin, state, clock=at(when))


def tree(state: Path) -> dict[str, bytes]:
    """Every file of the state directory."""
    return {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if path.is_file()}


async def test_bootstrap_publishes_what_load_reads_back(repository: Repository, tmp_path: Path) -> None:
    fetched = await bootstrap(repository, tmp_path)
    loaded = trust.load(tmp_path)
    assert (loaded.bundle, loaded.urls, loaded.pin) == (fetched.bundle, fetched.urls, repository.pin)
    assert loaded.repository_url == repository.url
    assert loaded.generation == fetched.generation == 1
    assert loaded.urls.fabric == "https://127.0.0.1:8440"
    assert sorted(path.name for path in (tmp_path / "trust").iterdir()) == ["current.json", "gen-1"]
    for path in (tmp_path / "trust").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.slow
def test_load_does_not_import_the_library(repository: Repository, tmp_path: Path) -> None:
    trio.run(bootstrap, repository, tmp_path)
    script = (
        "import sys, pathlib; from node import trust; trust.load(pathlib.Path(sys.argv[1]));"
        "sys.exit(any(name.split('.')[0] in ('tuf', 'securesystemslib', 'urllib3') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


async def test_refresh_publishes_new_targets_and_keeps_two_generations(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    for number, port in enumerate((9000, 9100, 9200), start=2):
        when = START + number * DAY
        repository.replace(content(port=port), now=when)
        refreshed = await trust.refresh(tmp_path, clock=at(when))
        assert refreshed.generation == number
        assert refreshed.version == trust.load(tmp_path).version == number
        assert trust.load(tmp_path).urls.fabric == f"https://127.0.0.1:{port}"
    assert sorted(path.name for path in (tmp_path / "trust").iterdir()) == ["current.json", "gen-3", "gen-4"]


async def test_an_unchanged_repository_costs_one_request_for_root_and_timestamp_and_no_write(
    repository: Repository, tmp_path: Path
) -> None:
    await bootstrap(repository, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trust").rglob("*")}
    repository.requests.clear()
    assert (await trust.refresh(tmp_path, clock=at(START))).generation == 1
    assert repository.requests == ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trust").rglob("*")} == before


async def test_proxies_of_the_environment_are_not_asked(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await bootstrap(repository, tmp_path)


async def test_a_statement_counts_only_under_a_published_key(tmp_path: Path) -> None:
    published, stranger = p256(), p256()
    key = verification_key(published, "lease")
    with Repository(content(key)).served() as repository:
        ring = (await bootstrap(repository, tmp_path)).signing_keys
    unpublished = verification_key(stranger, "lease").kid
    assert open_envelope(seal("lease", key.kid, b"{}", published), "lease", ring)[1] == key
    for token, typ, reason in (
        (seal("lease", unpublished, b"{}", stranger), "lease", "not published"),
        (seal("revocation", key.kid, b"{}", published), "revocation", "may not sign"),
        (seal("lease", key.kid, b"{}", stranger), "lease", "does not verify"),
    ):
        with pytest.raises(EnvelopeError, match=reason):
            open_envelope(token, typ, ring)


async def test_roots_are_followed_as_a_chain(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    heir = signer_of(p256())
    second = Metadata[Root].from_bytes(repository.store.files["root", 1].data)
    second.signed.version = 2
    second.signed.revoke_key(repository.root.public_key.keyid, "root")
    second.signed.add_key(heir.public_key, "root")
    second.sign(heir)
    repository.answers["/tuf/metadata/2.root.json"] = second.to_bytes()
    with pytest.raises(TrustError, match="root was signed by 0/1 keys"):
        await trust.refresh(tmp_path, clock=at(START))
    second.sign(repository.root, append=True)
    repository.answers["/tuf/metadata/2.root.json"] = second.to_bytes()
    assert (await trust.refresh(tmp_path, clock=at(START))).generation == 2
    assert (tmp_path / "trust/gen-2/2.root.json").exists()
    repository.answers.clear()
    assert (await trust.refresh(tmp_path, clock=at(START))).pin == repository.pin


# What an attacker on the path, or one who took the online keys, may try. Nothing of it changes what is stored.


async def refused(
    repository: Repository, state: Path, error: type[TrustError | TrustUnreachable], match: str, when: datetime = START
) -> None:
    before, loaded = tree(state), trust.load(state)
    with pytest.raises(error, match=match) as caught:
        await trust.refresh(state, clock=at(when), seconds_max=1)
    assert caught.value.exit == (Exit.VERIFICATION if error is TrustError else Exit.UNREACHABLE)
    assert tree(state) == before
    assert trust.load(state).generation == loaded.generation


async def test_an_older_timestamp_is_a_rollback(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    await bootstrap(repository, tmp_path, START + DAY)
    repository.answers["/tuf/metadata/timestamp.json"] = old
    await refused(repository, tmp_path, TrustError, "must be >=", START + DAY)


async def test_activating_again_does_not_open_the_way_to_a_rollback(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    await bootstrap(repository, tmp_path, START + DAY)
    repository.answers["/tuf/metadata/timestamp.json"] = old
    for damage in (False, True):
        if damage:
            (tmp_path / "trust/current.json").unlink()
        with pytest.raises(TrustError, match="must be >="):
            await bootstrap(repository, tmp_path, START + DAY)


async def test_a_newer_timestamp_over_an_older_snapshot_is_a_rollback(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    await bootstrap(repository, tmp_path, START + DAY)
    forged = Metadata[Timestamp].from_bytes(old)
    forged.signed.version = repository.latest.timestamp.version + 1
    forged.sign(repository.online.timestamp)
    repository.answers["/tuf/metadata/timestamp.json"] = forged.to_bytes()
    await refused(repository, tmp_path, TrustError, "New snapshot version must be >=", START + DAY)


async def test_a_frozen_repository_is_refused_and_what_was_verified_stays(
    repository: Repository, tmp_path: Path
) -> None:
    await bootstrap(repository, tmp_path)
    await refused(repository, tmp_path, TrustError, "expired", START + 8 * DAY)


async def test_offline_past_the_timestamps_life_what_was_verified_stays(tmp_path: Path) -> None:
    with Repository().served() as repository:
        await bootstrap(repository, tmp_path)
    await refused(repository, tmp_path, TrustUnreachable, "could not be fetched", START + 400 * DAY)


async def test_metadata_of_another_repository_are_refused(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    with Repository(now=START + DAY).served() as other:
        repository.answers["/tuf/metadata/timestamp.json"] = other.latest.timestamp.data
        await refused(repository, tmp_path, TrustError, "timestamp was signed by 0/1 keys", START + DAY)


@pytest.mark.parametrize(
    ("pin", "error"),
    [
        (lambda pin: TrustPin(version=1, sha256="0" * 64), "not the pinned one"),
        (lambda pin: TrustPin(version=2, sha256=pin.sha256), "has no root 2"),
    ],
)
async def test_a_wrong_pin_stops_everything(
    repository: Repository, tmp_path: Path, pin: Callable[[TrustPin], TrustPin], error: str
) -> None:
    with pytest.raises(TrustError, match=error) as caught:
        await trust.bootstrap(repository.url, pin(repository.pin), tmp_path, clock=at(START))
    assert caught.value.exit == Exit.VERIFICATION
    assert len(repository.requests) == 1
    assert tree(tmp_path) == {}


async def test_the_repository_is_named_by_a_plain_http_url(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="http://"):
        await trust.bootstrap("file:///etc", TrustPin(version=1, sha256="0" * 64), tmp_path)


HEAD = b"HTTP/1.1 200 OK\r\n"


def endless_header() -> Iterator[bytes]:
    yield HEAD
    while True:
        sleep(0.02)
        yield b"x-more: of it\r\n"


def endless_body() -> Iterator[bytes]:
    yield HEAD + b"\r\n"
    yield from repeat(b" " * 4096)


def dripping_body() -> Iterator[bytes]:
    yield HEAD + b"content-length: 1000\r\n\r\n"
    while True:
        sleep(0.05)
        yield b" "


def silent(handler: BaseHTTPRequestHandler) -> None:
    sleep(2)


def unexpected_form() -> bytes:
    metadata = Metadata[Timestamp].from_bytes(Repository().latest.timestamp.data).to_dict()
    metadata["signed"]["meta"] = {}
    return json_encode(metadata)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"])
@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (pieces(endless_body), TrustError, "longer than it may be"),
        (b"{" + b" " * 600_000, TrustError, "longer than it may be"),
        (b"<html>Please log in</html>", TrustError, "deserialize"),
        (b"[" * 10_000, TrustError, "deserialize"),
        (unexpected_form(), TrustError, "cannot verify"),
        (pieces(lambda: [HEAD + b"content-length: 100\r\n\r\nshort"]), TrustUnreachable, "could not be fetched"),
        (pieces(lambda: [b"SSH-2.0-OpenSSH\r\n"]), TrustUnreachable, "could not be fetched"),
        (pieces(dripping_body), TrustUnreachable, "too long"),
        (pieces(endless_header), TrustUnreachable, "too long"),
        (silent, TrustUnreachable, "too long"),
        (redirect_to("/tuf/metadata/1.root.json"), TrustUnreachable, "status 302"),
        (status(500), TrustUnreachable, "status 500"),
        (status(429), TrustUnreachable, "status 429"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
async def test_answers_that_are_no_metadata(
    repository: Repository,
    tmp_path: Path,
    path: str,
    answer: Answer,
    error: type[TrustError | TrustUnreachable],
    match: str,
) -> None:
    await bootstrap(repository, tmp_path)
    repository.answers[path] = answer
    await refused(repository, tmp_path, error, match)


async def test_a_tampered_target_is_refused(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    repository.replace(content(port=9000), now=START + DAY)
    path = repository.target_path(TARGET_SERVICES)
    good = path.rpartition("/")[2].partition(".")[0]
    original = repository.store.contents[TARGET_SERVICES, good]
    for body, match in (
        (original.replace(b"9000", b"9001"), "hash"),
        (original[:-1], "length"),
        (original + b" ", "longer than it may be"),
    ):
        repository.answers[path] = body
        await refused(repository, tmp_path, TrustError, match, START + DAY)
    repository.answers.clear()
    assert (await trust.refresh(tmp_path, clock=at(START + DAY))).urls.fabric == "https://127.0.0.1:9000"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        (TARGET_SERVICES, None, "has no services.json"),
        (TARGET_SERVICES, b"{}", "cannot be read"),
        (TARGET_SERVICES, b"{" + b" " * 300_000 + b"}", "larger than"),
        (TARGET_SERVICES, b'{"format":2,"fabric":"https://a:1","breakwater":"https://a:2"}', "does not know"),
        (TARGET_SERVICES, b'{"format":1,"fabric":"http://a:1","breakwater":"https://a:2"}', "URL"),
        (TARGET_SERVICES, b'{"format":1,"fabric":"https://a:1/x","breakwater":"https://a:2"}', "URL"),
        (TARGET_SIGNING_KEYS, b'{"format":1,"keys":{}}', "cannot be read"),
        (
            "x509-bundle.json",
            b'{"format":1,"trust_domain":"a","roots":["AAAA"],"node_issuers":[],"service_issuers":[]}',
            "certificates cannot be read",
        ),
    ],
)
async def test_vouched_for_and_yet_of_no_use(
    repository: Repository, tmp_path: Path, name: str, body: bytes | None, match: str
) -> None:
    await bootstrap(repository, tmp_path)
    targets = content()
    if body is None:
        del targets[name]
    else:
        targets[name] = body
    repository.replace(targets, now=START + DAY)
    await refused(repository, tmp_path, TrustError, match, START + DAY)


# Crashes and damage.


class CrashedError(BaseException):
    """Stands for the end of the process: nothing catches it."""


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
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stage: Stage,
    generation: int,
) -> None:
    def crash(point: str, when: Stage) -> None:
        if (point, when) == (name, stage):
            raise CrashedError

    hooks: list[Hook] = [crash]
    await bootstrap(repository, tmp_path)
    (tmp_path / "trust/gen-2").mkdir()
    (tmp_path / "trust/scratch-left").mkdir()
    repository.replace(content(port=9000), now=START + DAY)
    monkeypatch.setattr(faults, "_hooks", hooks)
    with pytest.raises(CrashedError):
        await trust.refresh(tmp_path, clock=at(START + DAY))
    hooks.clear()
    assert trust.load(tmp_path).generation == generation
    refreshed = await trust.refresh(tmp_path, clock=at(START + DAY))
    assert refreshed.urls.fabric == "https://127.0.0.1:9000"
    repository.replace(content(port=9100), now=START + 2 * DAY)
    last = await trust.refresh(tmp_path, clock=at(START + 2 * DAY))
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
        await trust.refresh(tmp_path, clock=at(START + DAY))
    monkeypatch.undo()
    assert tree(tmp_path) == before
    assert trust.load(tmp_path).generation == 1


NAMES = ("current.json", "gen-1/1.root.json", *(f"gen-1/{name}" for name in (*trust_files.METADATA, *TARGETS)))


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
            trust.load(tmp_path)
        assert "activate" in caught.value.next
        with pytest.raises(StateDamaged):
            await trust.refresh(tmp_path, clock=at(START))
        path.unlink(missing_ok=True)
        path.write_bytes(good)
        assert trust.load(tmp_path).generation == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
async def test_activating_again_mends_damaged_files(repository: Repository, tmp_path: Path, name: str) -> None:
    await bootstrap(repository, tmp_path)
    edit(tmp_path / "trust" / name)
    assert (await bootstrap(repository, tmp_path)).generation == 2
    assert trust.load(tmp_path).generation == 2


async def test_a_pointer_that_is_consistent_and_wrong_is_refused(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    home = tmp_path / "trust"
    current = files.read_state(home / "current.json", trust_files.Current)
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
        (home / "current.json").write_bytes(files.encode_state(trust_files.Current(**values)))
        with pytest.raises(StateDamaged, match=match):
            trust.load(tmp_path)


def test_nothing_published_is_told_apart_from_damage(tmp_path: Path) -> None:
    with pytest.raises(StateDamaged, match="no trust was published here"):
        trust.load(tmp_path)


async def test_a_later_pin_of_the_same_cloud_starts_from_its_own_root(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    second = Metadata[Root].from_bytes(repository.store.files["root", 1].data)
    second.signed.version = 2
    second.sign(repository.root)
    data = second.to_bytes()
    repository.store.files["root", 2] = MetadataFile(role="root", version=2, data=data)
    pin = TrustPin(version=2, sha256=sha256_hex(data))
    assert (await trust.bootstrap(repository.url, pin, tmp_path, clock=at(START))).pin == pin
    assert not (tmp_path / "trust/gen-2/1.root.json").exists()
    assert trust.load(tmp_path).pin == pin


async def test_another_cloud_may_take_over_a_machine(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path, START)
    with Repository(content(port=9000), now=START - DAY).served() as other:
        assert (await bootstrap(other, tmp_path, START)).urls.fabric == "https://127.0.0.1:9000"
        assert trust.load(tmp_path).repository_url == other.url
