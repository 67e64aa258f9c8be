"""Check that tests mirror the source: `a/b/c.py` is covered by `tests/a/b/test_c.py`.

    python -m tools.mirror [--list]

Every module with a function counts, except `__init__.py`, tables and migrations. The check fails if fewer than
`SHARE_MIN` of them have their test file. `--list` prints the modules without one, also when the check passes.
"""

import argparse
import ast
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
ROOTS = ("protocol", "node", "cloud", "lab")
SHARE_MIN = 0.95
"""The rest is for modules whose code runs only in other processes, or with a part that few tests start."""

UNCOUNTED_FILES = {"__init__.py", "tables.py"}
UNCOUNTED_FOLDERS = {"migrations"}


def counted(root: Path) -> list[Path]:
    """The modules below a package that need a test file, relative to the folder of the package."""
    return [
        path.relative_to(root.parent)
        for path in sorted(root.rglob("*.py"))
        if path.name not in UNCOUNTED_FILES and UNCOUNTED_FOLDERS.isdisjoint(path.parts) and _has_function(path)
    ]


def _has_function(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_bytes(), str(path)))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)


def test_file(module: Path) -> Path:
    """The path of a module's test file."""
    return Path("tests") / module.parent / f"test_{module.name}"


def main(arguments: list[str] | None = None, repository: Path = REPOSITORY) -> int:
    """Print the share of modules with a test file of their name. The exit code is 1 if the share is too small."""
    parser = argparse.ArgumentParser(prog="python -m tools.mirror")
    parser.add_argument("--list", action="store_true", help="print the modules that have no test file of their name")
    options = parser.parse_args(arguments)
    modules = [path for root in ROOTS for path in counted(repository / root)]
    missing = [path for path in modules if not (repository / test_file(path)).exists()]
    share = 1 - len(missing) / len(modules)
    failed = share < SHARE_MIN
    if failed or options.list:
        for path in missing:
            print(f"{path} has no {test_file(path)}", file=sys.stderr)
    print(f"{len(modules) - len(missing)} of {len(modules)} modules have the test file of their name: {share:.1%}")
    if failed:
        print(f"At least {SHARE_MIN:.0%} should. Split a test file that tests several modules.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
