"""Command `make packages`: build the packages into dist/. See docs/packages.md."""

import sys

from tools.packages.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
