"""Use case: run a ceremony. It reads the files that the ceremony file names, signs, checks, and then writes.

It uses no network and no database. A dry run signs with a temporary key instead of the root's key and writes nothing,
so people can try a ceremony file on a machine without the root's key. Rules: All checks pass before any file is
written. An existing output file is never replaced. An output file appears complete or not at all. After an error, the
output files that had appeared are removed.
"""

import base64
import binascii
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.breakwater.ceremony.file import (
    INPUT_BYTES_MAX,
    REQUEST_BYTES_MAX,
    Ceremony,
    CrlCeremony,
    CrossCeremony,
    Input,
    IntermediateCeremony,
    OtherRoot,
    Revoked,
    Root,
    RootCeremony,
    read_bounded,
    read_ceremony,
)
from cloud.breakwater.ceremony.signing import (
    CaIdentity,
    make_cross,
    make_issuing,
    make_root,
    make_root_crl,
    require_room,
)
from cloud.breakwater.errors import CeremonyError
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import DEVELOPMENT_MARK, issuer_of
from cloud.breakwater.pkix.crl import Entry
from cloud.breakwater.pkix.csr import describe_key, open_csr
from cloud.breakwater.pkix.profiles import SERIAL_BYTES, CaName, Issuer, make_serial
from cloud.contracts.breakwater import REASON_NAMES, REASON_NUMBERS
from cloud.crypto.issued import is_issued_by
from cloud.crypto.keyfile import read_key, read_passphrase, secret_path, sync_directory, write_key, write_secret
from protocol.encoding import sha256_hex

CA_CURVES = ("secp256r1", "secp384r1")
RECORD_SUFFIX = ".ceremony.json"
_PEM_REQUEST = re.compile(
    rb"-----BEGIN (NEW )?CERTIFICATE REQUEST-----\s+([A-Za-z0-9+/=\s]+)-----END (NEW )?CERTIFICATE REQUEST-----\s*"
)


class FileHash(msgspec.Struct, frozen=True):
    """A file: its path as written in the ceremony file, and the SHA-256 of its content in hex."""

    path: str
    sha256: str


class CeremonyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a ceremony or of a dry run.

    `signs` describes each signed document for people, in order, as (label, value) pairs. `key` says whether the root's
    key was opened; a dry run works without the key. In a dry run the hashes of the outputs are empty, because its
    documents are signed with a temporary key and discarded. `record` is the name of the file that keeps this record.
    """

    type: str
    dry_run: bool
    at: datetime
    key: str
    signs: tuple[tuple[str, str], ...]
    inputs: tuple[FileHash, ...]
    outputs: tuple[FileHash, ...]
    record: str


class _Output(msgspec.Struct, frozen=True):
    name: str
    content: bytes
    key: ec.EllipticCurvePrivateKey | None = None
    passphrase: bytes = b""


async def hold(file: Path, now: datetime, entropy: Callable[[int], bytes], dry_run: bool) -> CeremonyRecord:
    """Run the ceremony that `file` describes, at the time `now`.

    Raises:
        CeremonyError, CsrRefused, LintError, SignerError, KeyFileError: no output was written.
    """
    ceremony, content = read_ceremony(file)
    return await CeremonyRun(file, content, now, entropy, dry_run).run(ceremony)


class CeremonyRun:
    """One run of a ceremony. It collects the hashes of its inputs and the descriptions of its signatures."""

    def __init__(
        self, file: Path, content: bytes, now: datetime, entropy: Callable[[int], bytes], dry_run: bool
    ) -> None:
        self._folder = file.parent
        self._now = now.astimezone(UTC).replace(microsecond=0)
        self._entropy = entropy
        self._dry_run = dry_run
        self._inputs = [FileHash(file.name, sha256_hex(content))]
        self._key = "made here"
        self._signs: list[tuple[str, str]] = []

    async def run(self, ceremony: Ceremony) -> CeremonyRecord:
        outputs = await self._outputs(ceremony)
        record = CeremonyRecord(
            type=str(ceremony.__struct_config__.tag),
            dry_run=self._dry_run,
            at=self._now,
            key=self._key,
            signs=tuple(self._signs),
            inputs=tuple(self._inputs),
            outputs=tuple(FileHash(output.name, _hash(output, self._dry_run)) for output in outputs),
            record=outputs[-1].name + RECORD_SUFFIX,
        )
        if self._dry_run:
            return record
        return self._write(outputs, record)

    async def _outputs(self, ceremony: Ceremony) -> list[_Output]:
        match ceremony:
            case RootCeremony():
                self._require_new(ceremony.certificate, ceremony.key)
                return await self._root(ceremony)
            case IntermediateCeremony():
                self._require_new(ceremony.certificate)
                return await self._intermediate(ceremony)
            case CrossCeremony():
                self._require_new(ceremony.certificate)
                return await self._cross(ceremony)
            case CrlCeremony():
                self._require_new(ceremony.crl)
                return await self._crl(ceremony)

    def _require_new(self, *names: str) -> None:
        """Refuse an output that exists, whose folder is missing, or that is named twice."""
        for name in (*names, names[0] + RECORD_SUFFIX):
            path = self._folder / name
            if os.path.lexists(path):
                raise CeremonyError(f"cannot write {path}: the file exists, and a ceremony replaces no file")
            if not path.parent.is_dir():
                raise CeremonyError(f"cannot write {path}: there is no such folder")
        if len(set(names)) != len(names):
            raise CeremonyError("cannot write two outputs into the same file")

    async def _root(self, ceremony: RootCeremony) -> list[_Output]:
        identity = _identity(ceremony.authority, ceremony.trust_domain, ceremony.development)
        passphrase = read_passphrase(secret_path(ceremony.passphrase_file, self._folder))
        key = ec.generate_private_key(ec.SECP384R1())
        root = await make_root(identity, LocalKey(key), self._serial(), self._now)
        self._report_certificate("root certificate, self-signed", root.certificate_der)
        return [_Output(ceremony.key, b"", key, passphrase), _Output(ceremony.certificate, _pem(root.certificate_der))]

    async def _intermediate(self, ceremony: IntermediateCeremony) -> list[_Output]:
        identity = _identity(ceremony.authority, ceremony.trust_domain, ceremony.development)
        root, key = self._open_root(ceremony.root)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)])
        pem = self._read(ceremony.request, REQUEST_BYTES_MAX)
        requested = open_csr(_request_der(pem, ceremony.request.path), CA_CURVES, subject=subject)
        if requested.key_id == self._true_root(ceremony.root).key_id:
            raise CeremonyError(f"cannot use {ceremony.request.path}: the request is for the root's key")
        issuing = await make_issuing(identity, requested, root, key, self._serial(), self._now, ceremony.crl_url)
        self._report_certificate(f"issuing CA {identity.authority}, by {root.authority}", issuing.certificate_der)
        return [_Output(ceremony.certificate, _pem(issuing.certificate_der))]

    async def _cross(self, ceremony: CrossCeremony) -> list[_Output]:
        require_room(self._true_root(ceremony.root))
        root, key = self._open_root(ceremony.root)
        subject, _ = self._read_root(ceremony.subject)
        der = await make_cross(subject, root, key, self._serial(), self._now, ceremony.crl_url)
        self._report_certificate(f"cross-certificate of {subject.authority}, by {root.authority}", der)
        return [_Output(ceremony.certificate, _pem(der))]

    async def _crl(self, ceremony: CrlCeremony) -> list[_Output]:
        root, key = self._open_root(ceremony.root)
        signed_by = x509.load_der_x509_certificate(self._true_root(ceremony.root).certificate_der)
        entries = [self._entry(revoked, signed_by) for revoked in ceremony.revoked]
        if len({entry.serial for entry in entries}) != len(entries):
            raise CeremonyError("cannot make the CRL: a certificate appears twice in `revoked`")
        if ceremony.previous is not None:
            entries += self._kept(ceremony, ceremony.previous, entries, signed_by)
        life = timedelta(days=ceremony.days)
        der = await make_root_crl(ceremony.number, entries, root, key, self._now, life)
        self._signs.append((f"revocation list {ceremony.number} of {root.authority}", f"{len(entries)} entries"))
        self._signs.append(("  this update, next update", f"{_time(self._now)}, {_time(self._now + life)}"))
        crl = x509.load_der_x509_crl(der)
        return [_Output(ceremony.crl, crl.public_bytes(serialization.Encoding.PEM))]

    def _entry(self, revoked: Revoked, root: x509.Certificate) -> Entry:
        certificate = self._read_certificate(revoked.certificate)
        if not is_issued_by(certificate, root):
            raise CeremonyError(f"cannot revoke {revoked.certificate.path}: this root did not sign it")
        if certificate.subject == root.subject:
            raise CeremonyError(f"cannot revoke {revoked.certificate.path}: it has the root's own name")
        at = revoked.at.astimezone(UTC).replace(microsecond=0)
        if not certificate.not_valid_before_utc <= at <= self._now:
            raise CeremonyError(
                f"cannot revoke {revoked.certificate.path} from {_time(at)}: before its notBefore, or in the future"
            )
        self._signs.append((f"revokes {_common_name(certificate)}", f"{certificate.serial_number:x} {revoked.reason}"))
        return Entry(certificate.serial_number, at, REASON_NUMBERS[revoked.reason])

    def _kept(self, ceremony: CrlCeremony, before: Input, entries: list[Entry], root: x509.Certificate) -> list[Entry]:
        """Return the entries of the previous CRL that `entries` lacks. A revocation by a root is permanent.

        Raises CeremonyError if the previous CRL is not of this root, has this number or a higher one, or begins later.
        """
        pem = self._read(before, INPUT_BYTES_MAX)
        try:
            crl = x509.load_pem_x509_crl(pem)
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            public_key = root.public_key()
            own = isinstance(public_key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(public_key)
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise CeremonyError(f"cannot use {before.path}: not a CRL in PEM") from error
        if not own:
            raise CeremonyError(f"cannot use {before.path}: not a CRL of this root")
        if ceremony.number <= number:
            raise CeremonyError(f"cannot make CRL {ceremony.number}: the CRL before it has the number {number}")
        if crl.last_update_utc > self._now:
            raise CeremonyError(f"cannot make the CRL: {before.path} begins after now; check the clock")
        named = {entry.serial for entry in entries}
        kept = [_entry_of(entry) for entry in crl if entry.serial_number not in named]
        self._signs += [
            (f"keeps from {before.path}", f"{entry.serial:x} {REASON_NAMES[entry.reason]}") for entry in kept
        ]
        return kept

    def _open_root(self, described: Root) -> tuple[Issuer, LocalKey]:
        """Return the root and its key; in a dry run, the root with a temporary key instead."""
        root = self._true_root(described)
        path = self._folder / described.key
        if self._dry_run and not path.exists():
            self._key = "not available, not opened"
        else:
            key = read_key(path, read_passphrase(secret_path(described.passphrase_file, self._folder)))
            own = x509.load_der_x509_certificate(root.certificate_der).public_key()
            if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != own:
                raise CeremonyError(f"cannot use {path}: it is not the key of {described.certificate.path}")
            self._key = "opened, belongs to the root's certificate"
            if not self._dry_run:
                return root, LocalKey(key)
        scratch = ec.generate_private_key(ec.SECP256R1() if root.curve == "secp256r1" else ec.SECP384R1())
        key_id = describe_key(scratch.public_key()).key_id
        return msgspec.structs.replace(root, key_id=key_id, certificate_der=b""), LocalKey(scratch)

    def _true_root(self, described: Root) -> Issuer:
        root, certificate = self._read_root(OtherRoot(authority=described.authority, certificate=described.certificate))
        if not certificate.not_valid_before_utc <= self._now < certificate.not_valid_after_utc:
            raise CeremonyError(f"cannot use {described.certificate.path}: not valid at {_time(self._now)}")
        return root

    def _read_root(self, described: OtherRoot) -> tuple[Issuer, x509.Certificate]:
        certificate = self._read_certificate(described.certificate)
        if not is_issued_by(certificate, certificate):
            raise CeremonyError(f"cannot use {described.certificate.path}: not a self-signed root")
        return issuer_of("root", described.authority, certificate), certificate

    def _read_certificate(self, described: Input) -> x509.Certificate:
        try:
            (certificate,) = x509.load_pem_x509_certificates(self._read(described, INPUT_BYTES_MAX))
        except ValueError as error:
            raise CeremonyError(f"cannot use {described.path}: not exactly one certificate in PEM") from error
        return certificate

    def _read(self, described: Input, bytes_max: int) -> bytes:
        content = read_bounded(self._folder / described.path, bytes_max)
        found = sha256_hex(content)
        if found != described.sha256:
            raise CeremonyError(f"cannot use {described.path}: its SHA-256 is {found}, not {described.sha256}")
        if (entry := FileHash(described.path, found)) not in self._inputs:
            self._inputs.append(entry)
        return content

    def _report_certificate(self, what: str, der: bytes) -> None:
        certificate = x509.load_der_x509_certificate(der)
        public_key = certificate.public_key()
        self._signs.append((what, _common_name(certificate)))
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            self._signs.append(("  key", f"{public_key.curve.name}, SHA-256 {describe_key(public_key).spki_sha256}"))
        self._signs.append(("  serial", f"{certificate.serial_number:x}"))
        ends = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        self._signs.append(("  not before, not after", ", ".join(map(_time, ends))))
        for extension in certificate.extensions:
            if isinstance(extension.value, x509.BasicConstraints):
                self._signs.append(("  path length", str(extension.value.path_length)))
            if isinstance(extension.value, x509.CRLDistributionPoints):
                names = [str(name.value) for point in extension.value for name in point.full_name or ()]
                self._signs.append(("  CRL of its issuer", ", ".join(names)))
            if isinstance(extension.value, x509.NameConstraints):
                subtrees = (extension.value.permitted_subtrees or [], extension.value.excluded_subtrees or [])
                names = [
                    ", ".join(f"{type(name).__name__} {name.value}".strip() for name in subtree) for subtree in subtrees
                ]
                self._signs.append(("  names permitted", names[0]))
                self._signs.append(("  names excluded", names[1] or "none"))

    def _serial(self) -> int:
        return make_serial(self._entropy(SERIAL_BYTES))

    def _write(self, outputs: list[_Output], record: CeremonyRecord) -> CeremonyRecord:
        """Write every file under a temporary name, then link each to its name: key, record, signed document."""
        staged: list[tuple[Path, Path]] = []
        appeared: list[Path] = []
        try:
            hashes = [FileHash(output.name, sha256_hex(self._stage(output, staged))) for output in outputs]
            record = msgspec.structs.replace(record, outputs=tuple(hashes))
            self._stage(_Output(record.record, msgspec.json.format(msgspec.json.encode(record)) + b"\n"), staged)
            staged.insert(-1, staged.pop())
            for scratch, path in staged:
                os.link(scratch, path)
                appeared.append(path)
            for folder in {path.parent for _, path in staged}:
                sync_directory(folder)
        except BaseException as error:
            # After any error, a cancellation included, no part of the ceremony may remain.
            for path in appeared:
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise CeremonyError(f"cannot write the outputs: {error}; no output remains") from error
            raise
        finally:
            for scratch, _ in staged:
                scratch.unlink(missing_ok=True)
        return record

    def _stage(self, output: _Output, staged: list[tuple[Path, Path]]) -> bytes:
        path = self._folder / output.name
        scratch = path.with_name(f".{path.name}.{os.getpid()}.staged")
        staged.append((scratch, path))
        if output.key is not None:
            write_key(scratch, output.key, output.passphrase)
            return scratch.read_bytes()
        write_secret(scratch, output.content)
        scratch.chmod(0o644)
        return output.content


def _entry_of(revoked: x509.RevokedCertificate) -> Entry:
    """Return the entry of a CRL. An entry without a reason has the reason "unspecified" (RFC 5280 section 5.3.1).

    Raises CeremonyError for a reason that a root does not use.
    """
    try:
        reason = revoked.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return Entry(revoked.serial_number, revoked.revocation_date_utc)
    number = next((number for number, name in REASON_NAMES.items() if name == reason.value), None)
    if number is None:
        raise CeremonyError(f"cannot keep the serial {revoked.serial_number:x}: its reason {reason.value} is not final")
    return Entry(revoked.serial_number, revoked.revocation_date_utc, number)


def _hash(output: _Output, dry_run: bool) -> str:
    return "" if dry_run or output.key is not None else sha256_hex(output.content)


def _identity(authority: str, trust_domain: str, development: bool) -> CaIdentity:
    ca, _, number = authority.partition("-")
    return CaIdentity(trust_domain, msgspec.convert(ca, CaName), int(number), DEVELOPMENT_MARK if development else "")


def _request_der(pem: bytes, name: str) -> bytes:
    found = _PEM_REQUEST.fullmatch(pem)
    try:
        if found is None:
            raise CeremonyError(f"cannot use {name}: not exactly one certificate request in PEM")
        return base64.b64decode(b"".join(found[2].split()), validate=True)
    except binascii.Error as error:
        raise CeremonyError(f"cannot use {name}: its PEM is not base64") from error


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def _common_name(certificate: x509.Certificate) -> str:
    return ", ".join(str(name.value) for name in certificate.subject)


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
