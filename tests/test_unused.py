"""The libraries of tools/unused.txt are not in the lock, and no module that ships imports them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.prune_lock import pruned

ROOT = Path(__file__).parent.parent
UNUSED = (ROOT / "tools" / "unused.txt").read_text("utf-8").split()

IMPORTS = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Blocked())
import cloud
for module in pkgutil.walk_packages(cloud.__path__, "cloud."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

LOCK = """#
# made by pip-compile
#
anyio==4.16.0 \\
    --hash=sha256:00
    # via
    #   cascade (pyproject.toml)
    #   black
black==26.10.1 \\
    --hash=sha256:01 \\
    --hash=sha256:02
    # via piccolo
click==8.5.1 \\
    --hash=sha256:03
    # via
    #   black
    #   uvicorn
pathspec==1.1.1 \\
    --hash=sha256:04
    # via black
pytokens==0.4.1 \\
    --hash=sha256:05
    # via pathspec
setuptools==80.0.0 \\
    --hash=sha256:06
"""


@pytest.mark.slow
def test_every_module_of_the_cloud_imports_without_unused_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *UNUSED, "aiosqlite"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"black", "jinja2", "pydantic", "targ"} == set(UNUSED)


def test_the_lock_has_no_unused_library() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert pruned(text, set(UNUSED)) == (text, [])


def test_pruning_removes_a_library_and_dependencies_of_it_alone() -> None:
    text, gone = pruned(LOCK, {"black", "absent"})
    assert gone == ["black", "pathspec", "pytokens"]
    assert (
        text
        == """#
# made by pip-compile
#
anyio==4.16.0 \\
    --hash=sha256:00
    # via
    #   cascade (pyproject.toml)
click==8.5.1 \\
    --hash=sha256:03
    # via
    #   uvicorn
setuptools==80.0.0 \\
    --hash=sha256:06
"""
    )
    assert pruned(text, {"black"}) == (text, [])
