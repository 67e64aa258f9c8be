"""Fixtures of `cascade pki`: an installation's real files, on both database engines."""

import shutil
from pathlib import Path

import pytest

from cloud.cli.main import main
from cloud.storage import PostgresLocation
from lab.postgres import postgres_copy
from tests.cloud.cli.pki.support import Host
from tests.cloud.engines import ENGINES


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation, as `cascade init` makes it."""
    return _made_in(tmp_path_factory.mktemp("installation"))


@pytest.fixture(params=ENGINES)
def host(request: pytest.FixtureRequest, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    """A host of `made`, which can be minutes old."""
    return _host_of(made, request.param, tmp_path, capsys)


@pytest.fixture(params=ENGINES)
def new_host(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> Host:
    """A host of an installation that is seconds old."""
    return _host_of(_made_in(tmp_path_factory.mktemp("new")), request.param, tmp_path, capsys)


def _made_in(folder: Path) -> Path:
    assert main(["init", "--dir", str(folder / "cloud")]) == 0
    return folder / "cloud"


def _host_of(made: Path, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    directory = tmp_path / "cloud"
    shutil.copytree(made, directory)
    if engine == "postgresql":
        location = postgres_copy("breakwater", made / "breakwater" / "database.sqlite")
        (directory / "breakwater" / "database.sqlite").unlink()
        _use(directory / "breakwater" / "settings.toml", location)
    return Host(directory, capsys)


def _use(settings: Path, location: PostgresLocation) -> None:
    text, _, _ = settings.read_text().partition("[database]")
    lines = (f'engine = "postgresql"\nhost = "{location.host}"\nname = "{location.name}"\nuser = "{location.user}"\n',)
    settings.write_text(f"{text}[database]\n{lines[0]}")
