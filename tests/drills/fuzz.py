"""Coverage-guided fuzzing of callers' inputs, of files that operators load, and of the inputs of an agent.

The callers are unauthenticated. The inputs of an agent are its settings, its activation file and its socket's answers.

Each target runs as a separate process of `tests.fuzz`. Inputs that reach new code go to the corpus in the repository. A
crash is a finding: its input is written beside the corpus as `TARGET.crash-...`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.drills.frame import Figure, Outcome, Say

USUAL_TIME = "90 min"
MINUTES_MAX = 120.0

TARGETS = (
    "csr",
    "est",
    "ocsp",
    "evidence",
    "certificate",
    "bundle",
    "settings",
    "activation-file",
    "socket-answer",
    "carried",
)
PROGRESS_SECONDS = 60.0
TAIL_LINES = 15
"""The lines of a failed run's output in its finding."""

_STATISTIC = re.compile(r"^stat::(number_of_executed_units|new_units_added|peak_rss_mb): +(\d+)$", re.MULTILINE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the targets and the time for each."""
    parser.add_argument("--target", action="append", choices=TARGETS, help="fuzz this target only (may be repeated)")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for each target (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Fuzz the targets one after the other."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    for target in options.target or TARGETS:
        say(f"{target}: {options.minutes:g} minutes")
        code, output = _fuzz(target, options.minutes, say)
        figures |= {f"{target} {name}": int(value) for name, value in _STATISTIC.findall(output)}
        if code != 0:
            findings.append("\n".join([f"{target}: exit code {code}", *output.splitlines()[-TAIL_LINES:]]))
    return Outcome(figures, tuple(findings))


def _fuzz(target: str, minutes: float, say: Say) -> tuple[int, str]:
    """Exit code and output of one run of `tests.fuzz`."""
    command = [sys.executable, "-m", "tests.fuzz", target, "--minutes", str(minutes)]
    with tempfile.TemporaryDirectory(prefix="cascade-fuzz-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT)
            try:
                while True:
                    try:
                        code = process.wait(PROGRESS_SECONDS)
                        return code, log.read_text(errors="replace")
                    except subprocess.TimeoutExpired:
                        say(f"{target}: {log.read_text(errors='replace').splitlines()[-1:]}")
            finally:
                process.kill()
                process.wait()
