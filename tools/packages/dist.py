"""Real part: the folder of the result: packages, SBOMs, checksums, signatures, and the apt repository."""

import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from tools.packages import repository, sbom
from tools.packages.build import Built, Plan
from tools.packages.errors import PackageError
from tools.packages.signing import Signer

SUMS = "SHA256SUMS"
KEY = "cascade-archive-keyring.asc"
THROWAWAY_KEY = "THROWAWAY-cascade-archive-keyring.asc"


def check_replaceable(folder: Path) -> None:
    """Raise PackageError if a folder has files that are not those of an earlier result."""
    if folder.exists() and any(folder.iterdir()) and not (folder / SUMS).exists():
        raise PackageError(f"cannot build into {folder}: it has files and no {SUMS}. Name an empty folder with --to.")


def replace(folder: Path, new: Path) -> None:
    """Put a new result in the place of an earlier one. Raises PackageError."""
    check_replaceable(folder)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def finish(plan: Plan, built: Sequence[Built], signer: Signer | None) -> None:
    """Write what belongs to the packages of a build. Raises PackageError."""
    for each in built:
        if signer and each.target.packager == "rpm":
            signer.into_rpm(each.path)
        version = f"{plan.version}-{each.target.revision}"
        text = sbom.document(
            each.path.name, _digest(each.path), each.package.name, version, plan.epoch, each.libraries, each.licences
        )
        each.path.with_name(f"{each.path.name}.cdx.json").write_bytes(text)
    debs: dict[str, list[Path]] = {}
    for each in built:
        if each.target.packager == "deb":
            debs.setdefault(each.target.suite, []).append(each.path)
    repository.write(plan.to / "repo", debs, signer, plan.epoch)
    if signer:
        signer.public(plan.to / (THROWAWAY_KEY if signer.throwaway else KEY))
    files = sorted(path for path in plan.to.iterdir() if path.is_file())
    sums = plan.to / SUMS
    sums.write_text("".join(f"{_digest(path)}  {path.name}\n" for path in files), "utf-8")
    if signer:
        for path in [sums, *(each.path for each in built)]:
            signer.detached(path)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 (hex) of each file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
