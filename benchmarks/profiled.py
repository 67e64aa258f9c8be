"""Command `python -m benchmarks.profiled FILE COMMAND ...`: runs `cascade COMMAND ...` under cProfile; writes FILE.

`python -m benchmarks --profile FOLDER` runs this command in the place of `cascade`. A profile shows which calls take
time, not how much they take: it makes every call slower, and calls of C functions most.
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
