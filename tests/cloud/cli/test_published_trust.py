"""The copy of the published trust is fresh for an hour, usable for a week, replaced if damaged, and must be stored."""

import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.cli.errors import TrustError, TrustUnreachable
from tests.cloud.cli.support import fabric_url
from tests.simulators.repository import START, Repository, content

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def test_it_is_fetched_once_an_hour_and_follows_new_targets(repository: Repository, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    assert fabric_url(repository, cache) == "https://127.0.0.1:8440"
    assert stat.S_IMODE((cache / "trust.json").stat().st_mode) == 0o600
    repository.replace(content(port=9000), now=START + HOUR / 2)
    asked = len(repository.requests)
    assert fabric_url(repository, cache, HOUR / 2) == "https://127.0.0.1:8440"
    assert len(repository.requests) == asked
    assert fabric_url(repository, cache, HOUR) == "https://127.0.0.1:9000"
    assert fabric_url(repository, cache, -HOUR / 2) == "https://127.0.0.1:9000"


def test_fresh_trust_is_read_without_importing_the_library(repository: Repository, tmp_path: Path) -> None:
    fabric_url(repository, tmp_path)
    script = (
        "import sys, pathlib, datetime; from cloud.cli.published_trust import fetch; from protocol.messages.activation import parse_pin;"
        "fetch(sys.argv[1], parse_pin(sys.argv[2]), pathlib.Path(sys.argv[3]),"
        "lambda: datetime.datetime.fromisoformat(sys.argv[4])); sys.exit('tuf' in sys.modules)"
    )
    arguments = [repository.url, str(repository.pin), str(tmp_path), START.isoformat()]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)


def test_without_an_answer_what_was_verified_serves_for_a_week(tmp_path: Path) -> None:
    with Repository().served() as repository:
        fabric_url(repository, tmp_path)
    assert fabric_url(repository, tmp_path, 6 * DAY) == "https://127.0.0.1:8440"
    with pytest.raises(TrustUnreachable):
        fabric_url(repository, tmp_path, 7 * DAY)
    with pytest.raises(TrustUnreachable):
        fabric_url(repository, tmp_path / "other")


@pytest.mark.parametrize("damage", [b"", b"{}", b"no json", b'{"format":1,"files":{"../../x.json":""}}'])
def test_a_damaged_copy_is_fetched_again(repository: Repository, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "trust.json").write_bytes(damage)
    assert fabric_url(repository, tmp_path) == "https://127.0.0.1:8440"


def test_trust_that_cannot_be_kept_is_not_used(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrustError, match="cannot store"):
        fabric_url(repository, tmp_path / "file")
