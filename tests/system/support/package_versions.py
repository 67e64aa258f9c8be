"""Helper: versions of a built deb, with the same files and another version in the control file, and their repair."""

import re
import shutil
import subprocess
from pathlib import Path

REINSTALL = "you should\n reinstall it before attempting configuration"
"""What dpkg says about a package of which it was unpacking files. Nothing but another `dpkg -i` finishes this."""


def with_version(package: Path, version: str, directory: Path, *, reads_no_state: bool = False) -> Path:
    """Make the package with another version in `directory`. With `reads_no_state` it refuses any state. Returns its path."""
    name = f"cascadia-{version}{'-no-state' if reads_no_state else ''}"
    tree = directory / f"tree-{name}"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
    if reads_no_state:
        preinst = tree / "DEBIAN" / "preinst"
        preinst.write_text(re.sub(r"(?m)^STATE_VERSION=.*$", "STATE_VERSION=0", preinst.read_text()))
    made = directory / f"{name}.deb"
    command = ["dpkg-deb", "-Znone", "--root-owner-group", "-b", str(tree), str(made)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return made
