"""Command: `python -m tests.drills [PART] [options]`; without PART the list of the parts."""

import sys

from tests.drills.frame import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
