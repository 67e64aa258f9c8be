"""Adapter: write the folder of the ceremony that signs a root's next CRL, on the issuer's host.

The folder has the ceremony file and the inputs that it names: the root's certificate, the published CRL, and each CA
certificate that is tainted or revoked and that the CRL lacks. The ceremony runs on the machine with the root's key.
"""

from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.admin import Admin
from cloud.breakwater.revocation.root_crls import ROOT_CRL_LIFE
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.pki.rotate import NOT_NEEDED
from cloud.crypto.issued import is_issued_by
from protocol.encoding import sha256_hex

CEREMONY_FILE = "ceremony.toml"
_UNLISTED = ("tainted", "revoked")
"""States in which the CRL of the root has to name a CA."""


class PreparedCeremony(msgspec.Struct, frozen=True):
    """A ceremony that signs a root's next CRL. `revokes` has the CAs that the published CRL lacks."""

    file: str
    authority: str
    number: int
    revokes: tuple[str, ...]


async def prepare(admin: Admin, root: str, folder: Path) -> PreparedCeremony:
    """Write the ceremony of the next CRL of `root` into a new folder. Raises CliError."""
    rows = {row.id: row for row in admin.parts.authorities.rows()}
    if root not in rows or rows[root].ca != "root":
        raise CliError(EXIT_USAGE, "root_unknown", f"cannot prepare the ceremony: this installation has no root {root}")
    certificate = x509.load_der_x509_certificate(rows[root].certificate)
    before = await admin.parts.root_crls.newest(root)
    crl = x509.load_der_x509_crl(before.data) if before is not None else None
    number = before.number + 1 if before is not None else 1
    named = _unlisted(tuple(rows.values()), certificate, crl)
    inputs = {f"{root}.pem": certificate.public_bytes(Encoding.PEM)}
    if crl is not None:
        inputs[f"{root}.{number - 1}.crl.pem"] = crl.public_bytes(Encoding.PEM)
    for row in named:
        inputs[f"{row.id}.pem"] = x509.load_der_x509_certificate(row.certificate).public_bytes(Encoding.PEM)
    days = min(ROOT_CRL_LIFE.days, (certificate.not_valid_after_utc - admin.now()).days)
    if days < 1:
        raise CliError(EXIT_USAGE, "root_ended", f"cannot prepare the ceremony: {root} ends within a day")
    text = _text(root, number, days, inputs, named)
    _write(folder, {**inputs, CEREMONY_FILE: text.encode()})
    return PreparedCeremony(str(folder / CEREMONY_FILE), root, number, tuple(row.id for row in named))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a new folder. Raises CliError."""
    try:
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise CliError(
            EXIT_USAGE,
            "folder_unusable",
            f"cannot write the ceremony into {folder}: {error.strerror}",
            "Name a new folder.",
        ) from error


def _unlisted(
    rows: tuple[AuthorityRow, ...], root: x509.Certificate, crl: x509.CertificateRevocationList | None
) -> list[AuthorityRow]:
    """Return the tainted and revoked CAs of a root that its CRL lacks."""
    listed = {entry.serial_number for entry in crl or ()}
    found = []
    for row in rows:
        certificate = x509.load_der_x509_certificate(row.certificate)
        if (
            row.ca != "root"
            and row.state in _UNLISTED
            and is_issued_by(certificate, root)
            and certificate.serial_number not in listed
        ):
            found.append(row)
    return found


def _text(root: str, number: int, days: int, inputs: dict[str, bytes], named: list[AuthorityRow]) -> str:
    """Return the ceremony file."""

    def input_of(name: str) -> str:
        return f'{{ path = "{name}", sha256 = "{sha256_hex(inputs[name])}" }}'

    previous = f"{root}.{number - 1}.crl.pem"
    lines = [
        f"# Signs the CRL {number} of {root}. It keeps every entry of the CRL before it.",
        'type = "crl"',
        f"number = {number}",
        f"days = {days}",
        f'crl = "{root}.{number}.crl.pem"',
        f"previous = {input_of(previous)}" if previous in inputs else "first = true",
        "",
        "[root]",
        f'authority = "{root}"',
        f"certificate = {input_of(f'{root}.pem')}",
        "# Paths on the machine with the root's key.",
        f'key = "{root}.key.pem"',
        'passphrase_file = "passphrase"',
    ]
    for row in named:
        lines += [
            "",
            # The text of an operator may have lines. A comment has one.
            f"# {row.id} is {row.state}: {row.reason!a}. Check the date and the reason.",
            "[[revoked]]",
            f"certificate = {input_of(f'{row.id}.pem')}",
            f"at = {_time(row.changed_at)}",
            f'reason = "{_suggested(row)}"',
        ]
    return "\n".join([*lines, ""])


def _suggested(row: AuthorityRow) -> str:
    """Return the reason that the ceremony file suggests. Only a planned rotation taints a CA without a stated reason."""
    return "superseded" if row.state == "revoked" or row.reason == NOT_NEEDED else "cACompromise"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
