"""Real part: what a deb and an rpm install, compared file by file."""

import fnmatch
import io
import stat
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tools.packages.errors import PackageError
from tools.packages.root import run

ONLY_DEB = {
    "/usr/share/doc/*/copyright": "Debian's place for licences",
    "/usr/share/doc/*/changelog.Debian.gz": "Debian's form of the changelog",
    "/etc/needrestart/conf.d/*": "needrestart is Debian's",
    "/usr/share/apparmor/extra-profiles/*": "Enterprise Linux has SELinux instead of AppArmor",
    "/usr/share/lintian/overrides/*": "rpmlint reads no overrides from a package",
}
ONLY_RPM = {
    "/usr/share/licenses/*/copyright": "Enterprise Linux's place for licences",
    "/usr/share/doc/*/CHANGELOG.md": "rpm has no compressed changelog",
}
"""The named differences: pattern -> reason."""


@dataclass(frozen=True)
class Entry:
    """What is installed at a path: mode, owner, and the digest (file) or target (link) of its content."""

    mode: int
    owner: str
    content: str


Tree = Mapping[str, Entry]


def of_deb(path: Path) -> Tree:
    """What a deb installs. Folders that it shares with other packages are left out. Raises PackageError."""
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=False)
    if done.returncode != 0:
        raise PackageError(f"cannot read {path}: {done.stderr.decode()}")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for each in archive:
            name = "/" + each.name.removeprefix("./").strip("/")
            if each.isdir():
                found[name] = Entry(stat.S_IFDIR | each.mode, f"{each.uname}:{each.gname}", "")
            elif each.issym():
                found[name] = Entry(stat.S_IFLNK | 0o777, f"{each.uname}:{each.gname}", each.linkname)
            else:
                content = archive.extractfile(each)
                digest = sha256(content.read() if content else b"").hexdigest()
                found[name] = Entry(stat.S_IFREG | each.mode, f"{each.uname}:{each.gname}", digest)
    return found


def of_rpm(path: Path) -> Tree:
    """What an rpm installs. Raises PackageError."""
    fields = ("NAMES", "MODES", "USERNAME", "GROUPNAME", "DIGESTS", "LINKTOS")
    text = run(
        ["rpm", "-qp", "--nosignature", "--qf", f"[{'|'.join(f'%{{FILE{each}}}' for each in fields)}\n]", str(path)]
    )
    found = {}
    for line in text.splitlines():
        name, mode, user, group, digest, link = line.split("|")
        kind = int(mode) & 0xFFFF
        found[name] = Entry(kind if not stat.S_ISLNK(kind) else stat.S_IFLNK | 0o777, f"{user}:{group}", digest or link)
    return found


def differences(deb: Tree, rpm: Tree) -> list[str]:
    """Each difference that is not named. A folder that one side only implies is none."""
    found = []
    for name in sorted(deb.keys() | rpm.keys()):
        one, other = deb.get(name), rpm.get(name)
        if one == other or _named(name, one, other):
            continue
        found.append(f"{name}: deb {one}, rpm {other}")
    return found


def _named(name: str, deb: Entry | None, rpm: Entry | None) -> bool:
    if deb and rpm:
        return False
    present = deb or rpm
    if present and stat.S_ISDIR(present.mode):
        return True
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (ONLY_DEB if deb else ONLY_RPM))
