"""The packages: built twice and compared, checked by lintian and rpmlint, installed offline, refused elsewhere.

It needs root, debootstrap and a network. Roots and libraries are kept in the folder of `make packages`. Installed is
from the signed repository, in copies of the roots that have no network and no compiler. The rpm is installed by rpm
into a copy of the root of Debian 12, which then says that it is Enterprise Linux 9: this is no Enterprise Linux.
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tools.packages import command, compare, definition, sbom, shipped, signing
from tools.packages.build import Plan
from tools.packages.dist import THROWAWAY_KEY
from tools.packages.errors import PackageError
from tools.packages.root import NEEDED, Root, missing_packages
from tools.packages.targets import Package, Target

USUAL_TIME = "12 min"
MINUTES_MAX = 90.0

CHECKERS = {"lintian": "lintian", "rpmlint": "rpmlint", "rpm2cpio": "rpm2cpio", "dpkg-deb": "dpkg"}
WITHOUT_COMPILER = "rm -f /usr/bin/*gcc* /usr/bin/cc /usr/bin/*-ld* /usr/bin/ld /usr/bin/as"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")

# A text for `inside` has no single quotes, because it is between two.
_GONE = 'gone() { if test -e "$1"; then echo "$1 is still there"; exit 1; fi; }'
_USE_REPOSITORY = f"""
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
{{
    echo "Types: deb"
    echo "URIs: file:/build/repo"
    echo "Suites: SUITE"
    echo "Components: main"
    echo "Signed-By: /build/{THROWAWAY_KEY}"
}} >/etc/apt/sources.list.d/cascade.sources
"""
_INSTALL_DEB = f"""
inside '{_GONE}
{WITHOUT_COMPILER}
{_USE_REPOSITORY}
apt-get -q update
apt-get -q -y install NAME
PROGRAM --version
dpkg --verify NAME
dpkg --audit
apt-get -q -y purge NAME
gone /usr/lib/PROGRAM
gone /etc/PROGRAM'
"""
_TAMPERED = f"""
inside '{_USE_REPOSITORY}
cp -r /build/repo /build/{THROWAWAY_KEY} /tmp
sed -i "s#/build#/tmp#" /etc/apt/sources.list.d/cascade.sources
apt-get -q update
sed -i "s/^Origin: Cascade/Origin: Someone/" /tmp/repo/dists/SUITE/InRelease
rm /tmp/repo/dists/SUITE/Release.gpg
if apt-get -q -o APT::Update::Error-Mode=any update; then echo "apt took it"; exit 1; fi'
"""
_OTHER_RELEASE = f"""
inside '{_GONE}
if dpkg --force-depends --install /build/FILE; then echo "it was installed"; exit 1; fi
gone /usr/lib/PROGRAM
gone /usr/bin/PROGRAM'
"""
# The groups of folders and settings are those that the scripts set, so they are not verified.
_RPM = """
el9() {
    rm "$ROOT/etc/os-release"
    echo PLATFORM_ID=platform:el9 >"$ROOT/etc/os-release"
}
rpm --root "$ROOT" --import "$2/KEY"
rpm --root "$ROOT" --install "$2/FILE" && { echo 'it was installed without its dependencies'; exit 1; }
rpm --root "$ROOT" --install "$2/parts.rpm"
rpm --root "$ROOT" --install "$2/FILE" && { echo 'it was installed on another release'; exit 1; }
test -e "$ROOT/usr/lib/PROGRAM" && { echo 'a refused package left files'; exit 1; }
el9
rpm --root "$ROOT" --checksig "$2/FILE"
rpm --root "$ROOT" --install "$2/FILE"
inside 'PROGRAM --version'
rpm --root "$ROOT" --verify --nomtime --nogroup NAME
rpm --root "$ROOT" --erase NAME
test -e "$ROOT/usr/bin/PROGRAM" && { echo 'an erased package left its program'; exit 1; }
exit 0
"""
_PARTS = """
name: parts
arch: amd64
version: 1
description: Names of what Enterprise Linux 9 has, for a trial
license: Apache-2.0
maintainer: Cascade <maintainers@cascade.example>
provides:
  - ${PROVIDES}
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the kept folder, the mirror, and whether to build twice."""
    parser.add_argument("--cache", type=Path, help="roots and libraries (default: those of `make packages`)")
    parser.add_argument("--mirror", default="", help="Debian mirror for the roots (default: debootstrap's own)")
    parser.add_argument("--built", type=Path, help="check the packages of this folder, signed by a throwaway key")
    parser.add_argument("--once", action="store_true", help="build once, so do not compare two builds")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Build, then check everything that was built."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if missing := missing_packages({**NEEDED, **command.SIGNING, **CHECKERS}):
        raise CannotRun(f"programs are missing. Run `apt-get install {' '.join(missing)}`")
    arguments = ["--throwaway-key", "--mirror", options.mirror]
    arguments += ["--cache", str(options.cache)] if options.cache else []
    with tempfile.TemporaryDirectory(prefix="cascade-packages-", dir="/var/tmp") as folder:
        plan = command.planned(command.parser().parse_args([*arguments, "--to", f"{folder}/dist"]))
        if options.built:
            shutil.copytree(options.built, plan.to)
        if not options.built and (problem := _built(plan, once=options.once)):
            return Outcome({}, (problem,))
        say("lintian, rpmlint, trees, SBOMs")
        findings = [*_checked(plan), *_trees(plan), *_sboms(plan)]
        for target in plan.targets:
            for package in plan.packages:
                say(f"{package.name} in a root for {target.name}")
                findings += _tried(plan, package, target)
        return Outcome(_sizes(plan), tuple(findings))


def _built(plan: Plan, *, once: bool) -> str | None:
    """Build once or twice. Returns what went wrong."""
    try:
        with signing.throwaway(plan.cache, plan.epoch) as key:
            command.made(plan, key)
            if not once:
                command.verify(plan, key)
    except PackageError as error:
        return str(error)
    return None


def _file(plan: Plan, package: Package, target: Target) -> Path:
    return plan.to / target.file_name(package.name, plan.version)


def _checked(plan: Plan) -> Iterator[str]:
    """What lintian, rpmlint and the shell find wrong."""
    for target in plan.targets:
        for package in plan.packages:
            path = _file(plan, package, target)
            if target.packager == "deb":
                lines = _output(["lintian", "--allow-root", "--tag-display-limit", "0", str(path)])
                yield from (f"lintian: {path.name}: {line}" for line in lines if re.match("[EWI]: ", line))
                scripts = [_output(["dpkg-deb", "--info", str(path), name]) for name in SCRIPTS]
            else:
                config = plan.repository / "packaging/rpmlint.toml"
                lines = _output(["rpmlint", "--config", str(config), str(path)])
                yield from (f"rpmlint: {path.name}: {line}" for line in lines if re.search(": [EW]: ", line))
                fields = ("PREIN", "POSTIN", "PREUN", "POSTUN", "PRETRANS", "POSTTRANS")
                scripts = [_output(["rpm", "-qp", "--qf", f"%{{{field}}}", str(path)]) for field in fields]
            for script in scripts:
                done = subprocess.run(
                    ["/bin/sh", "-n"], input="\n".join(script), capture_output=True, text=True, check=False
                )
                if done.returncode != 0:
                    yield f"sh -n: {path.name}: {done.stderr.strip()}"


def _output(arguments: list[str]) -> list[str]:
    """The lines of a program's output. Its exit code does not matter: some checkers fail for what they find."""
    return subprocess.run(arguments, capture_output=True, text=True, check=False).stdout.splitlines()


def _trees(plan: Plan) -> Iterator[str]:
    """Where the deb and the rpm of one Python install something else."""
    debian12, _, el9 = plan.targets
    for package in plan.packages:
        deb, rpm = compare.of_deb(_file(plan, package, debian12)), compare.of_rpm(_file(plan, package, el9))
        yield from (f"trees of {package.name}: {each}" for each in compare.differences(deb, rpm))


def _sboms(plan: Plan) -> Iterator[str]:
    """Where an SBOM differs from the list of what ships."""
    rows = shipped.read((plan.repository / shipped.PAGE).read_text("utf-8"))
    for target in plan.targets:
        for package in plan.packages:
            path = _file(plan, package, target)
            listed = {library: row for (name, library), row in rows.items() if name == package.name}
            if sbom.listed(path.with_name(f"{path.name}.cdx.json").read_bytes()) != listed:
                yield f"SBOM of {path.name}: it differs from {shipped.PAGE}"


def _tried(plan: Plan, package: Package, target: Target) -> Iterator[str]:
    """What goes wrong when a package is installed in the root of its target, and in another."""
    root = Root(target.suite, plan.cache, plan.mirror)
    if target.packager == "rpm":
        _parts(plan, _file(plan, package, target))
        yield from _trial(plan, package, target, root, _RPM, "installation")
        return
    yield from _trial(plan, package, target, root, _INSTALL_DEB, "installation")
    yield from _trial(plan, package, target, root, _TAMPERED, "refusal of a changed repository")
    other = Root("trixie" if target.suite == "bookworm" else "bookworm", plan.cache, plan.mirror)
    yield from _trial(plan, package, target, other, _OTHER_RELEASE, "refusal on another release")


def _trial(plan: Plan, package: Package, target: Target, root: Root, script: str, what: str) -> Iterator[str]:
    done = root.trial(plan.to, _named(plan, package, target, script))
    if done.returncode != 0:
        yield f"{what} of {package.name} for {target.name}: exit code {done.returncode}\n{done.stdout[-3000:]}"


def _named(plan: Plan, package: Package, target: Target, script: str) -> str:
    words = {
        "SUITE": target.suite,
        "FILE": target.file_name(package.name, plan.version),
        "NAME": package.name,
        "PROGRAM": package.program,
        "KEY": THROWAWAY_KEY,
    }
    return re.sub("|".join(rf"\b{word}\b" for word in words), lambda match: words[match[0]], script)


def _parts(plan: Plan, rpm: Path) -> None:
    """Make an rpm that provides what another one requires, because the root has it and its database of rpms is empty."""
    required = {line.strip() for line in _output(["rpm", "-qp", "--requires", str(rpm)]) if "rpmlib(" not in line}
    description = plan.to / "parts.yaml"
    description.write_text(definition.filled(_PARTS, {"PROVIDES": sorted(required)}), "utf-8")
    program = definition.nfpm(plan.repository, plan.cache)
    definition.package(program, description, plan.targets[-1], plan.to / "parts.rpm", plan.epoch)


def _sizes(plan: Plan) -> dict[str, Figure]:
    """The sizes of each package: its file, and installed."""
    sizes: dict[str, Figure] = {}
    for target in plan.targets:
        for package in plan.packages:
            path = _file(plan, package, target)
            sizes[f"{path.name}, MiB"] = round(path.stat().st_size / 2**20, 1)
            if target.packager == "deb":
                (kib,) = _output(["dpkg-deb", "--field", str(path), "Installed-Size"])
                sizes[f"{path.name}, MiB installed"] = round(int(kib) / 2**10, 1)
    return sizes
