"""Values: the records of a backup file, version 1, and their encoding.

A backup is a line of JSON, the header, and behind it an age file (https://age-encryption.org/v1) that encrypts and
authenticates everything else. The plaintext is JSON lines:

    MANIFEST
    {"type":"file", ...}                   a file of the installation, for each file
    {"type":"table", ...}                  a table, for each table of Fabric and then of Breakwater
    [value, ...]                           a row of the table, for each row
    {"type":"rows", "count": ...}          the end of the table
    {"type":"end", "sha256": ..., ...}     the end of the backup, over all lines before

A row has the values in the order of the table's columns. Text, integers and booleans are JSON's own, bytes are base64,
times are RFC 3339 in UTC with microseconds as needed. No value depends on the database engine.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cloud.crypto.keyfile import ScryptCost
from cloud.storage.whole.shapes import Kind, Shape

FORMAT = 1
"""The version of the format. A reader refuses a later one."""
HEADER_BYTES_MAX = 64 * 1024
LINE_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of one record. A CRL has at most some hundred kB, a file at most `FILE_BYTES_MAX`."""
FILE_BYTES_MAX = 64 * 1024 * 1024
SALT_BYTES = 16
SEAL_MEMORY_MAX = 32 * 1024 * 1024
SEAL_ROUNDS_MAX = 16
SEAL_CONTEXT = b"cascade backup 1\0"

T = TypeVar("T")
Parts = Literal["whole", "keys"]
"""`keys` has the keys, the CAs, the published trust and the tenants. `whole` has everything."""
ServicePart: TypeAlias = Literal["fabric", "breakwater"]


class Header(msgspec.Struct, frozen=True):
    """The first line, which is not encrypted. `wrapped` is the file's key, encrypted with a passphrase (age), or empty."""

    cascade_backup: int
    key: Literal["recipient", "passphrase"]
    wrapped: bytes = b""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the backup is of.

    `header_sha256` is over the header's line. `pins` are all roots of the published trust as `VERSION:SHA256`; they
    name the installation. `migrations` are the ids of each database's schema. `not_included` are the secrets and files
    that the installation uses and that are not in the backup. `salt` and `cost` belong to the seal.
    """

    cascade_backup: int
    header_sha256: str
    made_at: datetime
    parts: Parts
    trust_domain: str
    pins: tuple[str, ...]
    migrations: dict[ServicePart, tuple[str, ...]]
    not_included: tuple[str, ...]
    salt: bytes
    cost: ScryptCost


class FileRecord(msgspec.Struct, frozen=True, tag="file"):
    """A file. `path` is relative to the installation's directory."""

    path: str
    data: bytes


class TableRecord(msgspec.Struct, frozen=True, tag="table"):
    """The begin of a table of a service's database."""

    service: ServicePart
    shape: Shape


class RowsRecord(msgspec.Struct, frozen=True, tag="rows"):
    """The end of a table, with the number of its rows."""

    count: int


class Trailer(msgspec.Struct, frozen=True, tag="end", kw_only=True):
    """The end of the backup.

    `tables` counts the rows by `SERVICE.TABLE`. `sha256` is over all lines before the trailer. `seal` authenticates the
    digest under the passphrase of the key files: only the installation itself can make it.
    """

    files: int
    tables: dict[str, int]
    sha256: str
    seal: bytes


Record: TypeAlias = FileRecord | TableRecord | RowsRecord | Trailer

encode = msgspec.json.Encoder().encode
_headers = msgspec.json.Decoder(Header)
_manifests = msgspec.json.Decoder(Manifest)
_records: msgspec.json.Decoder[Record] = msgspec.json.Decoder(FileRecord | TableRecord | RowsRecord | Trailer)
_TYPES: dict[Kind, Any] = {
    "text": str | None,
    "integer": int | None,
    "boolean": bool | None,
    "bytes": bytes | None,
    "time": datetime | None,
}


def _decoded(decoder: msgspec.json.Decoder[T], line: bytes) -> T:
    """Decode a line. The library raises other errors for nesting that is too deep, and for keys that are not UTF-8."""
    try:
        return decoder.decode(line)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError("nested too deeply, or not UTF-8") from error


def decode_header(line: bytes) -> Header:
    """Return the header. Raises msgspec.DecodeError."""
    return _decoded(_headers, line)


def decode_manifest(line: bytes) -> Manifest:
    """Return the manifest. Raises msgspec.DecodeError."""
    return _decoded(_manifests, line)


def decode_record(line: bytes) -> Record:
    """Return the record of a line that is no row. Raises msgspec.DecodeError."""
    return _decoded(_records, line)


def row_decoder(shape: Shape) -> msgspec.json.Decoder[tuple[Any, ...]]:
    """Return the decoder of a table's rows. It raises msgspec.DecodeError for a value of another type."""
    return msgspec.json.Decoder(tuple[tuple(_TYPES[column.kind] for column in shape.columns)])  # type: ignore[misc]


def encode_rows(rows: Sequence[tuple[Any, ...]]) -> bytes:
    """Return the lines of rows."""
    return b"".join(encode(row) + b"\n" for row in rows)


def seal_of(passphrase: bytes, manifest: Manifest, sha256: str) -> bytes:
    """Return the seal of a digest. `passphrase` is that of the key files. Takes 0.3 s with the usual cost.

    Raises ValueError if the cost is more than a backup has.
    """
    cost = manifest.cost
    if 128 * cost.n * cost.r > SEAL_MEMORY_MAX or cost.p > SEAL_ROUNDS_MAX:
        raise ValueError("the cost of the seal is too high")
    key = Scrypt(salt=SEAL_CONTEXT + manifest.salt, length=32, n=cost.n, r=cost.r, p=cost.p).derive(passphrase)
    return hmac.digest(key, SEAL_CONTEXT + sha256.encode(), "sha256")
