"""Pure functions: read a bundle of makers' CA certificates, and choose those of the makers that an operator names.

A bundle is a file or a folder as public collections publish them: PEM with any text between the blocks, or one
certificate in DER a file. Certificates are read as Fabric reads them, so the report says what Fabric will do. Fabric
judges each certificate again.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.hardware.pem_parts import FILE_BYTES_MAX, Block, blocks, text_of
from cloud.fabric.attestation.ek_makers import UNKNOWN, maker_of
from cloud.fabric.attestation.ek_roots import TrustError, is_root, read_new_ca
from protocol.encoding import sha256_hex
from protocol.maker_certificates import CertificateUnreadable, read_certificate

BUNDLE_FILES_MAX = 2048
"""Most files of a folder. The largest public collection has about 400."""
SUFFIXES = (".pem", ".crt", ".cer", ".der")
_LABELS = frozenset({"BEGIN CERTIFICATE", "BEGIN X509 CERTIFICATE"})

Role = Literal["root", "intermediate"]
Result = Literal["added", "known", "chosen"]


class Entry(msgspec.Struct, frozen=True):
    """A PEM block of a bundle: its file, its first line there (from 1), its bytes (DER), and what it is.

    `maker` is `UNKNOWN` for a certificate that cannot be read. `fault` says why Fabric cannot use it; empty if it can.
    """

    file: str
    block: Block
    der: bytes
    maker: str
    subject: str
    role: Role
    fault: str = ""

    @property
    def sha256(self) -> str:
        return sha256_hex(self.der)


class Taken(msgspec.Struct, frozen=True):
    """A CA certificate of a chosen maker that the tenant trusts now; in a dry run, that it would trust."""

    sha256: str
    subject: str
    maker: str
    role: Role
    result: Result


class NotTaken(msgspec.Struct, frozen=True):
    """A certificate of a chosen maker that cannot be used, with its place and the reason."""

    file: str
    line: int
    maker: str
    subject: str
    reason: str


class MakerCount(msgspec.Struct, frozen=True):
    """How many certificates of a maker a bundle has, and whether the maker was chosen."""

    maker: str
    roots: int
    intermediates: int
    unusable: int
    chosen: bool


class BundleReport(msgspec.Struct, frozen=True):
    """What was taken of a bundle, what was not, and why.

    `repeated` counts the blocks whose certificate the bundle has already. `dry_run`: nothing was sent.
    """

    files: int
    blocks: int
    repeated: int
    makers: tuple[MakerCount, ...]
    taken: tuple[Taken, ...]
    not_taken: tuple[NotTaken, ...]
    dry_run: bool = False


class Bundle(msgspec.Struct, frozen=True):
    """The certificates of a bundle, each once, in their order."""

    files: int
    blocks: int
    entries: tuple[Entry, ...]

    def chosen(self, makers: Sequence[str]) -> tuple[Entry, ...]:
        """The certificates of these makers; of every maker if `makers` is empty."""
        return tuple(entry for entry in self.entries if not makers or entry.maker in makers)

    def counts(self, makers: Sequence[str]) -> tuple[MakerCount, ...]:
        """The makers of the bundle, sorted by name."""
        found = []
        for maker in sorted({entry.maker for entry in self.entries}):
            of_maker = [entry for entry in self.entries if entry.maker == maker]
            usable = [entry.role for entry in of_maker if not entry.fault]
            found.append(
                MakerCount(
                    maker,
                    usable.count("root"),
                    usable.count("intermediate"),
                    len(of_maker) - len(usable),
                    not makers or maker in makers,
                )
            )
        return tuple(found)


def read_bundles(paths: Iterable[Path]) -> Bundle:
    """Read files and folders. Raises CliError if one cannot be read, or is too large, or has no certificate."""
    files = 0
    read: dict[bytes, Entry] = {}
    count = 0
    size = 0
    for path in paths:
        before = count
        for file in _files(path):
            files += 1
            raw = _content(file, FILE_BYTES_MAX - size)
            size += len(raw)
            for block in blocks(text_of(raw)):
                count += 1
                entry = _entry(str(file), block)
                # An unreadable block has its text as key: two of them are two findings.
                read.setdefault(entry.der or f"{file}:{block.line}".encode(), entry)
        if count == before:
            raise CliError(
                EXIT_USAGE,
                "file_unreadable",
                f"cannot use {path}: it contains no certificate",
                "Name a file with CA certificates in PEM or DER, or a folder of such files.",
            )
    return Bundle(files, count, tuple(read.values()))


def _files(path: Path) -> list[Path]:
    """The file, or the certificate files in a folder and below it, sorted. Raises CliError."""
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
    if len(found) > BUNDLE_FILES_MAX:
        raise CliError(
            EXIT_USAGE, "file_unreadable", f"cannot use {path}: it has more than {BUNDLE_FILES_MAX} certificate files"
        )
    return found


def _content(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except OSError as error:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot read {path}: {error.strerror}") from error
    if len(raw) > bytes_max:
        raise CliError(
            EXIT_USAGE,
            "file_unreadable",
            f"cannot use {path}: the files of the bundle have more than {FILE_BYTES_MAX} bytes",
            "Import the files in several commands.",
        )
    return raw


def _entry(file: str, block: Block) -> Entry:
    """What a block is. The reasons of faults are those of Fabric."""
    _, label, body, *_ = (*block.text.split("-----"), "", "")
    try:
        der = base64.b64decode("".join(body.split()), validate=True) if label in _LABELS else b""
    except binascii.Error:
        der = b""
    if not der:
        return Entry(file, block, b"", UNKNOWN, "", "intermediate", "the PEM block is damaged or is no certificate")
    try:
        certificate = read_certificate(der)
    except CertificateUnreadable as error:
        return Entry(file, block, der, UNKNOWN, "", "intermediate", f"it cannot be read: {error}")
    maker, subject = maker_of(certificate), certificate.subject_text
    role: Role = "intermediate"
    try:
        read_new_ca(der)
        if is_root(der):
            role = "root"
    except TrustError as error:
        return Entry(file, block, der, maker, subject, role, str(error))
    return Entry(file, block, der, maker, subject, role)
