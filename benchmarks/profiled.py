"""`python -m benchmarks.profiled FILE COMMAND ...`: `cascade COMMAND ...` under cProfile, its profile in FILE at the end.

What `python -m benchmarks --profile FOLDER` runs in place of `cascade`. A profile shows where time goes, not how much:
it makes every call dearer, and calls in C most of all.
"""

import cProfile
import sys

from cloud.cli.main import main


def run() -> int:
    file, *command = sys.argv[1:]
    profile = cProfile.Profile()
    try:
        return profile.runcall(main, command)
    finally:
        profile.dump_stats(file)


if __name__ == "__main__":
    raise SystemExit(run())
