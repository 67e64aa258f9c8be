"""Parts for `cascade trust`: a repository over HTTP, its offline keys, and a simulated Fabric that publishes."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.cli.main import main
from cloud.crypto.keyfile import write_key, write_secret
from cloud.fabric import schemas
from cloud.fabric.tuf.checking import check_signed
from cloud.fabric.tuf.repository import publish_signed
from cloud.fabric.tuf.targets import build_targets
from tests.cloud.fabric.authorities import Generation
from tests.simulators.repository import START, Repository, p256, verification_key

PASSPHRASE = b"sixteen bytes or more"
DAY = timedelta(days=1)
FIRST, SECOND = Generation(1), Generation(2)


def content_of(authorities: Generation) -> dict[str, bytes]:
    """Targets that publish these authorities."""
    return build_targets(
        keys=(verification_key(p256(), "lease"),),
        trust_domain="cascade.test",
        roots=[authorities.root.der],
        node_issuers=[authorities.nodes.der],
        service_issuers=[authorities.services.der],
        fabric_url="https://fabric.test:8440",
        breakwater_url="https://breakwater.test:8441",
    )


class Installation:
    """A trust repository over HTTP, its offline keys as files, and a simulated Fabric that checks and publishes."""

    def __init__(self, directory: Path, content: dict[str, bytes]) -> None:
        self.directory = directory
        self.calls: list[tuple[str, str, Any]] = []
        self.now = START
        keys = p256(), p256()
        self.repository = Repository(content, keys=keys)
        write_secret(directory / "passphrase", PASSPHRASE)
        for name, key in zip(("root", "targets"), keys, strict=True):
            write_key(directory / f"{name}.pem", key, PASSPHRASE)
        (directory / "second-root.pem").write_bytes(SECOND.root.pem)
        (directory / "second-nodes.pem").write_bytes(SECOND.nodes.pem)
        (directory / "second-services.pem").write_bytes(SECOND.services.pem)

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def sign(self, *options: str, source: str = "now", out: str = "next", as_json: bool = False) -> int:
        fixed = ("--from", self.path(source), "--out", self.path(out), "--passphrase-file", self.path("passphrase"))
        return main(["trust", "sign", *fixed, *options, *(["--json"] if as_json else [])])

    def call(self, method: str, path: str, kind: Any, body: Any) -> Any:
        """Do what Fabric's route does, without nodes."""
        self.calls.append((method, path, body))
        assert isinstance(body, schemas.PublishTrust)
        newest = self.repository.store.newest
        roots = [root for root in body.roots if root != newest("root").data]
        targets = b"" if body.targets == newest("targets").data else body.targets
        signed = check_signed(newest("root"), newest("targets"), roots, targets, body.contents, self.now)
        self.repository.store.add(publish_signed(self.now, self.repository.latest, signed, self.repository.online))
        return schemas.Trust(newest("targets").version, self.now, newest("root").version, self.now)


def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)
