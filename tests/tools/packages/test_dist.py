"""`tools.packages.dist`: a result replaces an earlier result, and nothing else."""

from pathlib import Path

import pytest

from tools.packages import dist
from tools.packages.errors import PackageError


def test_a_folder_that_is_no_result_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "dist/thesis.txt").write_text("precious")
    with pytest.raises(PackageError, match="has files and no SHA256SUMS"):
        dist.replace(tmp_path / "dist", tmp_path / "new")
    assert (tmp_path / "dist/thesis.txt").read_text() == "precious"


def test_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    for name, file in (("dist", "old.deb"), ("new", "new.deb")):
        (tmp_path / name).mkdir()
        for each in (file, dist.SUMS):
            (tmp_path / name / each).write_text("")
    dist.replace(tmp_path / "dist", tmp_path / "new")
    assert sorted(dist.digests(tmp_path / "dist")) == [dist.SUMS, "new.deb"]
