"""`tools.packages.stage`: which files of a library ship, and that modes and time stamps are always the same."""

from pathlib import Path

import pytest

from tools.packages import stage


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("trio/_core/_run.py", True),
        ("trio/_tests/test_file_io.py", False),
        ("tests/engine/test_logging.py", False),
        ("tests.py", True),
        ("asyncpg/protocol/protocol.cpython-311-x86_64-linux-gnu.so", True),
        ("asyncpg/protocol/protocol.pyx", False),
        ("trio-0.35.0.dist-info/METADATA", True),
        ("trio-0.35.0.dist-info/RECORD", False),
        ("trio-0.35.0.dist-info/licenses/LICENSE", False),
        ("colorama-0.4.6.dist-info/LICENSE.txt", False),
        ("securesystemslib/_vendor/ed25519/.gitignore", False),
        ("certifi/cacert.pem", True),
        ("yaml/_yaml.cpython-311-x86_64-linux-gnu.so", False),
        ("yaml/cyaml.py", True),
    ],
)
def test_which_files_ship(path: str, expected: bool) -> None:
    assert stage.ships(path) is expected


def test_modes_and_time_stamps_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a/b").write_text("b")
    (tmp_path / "a/b").chmod(0o600)
    stage.normalise(tmp_path, 1_700_000_000)
    for path, mode in ((tmp_path / "a", 0o755), (tmp_path / "a/b", 0o644)):
        assert (path.stat().st_mode & 0o7777, path.stat().st_mtime) == (mode, 1_700_000_000)
