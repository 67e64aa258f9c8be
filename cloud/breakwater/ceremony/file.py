"""Pure values and their reader: the TOML file that describes one ceremony of the root's key.

The file says everything: what is signed, by which root, from which inputs, into which files. So it can be reviewed
before the ceremony and kept after it. `run.py` holds the ceremony. Rules: an input that is not secret is named with the
SHA-256 of its content; an unknown key of the file is refused by its name. Paths are relative to the file's folder. A
passphrase never stands in the file, only the name of the file that has it.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from cloud.breakwater.errors import CeremonyError
from cloud.contracts.breakwater import RevocationReason
from protocol.limits import CSR_BYTES_MAX

CEREMONY_BYTES_MAX = 64 * 1024
INPUT_BYTES_MAX = 4 * 1024 * 1024
"""A root's list of 5,000 entries has 200 KB."""
REQUEST_BYTES_MAX = 2 * CSR_BYTES_MAX
"""In PEM a third longer."""

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Authority = Annotated[str, msgspec.Meta(pattern="^(nodes|services)-[1-9][0-9]{0,5}$")]
RootAuthority = Annotated[str, msgspec.Meta(pattern="^root-[1-9][0-9]{0,5}$")]
TrustDomain = Annotated[str, msgspec.Meta(pattern="^[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?$")]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file."""


class Input(_Part, frozen=True):
    """A file that is read, and what its content hashes to."""

    path: str
    sha256: Sha256


class Root(_Part, frozen=True):
    """The root that signs: its certificate, and its key, encrypted under the passphrase in a file of its own."""

    authority: RootAuthority
    certificate: Input
    key: str
    passphrase_file: str


class OtherRoot(_Part, frozen=True):
    """A root that is cross-signed."""

    authority: RootAuthority
    certificate: Input


class Revoked(_Part, frozen=True):
    """A certificate that the root signed and that does not count any more."""

    certificate: Input
    at: datetime
    reason: RevocationReason


class RootCeremony(_Part, frozen=True, tag_field="type", tag="root"):
    """A new root: its key is made here (P-384), encrypted, and its certificate."""

    authority: RootAuthority
    trust_domain: TrustDomain
    passphrase_file: str
    key: str
    certificate: str
    development: bool = False


class IntermediateCeremony(_Part, frozen=True, tag_field="type", tag="intermediate"):
    """An issuing CA, for the key in a request (PKCS#10, PEM) that its host made."""

    authority: Authority
    trust_domain: TrustDomain
    root: Root
    request: Input
    certificate: str
    development: bool = False


class CrossCeremony(_Part, frozen=True, tag_field="type", tag="cross-certificate"):
    """Another root's name and key, signed by this root."""

    root: Root
    subject: OtherRoot
    certificate: str


class CrlCeremony(_Part, frozen=True, tag_field="type", tag="crl"):
    """The root's list of revoked CAs. `previous` is the list before; the first has none, and says so with `first`."""

    root: Root
    number: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    days: Annotated[int, msgspec.Meta(ge=1, le=400)]
    crl: str
    revoked: tuple[Revoked, ...] = ()
    previous: Input | None = None
    first: bool = False


Ceremony = RootCeremony | IntermediateCeremony | CrossCeremony | CrlCeremony


def read_ceremony(file: Path) -> tuple[Ceremony, bytes]:
    """The ceremony in a file, and its content. Raises CeremonyError naming the file and the key that is wrong."""
    content = read_bounded(file, CEREMONY_BYTES_MAX)
    try:
        ceremony = msgspec.toml.decode(content, type=Ceremony, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CeremonyError(f"cannot use {file}: {error}") from error
    if isinstance(ceremony, CrlCeremony):
        if (ceremony.previous is None) is not ceremony.first:
            raise CeremonyError(f"cannot use {file}: name the list before as `previous`, or say `first = true`")
        if any(revoked.at.tzinfo is None for revoked in ceremony.revoked):
            raise CeremonyError(f"cannot use {file}: an `at` has no time zone")
    return ceremony, content


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """A whole file. Raises CeremonyError."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise CeremonyError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > bytes_max:
        raise CeremonyError(f"cannot use {path}: it is larger than {bytes_max} bytes")
    return content
