"""The TUF client against a real repository over HTTP: rollback, wrong pin, expiry, and answers without metadata."""

from datetime import timedelta
from pathlib import Path

import pytest

from cloud.cli.errors import TrustError, TrustUnreachable
from cloud.cli.published_trust import fetch
from cloud.cli.tuf_client import update
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGET_SERVICES
from tests.cloud.cli.support import fabric_url
from tests.simulators.repository import START, Answer, Repository, content, pieces, redirect_to, status

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def test_a_rollback_is_refused(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    fabric_url(repository, tmp_path, DAY)
    repository.answers["/tuf/metadata/timestamp.json"] = old
    with pytest.raises(TrustError, match="must be >="):
        fabric_url(repository, tmp_path, DAY + HOUR)


def test_a_wrong_pin_stops_everything(repository: Repository, tmp_path: Path) -> None:
    for pin in (TrustPin(version=1, sha256="0" * 64), TrustPin(version=2, sha256=repository.pin.sha256)):
        with pytest.raises(TrustError, match="pinned root") as caught:
            fetch(repository.url, pin, tmp_path, lambda: START)
        assert not isinstance(caught.value, TrustUnreachable)
    fabric_url(repository, tmp_path)
    with pytest.raises(TrustError, match="pinned root"):
        fetch(repository.url, TrustPin(version=1, sha256="0" * 64), tmp_path, lambda: START)


def test_a_frozen_repository_and_a_tampered_target_are_refused(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="expired"):
        fabric_url(repository, tmp_path, 8 * DAY)
    repository.answers[repository.target_path(TARGET_SERVICES)] = b"{}"
    with pytest.raises(TrustError, match="length"):
        fabric_url(repository, tmp_path)
    assert not (tmp_path / "trust.json").exists()


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (b"{" + b" " * 600_000, TrustError, "exceeds its maximum length"),
        (pieces(lambda: [b"HTTP/1.1 200 OK\r\n\r\n", b" " * 1_000_000]), TrustError, "exceeds its maximum length"),
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
        fabric_url(repository, tmp_path)
    assert type(caught.value) is error


def test_a_repository_over_tls_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="served over http"):
        update("https://127.0.0.1:1", TrustPin(version=1, sha256="0" * 64), {}, START)


def test_what_is_known_is_not_fetched_again(repository: Repository) -> None:
    first = update(repository.url, repository.pin, {}, START)
    assert set(first) >= {"metadata/timestamp.json", f"targets/{TARGET_SERVICES}", "metadata/root_history/1.root.json"}
    asked = len(repository.requests)
    assert update(repository.url, repository.pin, first, START) == first
    assert repository.requests[asked:] == ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"]
