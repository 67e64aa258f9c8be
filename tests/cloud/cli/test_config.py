"""`cascade config check` finds what keeps a service from starting, and creates and changes nothing."""

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud.breakwater.keys.signer import Keys, open_keys
from cloud.cli import config
from cloud.cli.main import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("config") / "cloud"
    assert main(["init", "--dir", str(directory), "--json"]) == 0
    return directory


@pytest.fixture
def installation(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cloud"))


def files_of(directory: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mode, path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(directory.rglob("*"))
    }


Check = Callable[[Path], dict[tuple[str, str], dict[str, str]]]


@pytest.fixture
def failed(capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the check with `--json`. Returns the failed findings by service and check."""

    def check(directory: Path) -> dict[tuple[str, str], dict[str, str]]:
        before = files_of(directory)
        capsys.readouterr()
        code = main(["config", "check", "--dir", str(directory), "--running", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert files_of(directory) == before
        wrong = {(each["service"], each["check"]): each for each in found if each["state"] == "failed"}
        assert code == (65 if wrong else 0)
        assert all(each["cause"] and each["next"].endswith(".") for each in wrong.values())
        return wrong

    return check


def test_a_new_installation_passes(installation: Path, failed: Check, capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(installation) == {}
    assert main(["config", "check", "--dir", str(installation), "--running"]) == 0
    assert "breakwater  key of nodes-1" in capsys.readouterr().out


def test_the_keys_of_all_cas_are_opened_with_one_login(
    installation: Path, failed: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token locks itself after a few wrong PINs, so a check must not try the PIN once for each CA."""
    logins: list[Keys] = []

    def counted(*arguments: Any) -> Keys:
        logins.append(open_keys(*arguments))
        return logins[-1]

    monkeypatch.setattr(config, "open_keys", counted)
    (installation / "breakwater" / "keys" / "services-ca.key.pem").unlink()
    assert {check for _, check in failed(installation) if check.startswith("key of")} == {"key of services-1"}
    assert len(logins) == 1


def settings(service: str, old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / service / "settings.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def without_migration(directory: Path) -> None:
    (database,) = (directory / "fabric").glob("*.sqlite")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM migration WHERE name = (SELECT MAX(name) FROM migration)")
        connection.commit()


def no_database(directory: Path) -> None:
    (database,) = (directory / "breakwater").glob("*.sqlite")
    database.unlink()


BROKEN: list[tuple[Callable[[Path], object], tuple[str, str]]] = [
    (settings("fabric", "mode =", "no_such_key = 1\nmode ="), ("fabric", "settings")),
    (settings("breakwater", "mode =", "mode ="[:-1]), ("breakwater", "settings")),
    (lambda it: (it / "fabric" / "settings.toml").unlink(), ("fabric", "settings")),
    (settings("fabric", "mode =", "debug = true\nmode ="), ("fabric", "gate debug-is-off")),
    (lambda it: (it / "secrets" / "passphrase").chmod(0o644), ("fabric", "gate secrets-are-private")),
    (lambda it: (it / "secrets" / "passphrase").unlink(), ("breakwater", "passphrase")),
    (lambda it: (it / "fabric" / "tls" / "chain.pem").write_text("no"), ("fabric", "certificate")),
    (lambda it: (it / "breakwater" / "keys" / "nodes-ca.key.pem").unlink(), ("breakwater", "key of nodes-1")),
    (lambda it: shutil.rmtree(it / "fabric" / "keys"), ("fabric", "keys")),
    (no_database, ("breakwater", "database")),
    (without_migration, ("fabric", "database")),
]


@pytest.mark.parametrize(("breaks", "found"), BROKEN, ids=lambda it: "-".join(it) if isinstance(it, tuple) else "")
def test_each_fault_is_found_with_its_cause(
    installation: Path, failed: Check, breaks: Callable[[Path], object], found: tuple[str, str]
) -> None:
    breaks(installation)
    assert found in failed(installation)


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def test_an_address_in_use_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = free.getsockname()[1]
    assert main(["init", "--dir", str(tmp_path / "cloud"), "--port-base", str(base)]) == 0
    capsys.readouterr()
    with taken(base):
        assert main(["config", "check", "--dir", str(tmp_path / "cloud")]) == 65
    assert f"cannot listen on 127.0.0.1:{base}: Address already in use" in capsys.readouterr().out
