"""One update from a real repository over HTTP: which changes it follows, which it refuses, and which files remain."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import repeat
from pathlib import Path
from time import sleep

import pytest
from tuf.api.metadata import Metadata, Root, Timestamp

from cloud.fabric.tuf.repository import signer_of
from node.exits import Exit
from node.trust import published
from node.trust.published import TrustError, TrustUnreachable, refresh
from protocol.encoding import json_encode
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGET_SERVICES
from tests.node.trust.states import DAY, at, bootstrap, refused, tree
from tests.simulators.repository import START, Answer, Repository, content, p256, pieces, redirect_to, status

pytestmark = pytest.mark.slow


async def test_an_unchanged_repository_costs_one_request_for_root_and_timestamp_and_no_write(
    repository: Repository, tmp_path: Path
) -> None:
    await bootstrap(repository, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trust").rglob("*")}
    repository.requests.clear()
    assert (await refresh(tmp_path, clock=at(START))).generation == 1
    assert repository.requests == ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trust").rglob("*")} == before


async def test_proxies_of_the_environment_are_not_asked(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await bootstrap(repository, tmp_path)


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
        await refresh(tmp_path, clock=at(START))
    second.sign(repository.root, append=True)
    repository.answers["/tuf/metadata/2.root.json"] = second.to_bytes()
    assert (await refresh(tmp_path, clock=at(START))).generation == 2
    assert (tmp_path / "trust/gen-2/2.root.json").exists()
    repository.answers.clear()
    assert (await refresh(tmp_path, clock=at(START))).pin == repository.pin


async def test_an_older_timestamp_is_a_rollback(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    await bootstrap(repository, tmp_path, START + DAY)
    repository.answers["/tuf/metadata/timestamp.json"] = old
    await refused(repository, tmp_path, TrustError, "must be >=", START + DAY)


async def test_a_newer_timestamp_over_an_older_snapshot_is_a_rollback(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    await bootstrap(repository, tmp_path, START + DAY)
    forged = Metadata[Timestamp].from_bytes(old)
    forged.signed.version = repository.latest.timestamp.version + 1
    forged.sign(repository.online.timestamp)
    repository.answers["/tuf/metadata/timestamp.json"] = forged.to_bytes()
    await refused(repository, tmp_path, TrustError, "New snapshot version must be >=", START + DAY)


async def test_a_frozen_repository_is_refused_and_the_verified_trust_stays(
    repository: Repository, tmp_path: Path
) -> None:
    await bootstrap(repository, tmp_path)
    await refused(repository, tmp_path, TrustError, "expired", START + 8 * DAY)


async def test_metadata_of_another_repository_are_refused(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    with Repository(now=START + DAY).served() as other:
        repository.answers["/tuf/metadata/timestamp.json"] = other.latest.timestamp.data
        await refused(repository, tmp_path, TrustError, "timestamp was signed by 0/1 keys", START + DAY)


@pytest.mark.parametrize(
    ("pin", "error"),
    [
        (lambda pin: TrustPin(version=1, sha256="0" * 64), "not that of the pin"),
        (lambda pin: TrustPin(version=2, sha256=pin.sha256), "does not have the pinned root, version 2"),
    ],
)
async def test_a_wrong_pin_stops_everything(
    repository: Repository, tmp_path: Path, pin: Callable[[TrustPin], TrustPin], error: str
) -> None:
    with pytest.raises(TrustError, match=error) as caught:
        await published.stage(repository.url, pin(repository.pin), tmp_path, clock=at(START))
    assert caught.value.exit == Exit.VERIFICATION
    assert len(repository.requests) == 1
    assert tree(tmp_path) == {}


async def test_the_repository_is_named_by_a_plain_http_url(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="http://"):
        await published.stage("file:///etc", TrustPin(version=1, sha256="0" * 64), tmp_path)


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
    handler.rfile.read(1)  # until the client has given up


def unexpected_form() -> bytes:
    metadata = Metadata[Timestamp].from_bytes(Repository().latest.timestamp.data).to_dict()
    metadata["signed"]["meta"] = {}
    return json_encode(metadata)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"])
@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (pieces(endless_body), TrustError, "longer than allowed"),
        (b"{" + b" " * 600_000, TrustError, "longer than allowed"),
        (b"<html>Please log in</html>", TrustError, "deserialize"),
        (b"[" * 10_000, TrustError, "deserialize"),
        (unexpected_form(), TrustError, "cannot verify"),
        (pieces(lambda: [HEAD + b"content-length: 100\r\n\r\nshort"]), TrustUnreachable, "the request for .* failed"),
        (pieces(lambda: [b"SSH-2.0-OpenSSH\r\n"]), TrustUnreachable, "the request for .* failed"),
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
        (original + b" ", "longer than allowed"),
    ):
        repository.answers[path] = body
        await refused(repository, tmp_path, TrustError, match, START + DAY)
    repository.answers.clear()
    assert (await refresh(tmp_path, clock=at(START + DAY))).urls.fabric == "https://127.0.0.1:9000"
