"""Fixtures of `cascade trust`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.cli.connection import Server
from cloud.cli.trust import published, sign
from tests.cloud.cli.trust.support import FIRST, Installation, content_of


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    content = content_of(FIRST)
    made = Installation(tmp_path, content)
    for module in (published, sign):
        monkeypatch.setattr(module, "utc_now", lambda: made.now)
    monkeypatch.setattr(Server, "call", lambda self, method, path, kind, body=None: made.call(method, path, kind, body))
    with made.repository.served():
        monkeypatch.setenv("CASCADE_URL", made.repository.url)
        monkeypatch.setenv("CASCADE_TRUST", str(made.repository.pin))
        monkeypatch.setenv("CASCADE_TOKEN_FILE", made.path("token"))
        monkeypatch.setenv("XDG_CACHE_HOME", made.path("cache"))
        yield made
