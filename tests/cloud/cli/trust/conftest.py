"""Fixtures of `cascade trust`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.cli.connection import Server
from cloud.cli.trust import published, sign
from cloud.fabric.tuf.targets import build_targets
from tests.cloud.cli.trust.support import FIRST, Installation
from tests.simulators.repository import p256, verification_key


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    content = build_targets(
        keys=(verification_key(p256(), "lease"),),
        trust_domain="cascade.test",
        roots=[FIRST.root.der],
        node_issuers=[FIRST.nodes.der],
        service_issuers=[FIRST.services.der],
        fabric_url="https://fabric.test:8440",
        breakwater_url="https://breakwater.test:8441",
    )
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
