"""`cascade config nats`: a real server takes the configuration, and the services' credentials connect to it."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.cli.installation import nats
from cloud.cli.main import main
from cloud.clock import utc_now
from cloud.events.nats.connection import Access, NatsUnavailable, connected
from cloud.events.nats.stream import declare_stream
from lab.nats import NatsServer
from tests.cloud.events.nats.support import SETTINGS


def _write(directory: Path, server: NatsServer, out: Path) -> int:
    listen = f"127.0.0.1:{server.port}"
    files = ["--certificate", str(server.ca_file), "--key", str(server.directory / "server.key")]
    store = ["--store", str(server.directory / "streams")]
    return main(
        ["config", "nats", "--dir", str(directory), "--out", str(out), "--listen", listen, *files, *store, "--json"]
    )


async def _connects(server: NatsServer, credentials: Path, service: str) -> str:
    """Return the cause why a service cannot use the server; empty if it can."""
    try:
        async with connected(Access(server.url, server.ca_file, credentials, service)) as link:
            await declare_stream(link, SETTINGS)
    except NatsUnavailable as error:
        return str(error)
    return ""


def test_services_connect_with_the_newest_credentials_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, server = tmp_path / "cloud", NatsServer(tmp_path / "nats")
    assert main(["init", "--dir", str(directory), "--json"]) == 0
    capsys.readouterr()
    server.configuration = tmp_path / "first.conf"
    assert _write(directory, server, server.configuration) == 0
    said = capsys.readouterr().out
    document = json.loads(said)
    assert document["configuration"] == str(server.configuration)
    fabric, breakwater = directory / "fabric" / "nats.creds", directory / "breakwater" / "nats.creds"
    assert document["credentials"] == [str(breakwater), str(fabric)]
    assert {path.stat().st_mode & 0o777 for path in (fabric, breakwater)} == {0o600}
    seed = fabric.read_text().split("SEED-----\n")[1].partition("\n")[0]
    assert seed not in said + server.configuration.read_text()
    older = tmp_path / "older.creds"
    older.touch(mode=0o600)
    older.write_bytes(fabric.read_bytes())

    assert _write(directory, server, server.configuration) == 2, "the file exists"
    assert asyncio.run(_causes(server, fabric, breakwater, older)) == ["", "", ""]
    server.configuration = tmp_path / "second.conf"
    # The claims count seconds: the first credentials are older than the second configuration.
    monkeypatch.setattr(nats, "utc_now", lambda: utc_now() + timedelta(seconds=3))
    assert _write(directory, server, server.configuration) == 0
    found = asyncio.run(_causes(server, fabric, breakwater, older))
    assert found[:2] == ["", ""]
    assert found[2]


async def _causes(server: NatsServer, fabric: Path, breakwater: Path, older: Path) -> list[str]:
    """Run the server, and return why each file of credentials does not connect."""
    await asyncio.to_thread(server.start)
    try:
        return [
            await _connects(server, path, service)
            for path, service in ((fabric, "fabric"), (breakwater, "breakwater"), (older, "fabric"))
        ]
    finally:
        server.kill()


def test_a_folder_without_an_installation_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = NatsServer(tmp_path / "nats")
    assert _write(tmp_path, server, tmp_path / "nats.conf") == 2
    assert "settings_unusable" in capsys.readouterr().out
    assert not (tmp_path / "nats.conf").exists()
