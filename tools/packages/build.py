"""Real part: the build. For each package and target the tree, the documents, the definition, and nfpm's file of them."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.packages import definition, depends, documents, libraries, shipped, stage
from tools.packages.errors import PackageError
from tools.packages.libraries import Library
from tools.packages.root import Root
from tools.packages.targets import PACKAGES, Package, Target


@dataclass(frozen=True)
class Plan:
    """What is built, from what, and where."""

    repository: Path
    cache: Path
    """Roots and tools, which are kept."""
    scratch: Path
    """Libraries, which are kept, and trees."""
    to: Path
    version: str
    epoch: int
    """Seconds since 1970: the time of the commit. Every time stamp in a package is this one."""
    packages: Sequence[Package]
    targets: Sequence[Target]
    mirror: str


@dataclass(frozen=True)
class Built:
    """A package that was built: its file, and what ships in it."""

    package: Package
    target: Target
    path: Path
    libraries: Sequence[Library]
    licences: Mapping[str, str]


def build(plan: Plan, say: Callable[[str], None]) -> list[Built]:
    """Build every package of a plan. Raises PackageError."""
    program = definition.nfpm(plan.repository, plan.cache)
    plan.to.mkdir(parents=True)
    built = []
    for target in plan.targets:
        root = Root(target.suite, plan.cache, plan.mirror)
        if not root.path.exists():
            say(f"a root of Debian {target.suite}, which takes some minutes")
            root.make()
        every = _installed(plan, root)
        for package in plan.packages:
            begun = time.monotonic()
            built.append(
                _package(plan, package, target, [every[name] for name in wanted(plan, package)], root, program)
            )
            say(f"{built[-1].path.name}, {time.monotonic() - begun:.0f} s")
    return built


def write_shipped(plan: Plan) -> None:
    """Write the list of what ships, from what is installed. Raises PackageError."""
    every = _installed(plan, Root("bookworm", plan.cache, plan.mirror))
    rows: shipped.Rows = {}
    for package in PACKAGES:
        for name in wanted(plan, package):
            rows[package.name, name] = (every[name].installed.version, _licence(every[name]))
    (plan.repository / shipped.PAGE).write_text(shipped.written(rows), "utf-8")


def wanted(plan: Plan, package: Package) -> list[str]:
    """The libraries of a package."""
    project = (plan.repository / "pyproject.toml").read_text("utf-8")
    return shipped.wanted(package, project, (plan.repository / "requirements.lock").read_text("utf-8"))


def _installed(plan: Plan, root: Root) -> dict[str, Library]:
    names = {name for package in PACKAGES for name in wanted(plan, package)}
    return libraries.installed(root, names, plan.repository, plan.scratch, plan.epoch)


def _licence(library: Library) -> str:
    try:
        return shipped.licence(library.installed)
    except KeyError as error:
        raise PackageError(f"cannot name a licence: {error.args[0]}. Add it to tools/packages/shipped.py.") from error


def _package(plan: Plan, package: Package, target: Target, own: Sequence[Library], root: Root, program: Path) -> Built:
    work = plan.scratch / "work" / f"{package.name}-{target.name}"
    shutil.rmtree(work, ignore_errors=True)
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
    return Built(package, target, to, own, licences)


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
