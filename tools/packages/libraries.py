"""Real part: the locked libraries, installed by hash in the root of a target, and kept.

They are kept under the digest of the root and of the locks. All packages of a root share one installation. Only
tpm2-pytss is compiled, without debug information: it would hold the paths of temporary folders. Every module is stripped.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from tools.packages import lock
from tools.packages.root import Root

_INSTALL = """
python3 -m venv tools
tools/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary :all: -r build.lock
export CFLAGS=-g0 PKG_CONFIG_PATH=/build/pkgconfig
tools/bin/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation --only-binary :all: \
    --no-binary tpm2-pytss --no-compile --target lib --report report.json -r libraries.lock
find lib -name '*.so' -exec strip --strip-unneeded {} +
rm -rf tools pkgconfig
"""


@dataclass(frozen=True)
class Library:
    """An installed library: its metadata, and the SHA-256 (hex) of the file that it came from."""

    name: str
    installed: Distribution
    sha256: str

    def files(self) -> Iterator[tuple[Path, str]]:
        """Each file: where it is, and its path below the folder of libraries. Programs are left out."""
        for file in self.installed.files or ():
            if ".." not in file.parts and file.parts[0] != "bin":
                yield Path(str(self.installed.locate_file(file))), file.as_posix()


def installed(root: Root, names: set[str], repository: Path, cache: Path, epoch: int) -> dict[str, Library]:
    """The libraries by name. They are installed in the root, unless they are kept. Raises PackageError."""
    locked = lock.part((repository / "requirements.lock").read_text("utf-8"), names)
    build = (repository / "requirements-build.lock").read_text("utf-8")
    hiding = repository / "tools/pkgconfig"
    hidden = "".join(path.read_text("utf-8") for path in sorted(hiding.glob("*.pc")))
    digest = hashlib.sha256(f"{root.digest}\0{_INSTALL}\0{hidden}\0{build}\0{locked}".encode()).hexdigest()[:16]
    home = cache / "libraries" / f"{root.path.name.partition('-')[0]}-{digest}"
    if not home.exists():
        root.make()
        attempt = home.with_name(f"{home.name}.new")
        shutil.rmtree(attempt, ignore_errors=True)
        attempt.mkdir(parents=True)
        shutil.copytree(hiding, attempt / "pkgconfig")
        (attempt / "build.lock").write_text(build, "utf-8")
        (attempt / "libraries.lock").write_text(locked, "utf-8")
        root.run(attempt, _INSTALL, epoch)
        attempt.rename(home)
    report = json.loads((home / "report.json").read_text("utf-8"))
    digests = {lock.canonical(each["metadata"]["name"]): _sha256(each) for each in report["install"]}
    found = {
        lock.canonical(path.name.partition("-")[0]): Distribution.at(path)
        for path in (home / "lib").glob("*.dist-info")
    }
    return {name: Library(name, found[name], digests[name]) for name in sorted(names)}


def _sha256(entry: dict[str, Any]) -> str:
    """The SHA-256 in an entry of pip's report. Older releases of pip write `hash`, newer ones `hashes`."""
    archive = entry["download_info"]["archive_info"]
    return str(archive.get("hashes", {}).get("sha256") or archive["hash"].removeprefix("sha256="))
