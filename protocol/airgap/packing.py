"""Pure functions: pack the JSON of a document before it is compressed, so that text and QR codes are short.

A document has signed tokens and certificates in base64, and digests in hex. Compression does not see into base64. So each
long run of base64 or hex is replaced by its bytes, if encoding them again gives the same characters. The packed form is
a row of parts: a byte for the kind, the size as a varint (LEB128: 7 bits a byte, the lowest first), the bytes.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator

from protocol.airgap.errors import DocumentDamaged, DocumentTooLarge
from protocol.encoding import EncodingError, b64url_decode, b64url_encode

_LITERAL, _URL, _STANDARD, _HEX = range(4)
_RUN = re.compile(rb"[0-9a-f]{32,}(?![A-Za-z0-9+/=_-])|[A-Za-z0-9_-]{24,}(?![+/=])|[A-Za-z0-9+/]{24,}={0,2}")
_SIZE_BYTES_MAX = 4


def _standard(data: bytes) -> bytes:
    return base64.b64decode(data, validate=True)


_READERS: tuple[tuple[int, Callable[[bytes], bytes]], ...] = (
    (_HEX, lambda data: bytes.fromhex(data.decode())),
    (_URL, lambda data: b64url_decode(data.decode())),
    (_STANDARD, _standard),
)
_WRITERS: dict[int, Callable[[bytes], bytes]] = {
    _LITERAL: bytes,
    _URL: lambda data: b64url_encode(data).encode(),
    _STANDARD: base64.b64encode,
    _HEX: lambda data: data.hex().encode(),
}


def pack(data: bytes) -> bytes:
    """The packed form of a document in JSON."""
    return b"".join(_part(kind, content) for kind, content in _parts(data))


def unpack(data: bytes, bytes_max: int) -> bytes:
    """Inverse of `pack`. Raises DocumentDamaged, and DocumentTooLarge for a document of more than `bytes_max`."""
    at, size, made = 0, 0, []
    while at < len(data):
        kind, at = data[at], at + 1
        length, at = _read_size(data, at)
        content, at = data[at : at + length], at + length
        if kind not in _WRITERS or len(content) != length:
            raise DocumentDamaged("the content is cut short or damaged")
        made.append(_WRITERS[kind](content))
        size += len(made[-1])
        if size > bytes_max:
            raise DocumentTooLarge(f"the content has more than {bytes_max} bytes")
    return b"".join(made)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    done = 0
    for run in _RUN.finditer(data):
        found = _decoded(run[0])
        if found is not None:
            if run.start() > done:
                yield _LITERAL, data[done : run.start()]
            yield found
            done = run.end()
    if done < len(data):
        yield _LITERAL, data[done:]


def _decoded(run: bytes) -> tuple[int, bytes] | None:
    """Kind and bytes of a run; None if no kind has this text as its one encoding."""
    for kind, read in _READERS:
        try:
            content = read(run)
        except (ValueError, EncodingError, binascii.Error):
            continue
        if _WRITERS[kind](content) == run:
            return kind, content
    return None


def _part(kind: int, content: bytes) -> bytes:
    size, head = len(content), bytearray([kind])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + content


def _read_size(data: bytes, at: int) -> tuple[int, int]:
    """The varint at a position, and the position after it. Raises DocumentDamaged."""
    size = 0
    for number in range(_SIZE_BYTES_MAX):
        if at + number >= len(data):
            break
        size |= (data[at + number] & 0x7F) << 7 * number
        if data[at + number] < 0x80:
            return size, at + number + 1
    raise DocumentDamaged("the content is cut short or damaged")
