"""Values, and their reader: the TOML file that describes one ceremony of the root's key.

The file names the documents to sign, the root, the input files and the output files. People can review the file before
the ceremony and keep it afterwards. `run.py` runs the ceremony. Rules: Each input that is not secret is named together
with the SHA-256 of its content. An unknown key in the file is an error that names the key. Paths are relative to the
file's folder. The file contains the name of a passphrase file, never a passphrase.
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
"""A root's CRL with 5,000 entries has 200 KB."""
REQUEST_BYTES_MAX = 2 * CSR_BYTES_MAX
"""PEM is a third longer than DER."""

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Authority = Annotated[str, msgspec.Meta(pattern="^(nodes|services)-[1-9][0-9]{0,5}$")]
RootAuthority = Annotated[str, msgspec.Meta(pattern="^root-[1-9][0-9]{0,5}$")]
TrustDomain = Annotated[str, msgspec.Meta(pattern="^[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?$")]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table in the file: unknown keys are refused."""


class Input(_Part, frozen=True):
    """An input file, and the SHA-256 (hex) that its content must have."""

    path: str
    sha256: Sha256


class Root(_Part, frozen=True):
    """The root that signs: its certificate, its encrypted key file, and the file with the key's passphrase."""

    authority: RootAuthority
    certificate: Input
    key: str
    passphrase_file: str


class OtherRoot(_Part, frozen=True):
    """The root that gets a cross-certificate."""

    authority: RootAuthority
    certificate: Input


class Revoked(_Part, frozen=True):
    """A revoked certificate of the root. `at` is the time of the revocation."""

    certificate: Input
    at: datetime
    reason: RevocationReason


class RootCeremony(_Part, frozen=True, tag_field="type", tag="root"):
    """Make a new root: a P-384 key, which is written encrypted, and a self-signed certificate."""

    authority: RootAuthority
    trust_domain: TrustDomain
    passphrase_file: str
    key: str
    certificate: str
    development: bool = False


class IntermediateCeremony(_Part, frozen=True, tag_field="type", tag="intermediate"):
    """Sign an issuing CA. `request` is a PKCS#10 request in PEM that the CA's host made.

    `crl_url` is the public address of the root's CRL. Without it the certificate names no CRL, and clients that check
    the revocation of CAs refuse all certificates below it.
    """

    authority: Authority
    trust_domain: TrustDomain
    root: Root
    request: Input
    certificate: str
    development: bool = False
    crl_url: str = ""


class CrossCeremony(_Part, frozen=True, tag_field="type", tag="cross-certificate"):
    """Sign a cross-certificate: the name and key of the root `subject`. `crl_url` is that of the root that signs."""

    root: Root
    subject: OtherRoot
    certificate: str
    crl_url: str = ""


class CrlCeremony(_Part, frozen=True, tag_field="type", tag="crl"):
    """Sign the root's CRL. `previous` is the CRL before it. The first CRL has `first = true` instead.

    `days` is how long the CRL is valid.
    """

    root: Root
    number: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    days: Annotated[int, msgspec.Meta(ge=1, le=400)]
    crl: str
    revoked: tuple[Revoked, ...] = ()
    previous: Input | None = None
    first: bool = False


Ceremony = RootCeremony | IntermediateCeremony | CrossCeremony | CrlCeremony


def read_ceremony(file: Path) -> tuple[Ceremony, bytes]:
    """Return the ceremony in a file, and the file's content.

    Raises:
        CeremonyError: the text names the file and the invalid key.
    """
    content = read_bounded(file, CEREMONY_BYTES_MAX)
    try:
        ceremony = msgspec.toml.decode(content, type=Ceremony, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CeremonyError(f"cannot use {file}: {error}") from error
    if isinstance(ceremony, CrlCeremony):
        if (ceremony.previous is None) is not ceremony.first:
            raise CeremonyError(f"cannot use {file}: give the CRL before this one as `previous`, or `first = true`")
        if any(revoked.at.tzinfo is None for revoked in ceremony.revoked):
            raise CeremonyError(f"cannot use {file}: an `at` has no time zone")
    return ceremony, content


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """Read a whole file of at most `bytes_max` bytes. Raises CeremonyError."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise CeremonyError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > bytes_max:
        raise CeremonyError(f"cannot use {path}: it is larger than {bytes_max} bytes")
    return content
