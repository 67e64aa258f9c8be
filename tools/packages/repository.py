"""Real part: an apt repository in a folder, with its metadata signed.

    repo/pool/main/c/cascadia/cascadia_0.1.0-1~deb12_amd64.deb
    repo/dists/bookworm/InRelease
    repo/dists/bookworm/main/binary-amd64/Packages.xz, and by-hash/SHA256/...

A client finds each index by its hash, so a client that reads while a new state is uploaded gets a whole old state.
"""

import gzip
import lzma
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from tools.packages.root import run
from tools.packages.signing import Signer
from tools.packages.targets import DEBIAN_ARCHITECTURE

COMPONENT = "main"
_INDEX = f"{COMPONENT}/binary-{DEBIAN_ARCHITECTURE}/Packages"


def stanza(control: str, path: str, content: bytes) -> str:
    """The entry of a package in an index: its control file, its path in the repository, its size and digest."""
    return f"{control.rstrip()}\nFilename: {path}\nSize: {len(content)}\nSHA256: {sha256(content).hexdigest()}\n"


def release(suite: str, epoch: int, files: Mapping[str, bytes], *, label: str) -> str:
    """The text of a Release file: what the repository is, and each index with its digest and size."""
    date = datetime.fromtimestamp(epoch, UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")
    head = {
        "Origin": "Cascade",
        "Label": label,
        "Suite": suite,
        "Codename": suite,
        "Date": date,
        "Acquire-By-Hash": "yes",
        "Architectures": DEBIAN_ARCHITECTURE,
        "Components": COMPONENT,
        "Description": f"Packages of Cascade for Debian {suite}",
    }
    lines = [f"{name}: {value}" for name, value in head.items()]
    digests = [f" {sha256(files[path]).hexdigest()} {len(files[path])} {path}" for path in sorted(files)]
    return "\n".join([*lines, "SHA256:", *digests, ""])


def write(to: Path, packages: Mapping[str, Sequence[Path]], signer: Signer | None, epoch: int) -> None:
    """Write the repository into an empty folder. `packages` has the debs of each suite. Raises PackageError."""
    for suite, debs in sorted(packages.items()):
        dists = to / "dists" / suite
        files = _indexes(_index(to, sorted(debs)))
        for path, content in files.items():
            for place in (dists / path, dists / Path(path).parent / "by-hash/SHA256" / sha256(content).hexdigest()):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
        label = "Cascade, signed by a THROWAWAY key" if signer and signer.throwaway else "Cascade"
        (dists / "Release").write_text(release(suite, epoch, files, label=label), "utf-8")
        if signer:
            signer.clear(dists / "Release", dists / "InRelease")
            signer.detached(dists / "Release").rename(dists / "Release.gpg")


def _index(to: Path, debs: Iterable[Path]) -> bytes:
    entries = []
    for deb in debs:
        name = deb.name.partition("_")[0]
        path = f"pool/{COMPONENT}/{name[0]}/{name}/{deb.name}"
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(deb, to / path)
        entries.append(stanza(run(["dpkg-deb", "--field", str(deb)]), path, deb.read_bytes()))
    return "\n".join(entries).encode()


def _indexes(index: bytes) -> dict[str, bytes]:
    return {
        _INDEX: index,
        f"{_INDEX}.gz": gzip.compress(index, compresslevel=9, mtime=0),
        f"{_INDEX}.xz": lzma.compress(index),
    }
