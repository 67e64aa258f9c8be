"""Real part: the tree of a package, as it is installed.

The tree depends on the commit, the lock and the root only: modes, time stamps, order and bytecode are always the same.
Bytecode is checked against no source (`unchecked-hash`), because a user of the machine cannot write beside it, and its
source changes with the package only.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from tools.packages.errors import PackageError
from tools.packages.libraries import Library
from tools.packages.root import Root
from tools.packages.targets import Package, Target

LAUNCHER = """#!/usr/bin/python{python} -IS
# The options keep the user's variables and every other installed library away: the locked ones run only.
import sys

sys.path.insert(0, "/{library}")

from {entry} import main  # noqa: E402  # the path is set first

sys.exit(main())
"""
_LEFT_OUT = frozenset({"INSTALLER", "RECORD", "REQUESTED", "WHEEL", "direct_url.json", "entry_points.txt", "top_level.txt",
                       "zip-safe"})  # fmt: skip
"""Files of a distribution's metadata that only installers read. METADATA stays: scanners find the versions by it."""
_LEFT_OUT_FOLDERS = frozenset({"tests", "_tests", "_tools", "profiling", "share", "licenses", "sboms"})
"""Folders without use at run time. Some wheels have them at the top. Licences are in the copyright file of the package,
and its SBOM has those of the wheels."""
_LEFT_OUT_SUFFIXES = frozenset({".c", ".h", ".pxd", ".pyc", ".pyi", ".pyx", ".sh"})
_LEFT_OUT_FILES = re.compile(r"yaml/_yaml\.")
"""PyYAML works without this module, which has an old copy of libyaml in it."""
_COMPILE = """
python{python} -m compileall -q -j 1 --invalidation-mode unchecked-hash -s /build/{library} -p /{library} {library}
"""


def ships(path: str) -> bool:
    """Whether a file of a library, by its path below the folder of libraries, is of use at run time."""
    parts = PurePosixPath(path).parts
    in_metadata = parts[0].endswith(".dist-info")
    if _LEFT_OUT_FOLDERS.intersection(parts[:-1]):
        return False
    if in_metadata:
        return parts[-1] not in _LEFT_OUT and not parts[-1].upper().startswith(
            ("LICEN", "COPYING", "AUTHORS", "NOTICE")
        )
    if parts[-1].startswith(".") or _LEFT_OUT_FILES.match(path):
        return False
    return PurePosixPath(path).suffix not in _LEFT_OUT_SUFFIXES


def build(
    stage: Path,
    package: Package,
    target: Target,
    libraries: Iterable[Library],
    root: Root,
    repository: Path,
    epoch: int,
) -> None:
    """Make the tree of a package in `stage`. Raises PackageError."""
    home = stage / package.library
    for library in libraries:
        for source, path in library.files():
            if ships(path):
                _copy(source, home / path)
    for path in checked_in(repository, package.code):
        if path.endswith((".py", "py.typed")):
            _copy(repository / path, home / path)
    launchers = {stage / path: entry for path, entry in package.launchers}
    for launcher, entry in launchers.items():
        launcher.parent.mkdir(parents=True, exist_ok=True)
        launcher.write_text(LAUNCHER.format(python=target.python, library=package.library, entry=entry))
    root.run(stage, _COMPILE.format(python=target.python, library=package.library), epoch)
    normalise(stage, epoch)
    for launcher in launchers:
        launcher.chmod(0o755)


def checked_in(repository: Path, folders: Iterable[str]) -> list[str]:
    """The files below some folders that git has, or that it would take; sorted. Raises PackageError."""
    command = ["git", "-C", str(repository), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PackageError(f"cannot list the source files: {done.stderr.strip()}. Build in a clone of the repository.")
    return sorted({path for path in done.stdout.split("\0") if path and (repository / path).is_file()})


def normalise(folder: Path, epoch: int) -> None:
    """Give everything below a folder the modes 0755 and 0644 and one time stamp, in seconds since 1970."""
    for path in _below(folder):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (epoch, epoch))


def _below(folder: Path) -> Iterator[Path]:
    """Everything below a folder, and at last the folder: a time stamp that is set stays."""
    for parent, _, files in os.walk(folder, topdown=False):
        yield from (Path(parent) / name for name in files)
        yield Path(parent)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
