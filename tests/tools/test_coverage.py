"""`tools.coverage`: floors hold and only rise, and each module has one."""

import json
import runpy
from pathlib import Path

import pytest
from coverage import Coverage

from tools.coverage import MARGIN_PERCENT, REPOSITORY, main, measured, problems, raised

SHARES = {"node/a.py": 92.7, "node/b.py": 40.0}


def test_at_its_floor_a_module_passes() -> None:
    assert problems(SHARES, {"node/a.py": 92, "node/b.py": 40}) == []


@pytest.mark.parametrize(
    ("floors", "problem"),
    [
        ({"node/a.py": 93, "node/b.py": 40}, "node/a.py: 92.7 %"),
        ({"node/a.py": 92}, "node/b.py has no floor"),
        ({"node/a.py": 92, "node/b.py": 40, "node/c.py": 1}, "node/c.py has a floor and was not measured"),
    ],
)
def test_each_kind_of_problem_is_reported(floors: dict[str, int], problem: str) -> None:
    (found,) = problems(SHARES, floors)
    assert found.startswith(problem)


def test_floors_rise_and_never_fall() -> None:
    floors = raised(SHARES, {"node/a.py": 10, "node/b.py": 60, "node/gone.py": 5})
    assert floors == {"node/a.py": 92 - MARGIN_PERCENT, "node/b.py": 60}
    assert raised({"node/new.py": 0.0}, {}) == {"node/new.py": 0}


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """The data file of coverage.py after a run of one module of this repository."""
    path = tmp_path / "data"
    coverage = Coverage(data_file=str(path), config_file=False, include=["*/protocol/codes.py"])
    with coverage.collect():
        runpy.run_path(str(REPOSITORY / "protocol/codes.py"))
    coverage.save()
    return path


def test_the_whole_check_over_a_data_file(data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shares = measured(data_file)
    assert 0 < shares["protocol/codes.py"] < 100
    floors = tmp_path / "floors.json"
    assert main([], data_file, floors) == 1
    assert "has no floor" in capsys.readouterr().err
    assert main(["--raise"], data_file, floors) == 0
    assert main([], data_file, floors) == 0
    floors.write_text(json.dumps({**json.loads(floors.read_text()), "protocol/codes.py": 100}))
    assert main([], data_file, floors) == 1
    assert "100 % is the floor" in capsys.readouterr().err
