"""Comparison: the same benchmarks in two checkouts, in turns in one run, and the ratio of each figure.

Other load on the machine changes from minute to minute. In turns it meets both checkouts alike, so the ratio of two
neighbouring runs is comparable where their figures are not. Each checkout runs its own benchmarks as a separate process.
Figures are matched by name, so both checkouts need the benchmark of the name.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures import progress
from lab.processes import StepFailed

HERE = Path(__file__).resolve().parent.parent


def against(other: Path, names: list[str], rounds: int) -> str:
    """Run the benchmarks `names` in both checkouts `rounds` times. Return a table of medians and ratios.

    Raises StepFailed if a run fails.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    units: dict[str, str] = {}
    for number in range(rounds):
        for name in names:
            order = (HERE, other) if number % 2 == 0 else (other, HERE)
            found = {checkout: _run(checkout, name) for checkout in order}
            for figure, (value, unit) in found[HERE].items():
                if figure in found[other]:
                    pairs.setdefault(figure, []).append((value, found[other][figure][0]))
                    units[figure] = unit
    lines = [f"{'figure':55}  {'here':>12}  {'there':>12}  here / there, median and range of {rounds}"]
    for figure, values in pairs.items():
        ratios = sorted(here / there for here, there in values if there)
        here, there = (statistics.median(each) for each in zip(*values, strict=True))
        spread = f"{statistics.median(ratios):.3f}  {ratios[0]:.3f} to {ratios[-1]:.3f}" if ratios else "-"
        lines.append(f"{figure:55}  {here:>9.3g} {units[figure]:2}  {there:>9.3g} {units[figure]:2}  {spread}")
    return "\n".join(lines)


def _run(checkout: Path, name: str) -> dict[str, tuple[float, str]]:
    """Run one benchmark of a checkout. Return value and unit of its figures by name."""
    progress(f"{name} in {checkout}")
    own = checkout / ".venv" / "bin" / "python"
    done = subprocess.run(
        [str(own if own.exists() else sys.executable), "-m", "benchmarks", name, "--json"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StepFailed(f"cannot run the benchmark {name} in {checkout}: {(done.stdout + done.stderr)[-1500:]}")
    figures: list[dict[str, Any]] = json.loads(done.stdout)["figures"]
    return {figure["name"]: (figure["value"], figure["unit"]) for figure in figures}
