"""Real part: the files of the agent from this checkout: its code, and the libraries of this environment that it needs.

The libraries are those of this machine's Python. So the files run on a system with the same release of Debian.
"""

import re
import shutil
import tomllib
from collections.abc import Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parent.parent


def copy_agent(code: Path, libraries: Path) -> None:
    """Copy `node` and `protocol` into the folder `code`, and the libraries that they require into `libraries`."""
    for package in ("node", "protocol"):
        shutil.copytree(CHECKOUT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    for library in agent_libraries():
        for file in library.files or ():
            source = Path(str(library.locate_file(file)))
            if ".." not in file.parts and source.suffix != ".pyc" and source.exists():
                target = libraries / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def agent_libraries() -> list[Distribution]:
    """The libraries of `protocol` and of the extra `node`, with all that they require."""
    # Not the metadata of the installed project, because several checkouts can share an environment.
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    found: dict[str, Distribution] = {}
    waiting = required([*project["dependencies"], *project["optional-dependencies"]["node"]])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = distribution(name)
            waiting += required(found[name].requires or [])
    return list(found.values())


def required(lines: Sequence[str]) -> list[str]:
    """The names in requirements (PEP 508) that apply to this Python, without extras."""
    parsed = (Requirement(line) for line in lines)
    return [
        re.sub(r"[-_.]+", "-", each.name).lower()
        for each in parsed
        if each.marker is None or each.marker.evaluate({"extra": ""})
    ]
