"""The list of every library that ships: `packaging/shipped.txt`, one line each: package, library, version, licence."""

from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution
from pathlib import Path

from tools.packages import lock
from tools.packages.targets import PACKAGES, Package

PAGE = "packaging/shipped.txt"
_HEAD = """# Every library that a package ships: package, library, version, licence (SPDX).
# `python -m tools.packages --write-shipped` writes this file. `make packages` compares it with what it ships.
"""

_SPDX = {
    "MIT": "MIT",
    "MIT License": "MIT",
    "BSD-3-Clause": "BSD-3-Clause",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "MPL-2.0": "MPL-2.0",
}
"""The names of licences that libraries use instead of an SPDX expression."""
_BY_TEXT: Mapping[str, str] = {
    "colorama": "BSD-3-Clause",
    "pyrage": "MIT",
    "rich-click": "MIT",
    "segno": "BSD-3-Clause",
    "tpm2-pytss": "BSD-2-Clause",
}
"""Libraries whose metadata do not name one licence: read in their licence file, which ships."""

Rows = dict[tuple[str, str], tuple[str, str]]
"""(package, library) -> (version, licence)."""


def licence(installed: Distribution) -> str:
    """The licence of a library, as an SPDX expression. Raises KeyError when its metadata name none that is known."""
    name = lock.canonical(installed.metadata["Name"])
    if name in _BY_TEXT:
        return _BY_TEXT[name]

    def values(field: str) -> list[str]:
        return [str(each) for each in installed.metadata.get_all(field) or []]

    if expression := values("License-Expression"):
        return expression[0]
    named = [each.rpartition(" :: ")[2] for each in values("Classifier") if each.startswith("License :: ")]
    for each in [*values("License"), *named]:
        if each in _SPDX:
            return _SPDX[each]
    raise KeyError(f"{name}: its metadata name no known licence: {values('License')}, {named}")


def wanted(package: Package, project: str, locked: str) -> list[str]:
    """The libraries of a package, by pyproject.toml and the lock."""
    return lock.closure(locked, lock.required(project, package.extras))


def read(text: str) -> Rows:
    """The rows of the list."""
    rows = [line.split(maxsplit=3) for line in text.splitlines() if line and not line.startswith("#")]
    return {(package, library): (version, spdx) for package, library, version, spdx in rows}


def written(rows: Rows) -> str:
    """The list."""
    widths = [max((len(row[place]) for row in _flat(rows)), default=0) for place in range(3)]
    return _HEAD + "".join(
        "  ".join([*(part.ljust(width) for part, width in zip(row, widths, strict=False)), row[3]]) + "\n"
        for row in _flat(rows)
    )


def _flat(rows: Rows) -> Iterable[tuple[str, str, str, str]]:
    return [(*key, *rows[key]) for key in sorted(rows)]


def problems(repository: Path) -> list[str]:
    """Where the list differs from pyproject.toml and the lock. Licences are compared by the build."""
    project = (repository / "pyproject.toml").read_text("utf-8")
    locked = (repository / "requirements.lock").read_text("utf-8")
    versions = lock.versions(locked)
    expected = {
        (package.name, each): versions[each] for package in PACKAGES for each in wanted(package, project, locked)
    }
    listed = {key: version for key, (version, _) in read((repository / PAGE).read_text("utf-8")).items()}
    return [
        f"{package} {library}: listed {listed.get((package, library))}, locked {expected.get((package, library))}"
        for package, library in sorted(expected.keys() | listed.keys())
        if expected.get((package, library)) != listed.get((package, library))
    ]
