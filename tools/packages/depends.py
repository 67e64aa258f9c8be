"""Real part: what the compiled modules of a package need from the system, exactly.

A deb depends on packages, in the versions that `dpkg-shlibdeps` finds in the root. An rpm depends on the names of
shared libraries, because rpm's packages provide those.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from tools.packages.errors import PackageError
from tools.packages.root import Root
from tools.packages.targets import Package, Target

_SHLIBDEPS = """
mkdir -p debian
printf 'Source: cascade\\n\\nPackage: cascade\\nArchitecture: any\\n' >debian/control
mkdir -p stage/DEBIAN
dpkg-shlibdeps -O --warnings=1 -Sstage $(find stage -name '*.so' -printf '-e%p ') 2>shlibdeps.log || {
    cat shlibdeps.log >&2; exit 1; }
rmdir stage/DEBIAN
rm -r debian
"""
_DYNAMIC = "find stage -name '*.so*' -exec objdump -p -T {} +"
_GLIBC = re.compile(r"\bGLIBC_(\d+)\.(\d+)")


def modules(stage: Path) -> list[Path]:
    """The compiled modules and bundled libraries of a tree."""
    return sorted(path for path in stage.rglob("*") if re.search(r"\.so(\.|$)", path.name))


def of_deb(work: Path, package: Package, root: Root, epoch: int) -> list[str]:
    """The dependencies of a deb whose tree is `work`/stage. Raises PackageError."""
    linked = root.run(work, _SHLIBDEPS, epoch).strip().removeprefix("shlibs:Depends=")
    found = set(linked.split(", ")) if linked else set()
    for name in package.opened:
        owner = root.run(work, f"dpkg-query --search '*/{name}'", epoch).partition(":")[0]
        if not any(each.split()[0] == owner for each in found):
            found.add(owner)
    return sorted(found)


def of_rpm(work: Path, package: Package, target: Target, root: Root, epoch: int) -> list[str]:
    """The dependencies of an rpm whose tree is `work`/stage. Raises PackageError."""
    dump = root.run(work, _DYNAMIC, epoch)
    own = {path.name for path in modules(work / "stage")}
    needed = {name for name in re.findall(r"(?m)^\s+NEEDED\s+(\S+)", dump) if name not in own}
    glibc = newest_glibc(dump)
    if target.glibc_max and glibc > target.glibc_max:
        raise PackageError(
            f"cannot build for {target.name}: a compiled module needs GLIBC_{glibc[0]}.{glibc[1]}, and "
            f"{target.name} has {target.glibc_max[0]}.{target.glibc_max[1]}. Lock a release with an older wheel."
        )
    names = {*needed, *package.opened} - _GLIBC_PARTS
    libraries = sorted(f"{name}()(64bit)" for name in names)
    return [f"libc.so.6(GLIBC_{glibc[0]}.{glibc[1]})(64bit)", *libraries]


_GLIBC_PARTS = frozenset(
    {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2"}
)
"""Libraries of the C library, which the dependency on its version includes."""


def newest_glibc(lines: str | Iterable[str]) -> tuple[int, int]:
    """The newest version of the C library in the output of `objdump -p -T`. (0, 0) if it names none."""
    text = lines if isinstance(lines, str) else "\n".join(lines)
    return max(((int(major), int(minor)) for major, minor in _GLIBC.findall(text)), default=(0, 0))
