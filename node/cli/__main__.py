"""Command: `python -m node.cli`, the same as `cascadia`."""

from node.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
