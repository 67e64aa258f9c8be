"""The operators' trust client against a real repository over HTTP."""

import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.cli.published_trust import TrustError, TrustUnreachable, fetch
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGET_SERVICES
from tests.simulators.repository import START, Answer, Repository, content, pieces, redirect_to, status

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository().served() as served:
        yield served


def get(repository: Repository, directory: Path, after: timedelta = timedelta(0)) -> str:
    """The URL of Fabric, as fetched at `after` the start."""
    bundle, urls = fetch(repository.url, repository.pin, directory, lambda: START + after)
    assert bundle.trust_domain == "cascade.internal"
    return urls.fabric


def test_it_is_fetched_once_an_hour_and_follows_new_targets(repository: Repository, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    assert get(repository, cache) == "https://127.0.0.1:8440"
    assert stat.S_IMODE((cache / "trust.json").stat().st_mode) == 0o600
    repository.replace(content(port=9000), now=START + HOUR / 2)
    asked = len(repository.requests)
    assert get(repository, cache, HOUR / 2) == "https://127.0.0.1:8440"
    assert len(repository.requests) == asked
    assert get(repository, cache, HOUR) == "https://127.0.0.1:9000"
    assert get(repository, cache, -HOUR / 2) == "https://127.0.0.1:9000"


def test_fresh_trust_is_read_without_importing_the_library(repository: Repository, tmp_path: Path) -> None:
    get(repository, tmp_path)
    script = (
        "import sys, pathlib, datetime; from cloud.cli.published_trust import fetch; from protocol.messages.activation import parse_pin;"
        "fetch(sys.argv[1], parse_pin(sys.argv[2]), pathlib.Path(sys.argv[3]),"
        "lambda: datetime.datetime.fromisoformat(sys.argv[4])); sys.exit('tuf' in sys.modules)"
    )
    arguments = [repository.url, str(repository.pin), str(tmp_path), START.isoformat()]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)


def test_without_an_answer_what_was_verified_serves_for_a_week(tmp_path: Path) -> None:
    with Repository().served() as repository:
        get(repository, tmp_path)
    assert get(repository, tmp_path, 6 * DAY) == "https://127.0.0.1:8440"
    with pytest.raises(TrustUnreachable):
        get(repository, tmp_path, 7 * DAY)
    with pytest.raises(TrustUnreachable):
        get(repository, tmp_path / "other")


def test_a_rollback_is_refused(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    get(repository, tmp_path, DAY)
    repository.answers["/tuf/metadata/timestamp.json"] = old
    with pytest.raises(TrustError, match="must be >="):
        get(repository, tmp_path, DAY + HOUR)


def test_a_wrong_pin_stops_everything(repository: Repository, tmp_path: Path) -> None:
    for pin in (TrustPin(version=1, sha256="0" * 64), TrustPin(version=2, sha256=repository.pin.sha256)):
        with pytest.raises(TrustError, match="pinned one") as caught:
            fetch(repository.url, pin, tmp_path, lambda: START)
        assert not isinstance(caught.value, TrustUnreachable)
    get(repository, tmp_path)
    with pytest.raises(TrustError, match="pinned one"):
        fetch(repository.url, TrustPin(version=1, sha256="0" * 64), tmp_path, lambda: START)


def test_a_frozen_repository_and_a_tampered_target_are_refused(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="expired"):
        get(repository, tmp_path, 8 * DAY)
    repository.answers[repository.target_path(TARGET_SERVICES)] = b"{}"
    with pytest.raises(TrustError, match="length"):
        get(repository, tmp_path)
    assert not (tmp_path / "trust.json").exists()


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (b"{" + b" " * 600_000, TrustError, "longer than it may be"),
        (pieces(lambda: [b"HTTP/1.1 200 OK\r\n\r\n", b" " * 1_000_000]), TrustError, "longer than it may be"),
        (b"<html>Please log in</html>", TrustError, "deserialize"),
        (redirect_to("/tuf/metadata/1.root.json"), TrustUnreachable, "status 302"),
        (status(500), TrustUnreachable, "status 500"),
        (pieces(lambda: [b"SSH-2.0-OpenSSH\r\n"]), TrustUnreachable, "could not be fetched"),
    ],
)
def test_answers_that_are_no_metadata(
    repository: Repository, tmp_path: Path, answer: Answer, error: type[TrustError], match: str
) -> None:
    repository.answers["/tuf/metadata/timestamp.json"] = answer
    with pytest.raises(error, match=match) as caught:
        get(repository, tmp_path)
    assert type(caught.value) is error


@pytest.mark.parametrize("damage", [b"", b"{}", b"no json", b'{"format":1,"files":{"../../x.json":""}}'])
def test_a_damaged_cache_is_fetched_anew(repository: Repository, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "trust.json").write_bytes(damage)
    assert get(repository, tmp_path) == "https://127.0.0.1:8440"


def test_trust_that_cannot_be_kept_is_not_used(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrustError, match="cannot keep"):
        get(repository, tmp_path / "file")
