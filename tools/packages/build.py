"""The build: for each package and target the tree, the documents, the definition, and the file that nfpm makes.

make packages
make packages ARGS='--only cascadia --target debian12'
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.packages import definition, depends, documents, libraries, shipped, stage
from tools.packages.errors import PackageError
from tools.packages.libraries import Library
from tools.packages.root import NEEDED, Root, missing_packages
from tools.packages.targets import PACKAGES, TARGETS, Package, Target

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Plan:
    """What is built, from what, and where."""

    repository: Path
    cache: Path
    to: Path
    version: str
    epoch: int
    """Seconds since 1970: the time of the commit. Every time stamp in a package is this one."""
    packages: Sequence[Package]
    targets: Sequence[Target]
    mirror: str


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m tools.packages", description="Build the packages.")
    made.add_argument("--only", choices=[each.name for each in PACKAGES], help="build one package")
    made.add_argument("--target", choices=[each.name for each in TARGETS], help="build for one distribution")
    made.add_argument("--to", type=Path, default=REPOSITORY / "dist", help="the folder of the result")
    made.add_argument("--cache", type=Path, default=REPOSITORY / "build/packages", help="what is kept between builds")
    made.add_argument("--mirror", default="", help="Debian mirror for the roots (default: debootstrap's own)")
    made.add_argument("--version", help="the version of the packages (default: that of pyproject.toml)")
    made.add_argument("--write-shipped", action="store_true", help=f"write {shipped.PAGE}, and build nothing")
    return made


def planned(options: argparse.Namespace, repository: Path = REPOSITORY) -> Plan:
    """The plan that the options ask for. Raises PackageError outside a clone."""
    done = subprocess.run(
        ["git", "-C", str(repository), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PackageError(f"cannot find the commit: {done.stderr.strip()}. Build in a clone of the repository.")
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    return Plan(
        repository=repository,
        cache=options.cache.resolve(),
        to=options.to.resolve(),
        version=options.version or project["version"],
        epoch=int(done.stdout),
        packages=[each for each in PACKAGES if options.only in (None, each.name)],
        targets=[each for each in TARGETS if options.target in (None, each.name)],
        mirror=options.mirror,
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns the exit code: 0 when everything was built, 1 when not, 2 for wrong options."""
    options = parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("cannot build packages: it needs root, for roots of Debian. Run `sudo make packages`.", file=sys.stderr)
        return 1
    if missing := missing_packages(NEEDED):
        print(f"cannot build packages: run `apt-get install {' '.join(missing)}` first.", file=sys.stderr)
        return 1
    try:
        plan = planned(options)
        if options.write_shipped:
            write_shipped(plan)
            return 0
        for path in build(plan):
            print(path)
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build(plan: Plan) -> list[Path]:
    """Build every package of a plan. Returns the files. Raises PackageError."""
    program = definition.nfpm(plan.repository, plan.cache)
    plan.to.mkdir(parents=True, exist_ok=True)
    built = []
    for target in plan.targets:
        root = Root(target.suite, plan.cache, plan.mirror)
        every = _installed(plan, root)
        for package in plan.packages:
            begun = time.monotonic()
            work = plan.cache / "work" / f"{package.name}-{target.name}"
            shutil.rmtree(work, ignore_errors=True)
            own = [every[name] for name in _wanted(plan, package)]
            built.append(_package(plan, package, target, own, root, work, program))
            print(f"packages: {package.name} for {target.name}, {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return built


def write_shipped(plan: Plan) -> None:
    """Write the list of what ships, from what is installed. Raises PackageError."""
    every = _installed(plan, Root("bookworm", plan.cache, plan.mirror))
    rows: shipped.Rows = {}
    for package in PACKAGES:
        for name in _wanted(plan, package):
            rows[package.name, name] = (every[name].installed.version, _licence(every[name]))
    (plan.repository / shipped.PAGE).write_text(shipped.written(rows), "utf-8")


def _wanted(plan: Plan, package: Package) -> list[str]:
    project = (plan.repository / "pyproject.toml").read_text("utf-8")
    return shipped.wanted(package, project, (plan.repository / "requirements.lock").read_text("utf-8"))


def _installed(plan: Plan, root: Root) -> dict[str, Library]:
    names = {name for package in PACKAGES for name in _wanted(plan, package)}
    return libraries.installed(root, names, plan.repository, plan.cache, plan.epoch)


def _licence(library: Library) -> str:
    try:
        return shipped.licence(library.installed)
    except KeyError as error:
        raise PackageError(f"cannot name a licence: {error.args[0]}. Add it to tools/packages/shipped.py.") from error


def _package(
    plan: Plan, package: Package, target: Target, own: Sequence[Library], root: Root, work: Path, program: Path
) -> Path:
    root.make()
    tree = work / "stage"
    tree.mkdir(parents=True)
    stage.build(tree, package, target, own, root, plan.repository, plan.epoch)
    licences = {library.name: _licence(library) for library in own}
    _compare(plan, package, own, licences)
    packaging = definition.copied(work, package, target, plan.repository, plan.epoch)
    text = (packaging / "nfpm.yaml").read_text("utf-8")
    _documents(plan, package, target, own, licences, tree, definition.maintainer(text))
    if target.packager == "deb":
        needed = depends.of_deb(work, package, root, plan.epoch)
    else:
        needed = depends.of_rpm(work, package, target, root, plan.epoch)
    values = {
        "VERSION": plan.version,
        "REVISION": target.revision,
        "MTIME": datetime.fromtimestamp(plan.epoch, UTC).isoformat(),
        "STAGE": str(tree),
        "PACKAGING": str(packaging),
        "DEPENDS": needed,
        "PYTHON": f"python{target.python}",
    }
    filled = work / "nfpm.yaml"
    filled.write_text(definition.filled(text, values), "utf-8")
    to = plan.to / target.file_name(package.name, plan.version)
    definition.package(program, filled, target, to, plan.epoch)
    return to


def _documents(
    plan: Plan,
    package: Package,
    target: Target,
    own: Sequence[Library],
    licences: dict[str, str],
    tree: Path,
    maintainer: str,
) -> None:
    folder = tree / "usr/share/doc" / package.name
    folder.mkdir(parents=True)
    licence = (plan.repository / "LICENSE").read_text("utf-8")
    text = documents.copyright_file(package, target, licence, own, licences)
    (folder / "copyright").write_text(text, "utf-8")
    page = (plan.repository / "CHANGELOG.md").read_text("utf-8")
    (folder / "CHANGELOG.md").write_text(page, "utf-8")
    log = documents.changelog(page, plan.version, package, target, maintainer, plan.epoch)
    (folder / "changelog.Debian.gz").write_bytes(log)
    stage.normalise(tree / "usr/share", plan.epoch)


def _compare(plan: Plan, package: Package, own: Sequence[Library], licences: dict[str, str]) -> None:
    """Compare what ships with the list. Raises PackageError."""
    rows = shipped.read((plan.repository / shipped.PAGE).read_text("utf-8"))
    listed = {library: row for (name, library), row in rows.items() if name == package.name}
    found = {library.name: (library.installed.version, licences[library.name]) for library in own}
    if differing := sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name)):
        raise PackageError(
            f"cannot build {package.name}: {shipped.PAGE} differs from what ships in {', '.join(differing)}. "
            "Run `python -m tools.packages --write-shipped` and review the change."
        )
