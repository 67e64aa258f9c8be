"""Test of `node/cli/__main__.py`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "expected"), [(["--version"], 0), (["start"], 2)])
def test_the_package_is_the_command(arguments: list[str], expected: int) -> None:
    package, module = (
        subprocess.run(
            [sys.executable, "-m", name, *arguments], cwd=Path(__file__).parents[3], capture_output=True, check=False
        )
        for name in ("node.cli", "node.cli.main")
    )
    assert package.returncode == expected
    assert (package.returncode, package.stdout, package.stderr) == (module.returncode, module.stdout, module.stderr)
    assert package.stdout.startswith(b"cascadia ") or package.stderr.startswith(b"usage: cascadia ")
