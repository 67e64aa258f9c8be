"""`cascade restore` asks for the proof of the installation, and for databases as `cascade init` does."""

from pathlib import Path

import pytest

from cloud.backup.age import make_identity
from cloud.cli.main import main
from tests.cloud.cli.support import error_of


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(make_identity()[0])
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), "installation_missing"),
        (("--trust", f"1:{'0' * 64}"), "installation_missing"),
        (("--trust", "what"), "trust_invalid"),
        (("--trust", f"1:{'0' * 64}", "--key-passphrase-file", "key", "--fabric-database", "x"), "database_invalid"),
        (("--trust", f"1:{'0' * 64}", "--key-passphrase-file", "lost"), "passphrase_invalid"),
    ],
)
def test_options_that_are_refused(
    key: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    code: str,
) -> None:
    monkeypatch.delenv("CASCADE_TRUST", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["restore", "b", "--into", "new", "--identity", str(key), *options, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == code
    assert not (tmp_path / "new").exists()
