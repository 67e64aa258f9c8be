"""`tools.mirror`: the check that test files mirror the modules, on a repository of a few files."""

from pathlib import Path

import pytest

from tools import mirror

CODE = "def work() -> None: ...\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with twenty modules, a test file for each, and files that need no test file."""
    for root in mirror.ROOTS:
        write(tmp_path, f"{root}/__init__.py", CODE)
    for number in range(20):
        write(tmp_path, f"cloud/part_{number}.py", CODE)
        write(tmp_path, f"tests/cloud/test_part_{number}.py", CODE)
    for uncounted in ("cloud/tables.py", "cloud/shop/migrations/m0001.py"):
        write(tmp_path, uncounted, CODE)
    write(tmp_path, "protocol/limits.py", "BYTES_MAX = 10\n")
    return tmp_path


def write(repository: Path, path: str, text: str) -> None:
    (repository / path).parent.mkdir(parents=True, exist_ok=True)
    (repository / path).write_text(text)


def test_a_mirrored_tree_passes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mirror.main([], repository) == 0
    assert capsys.readouterr() == ("20 of 20 modules have the test file of their name: 100.0%\n", "")


def test_one_in_twenty_may_be_missing_and_is_listed_when_asked_for(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "tests/cloud/test_part_7.py").unlink()
    assert mirror.main([], repository) == 0
    assert not capsys.readouterr().err
    assert mirror.main(["--list"], repository) == 0
    assert capsys.readouterr().err == "cloud/part_7.py has no tests/cloud/test_part_7.py\n"


def test_more_missing_test_files_are_refused_and_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(repository, "node/link/api.py", CODE)
    write(repository, "tests/node/test_api.py", CODE)
    (repository / "tests/cloud/test_part_7.py").unlink()
    assert mirror.main([], repository) == 1
    said = capsys.readouterr()
    assert "node/link/api.py has no tests/node/link/test_api.py" in said.err
    assert "cloud/part_7.py has no" in said.err
    assert said.out.startswith("19 of 21 modules")
