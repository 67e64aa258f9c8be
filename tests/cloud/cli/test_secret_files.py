"""Files of secrets never replace another file; a disk that refuses the write gives a next step."""

import stat
from pathlib import Path

import pytest

from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.cli.secret_files import refuse_existing, write_secret_file


def test_a_new_file_is_private(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "secret")
    write_secret_file(tmp_path / "secret", b"s\n", "revoke it")
    assert (tmp_path / "secret").read_bytes() == b"s\n"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for path in (tmp_path / "there", tmp_path / "nowhere" / "secret"):
        with pytest.raises(CliError) as caught:
            refuse_existing(path)
        assert (caught.value.exit_code, caught.value.code) == (EXIT_USAGE, "file_in_the_way")


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(CliError) as caught:
        write_secret_file(tmp_path / "nowhere" / "secret", b"s\n", "The code was made: revoke it.")
    assert (caught.value.exit_code, caught.value.code) == (EXIT_INTERNAL, "file_not_written")
    assert caught.value.next_step == "The code was made: revoke it."
