"""Check of the tests' coverage: no module falls under its floor, and floors only rise.

    python -m tools.coverage [--raise]

`make coverage` runs the tests under coverage.py and then this check, over the data file that the run has left. The
floors are in `tests/coverage_floor.json`: module -> percent of its statements. A module without a floor fails too, as
does a floor without a module. `--raise` lifts floors to the measured share less `MARGIN_PERCENT`, gives new modules a
floor, removes those of modules that are gone, and lowers none.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from coverage import Coverage

REPOSITORY = Path(__file__).parent.parent
FLOORS = REPOSITORY / "tests" / "coverage_floor.json"
MARGIN_PERCENT = 1
"""Races and processes that are killed make two runs differ by some statements."""

Shares = Mapping[str, float]
"""Module (its path in the repository) -> percent of its statements that were run."""


def measured(data_file: Path) -> dict[str, float]:
    """The shares in a data file of coverage.py. Modules without a statement are left out."""
    coverage = Coverage(data_file=str(data_file), config_file=str(REPOSITORY / "pyproject.toml"))
    coverage.load()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        coverage.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    return {
        path: each["summary"]["percent_covered"] for path, each in files.items() if each["summary"]["num_statements"]
    }


def problems(shares: Shares, floors: Mapping[str, int]) -> list[str]:
    """Everything that fails the check, each with what to do."""
    found = [
        f"{module}: {shares[module]:.1f} % of its statements are run by tests, and {floor} % is the floor. Test the rest."
        for module, floor in sorted(floors.items())
        if module in shares and shares[module] < floor
    ]
    found += [f"{module} has no floor. Run `make coverage RAISE=--raise`." for module in sorted(shares.keys() - floors)]
    found += [
        f"{module} has a floor and was not measured. Run `make coverage RAISE=--raise` if it is gone."
        for module in sorted(floors.keys() - shares)
    ]
    return found


def raised(shares: Shares, floors: Mapping[str, int]) -> dict[str, int]:
    """The floors after `--raise`, sorted by module."""
    return {
        module: max(floors.get(module, 0), int(share) - MARGIN_PERCENT, 0) for module, share in sorted(shares.items())
    }


def main(arguments: list[str] | None = None, data_file: Path = REPOSITORY / ".coverage", floors: Path = FLOORS) -> int:
    """Print every problem; the exit code is 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m tools.coverage")
    parser.add_argument("--raise", action="store_true", dest="lift", help="lift the floors to what was measured")
    options = parser.parse_args(arguments)
    shares = measured(data_file)
    known = json.loads(floors.read_text()) if floors.exists() else {}
    if options.lift:
        known = raised(shares, known)
        floors.write_text(f"{json.dumps(known, indent=2)}\n")
    found = problems(shares, known)
    for problem in found:
        print(problem, file=sys.stderr)
    average = sum(shares.values()) / len(shares) if shares else 0.0
    print(f"{len(shares)} modules, {average:.1f} % on average, {len(found)} against the floors")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
