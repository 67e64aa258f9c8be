"""Parser: the requests of one HTTP/1.1 connection, read from untrusted bytes.

It is stricter than RFC 9112 where a lenient reading helps an attacker only. It refuses HTTP/0.9, folded headers,
control characters, a request without exactly one Host (RFC 9112 section 3.2), Content-Length beside
Transfer-Encoding (section 6.1), any transfer coding except `chunked`, and trailers. It counts every byte outside a
body: request line, headers and the frames of chunks. It does no I/O.
"""

import re

import msgspec

from protocol.problems import Code

HEAD_BYTES_MAX = 16 * 1024
"""Bytes of a request outside its body. A node's are below 1 kB, an operator's below 2 kB."""
HEADERS_MAX = 100
"""Header lines of a request. A browser behind two proxies sends about 40."""
_CHUNK_LINE_BYTES_MAX = 256
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~]+) HTTP/1\.([01])")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://[^/?#]+")


class RequestRefused(Exception):
    """The bytes are not a request that this parser accepts. The connection cannot be read any further."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code: Code = code
        self.detail = detail


class Head(msgspec.Struct, frozen=True):
    """Request line and headers. Header names are in lower case. `target` has a path and perhaps a query.

    `length` is the stated length of the body, or None if the body is chunked.
    """

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    length: int | None
    keep_alive: bool
    expects_continue: bool


def _malformed(detail: str) -> RequestRefused:
    return RequestRefused("malformed", f"this is not a valid HTTP/1.1 request: {detail}")


class RequestReader:
    """Reads one request after the other. Bytes after the end of a request stay in the buffer, unread.

    The caller feeds bytes, takes the head, takes the pieces of the body until `complete`, and calls `next_request`.
    """

    __slots__ = ("_buffer", "_chunk_left", "_chunked", "_left", "_line_checked", "_outside", "_searched", "complete")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.next_request()

    def next_request(self) -> None:
        """Begin to read a request."""
        self._searched = 0
        self._line_checked = False
        self._outside = 0
        self._left = 0
        self._chunked = False
        self._chunk_left = 0
        self.complete = False

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not yet read."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes from the connection."""
        self._buffer += data

    def head(self) -> Head | None:
        """Return the head of the request, or None until its last byte has arrived. Raises RequestRefused."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end == 0 or buffer.startswith(b"\r\n"):
            return self._after_empty_line()
        if not self._line_checked:
            self._check_line()
        if end < 0 or end > HEAD_BYTES_MAX:
            self._searched = len(buffer)
            if max(end, self._searched) + self._outside > HEAD_BYTES_MAX:
                raise RequestRefused("too_large", f"request line and headers are limited to {HEAD_BYTES_MAX} bytes")
            return None
        lines = bytes(buffer[:end]).split(b"\r\n")
        del buffer[: end + 4]
        self._count(end + 4)
        return self._parsed(lines)

    def _after_empty_line(self) -> Head | None:
        """Skip one empty line before the request line (RFC 9112 section 2.2), and refuse a second one."""
        if self._outside:
            raise _malformed("empty lines stand before the request line")
        del self._buffer[:2]
        self._count(2)
        return self.head()

    def _check_line(self) -> None:
        """Refuse a request line without waiting for the headers."""
        buffer = self._buffer
        end = buffer.find(b"\n")
        if end >= 0:
            self._line_checked = True
            good = buffer[max(0, end - 1) : end] == b"\r" and bool(_REQUEST_LINE.fullmatch(buffer[: end - 1]))
        else:
            good = not buffer or buffer == b"\r" or 33 <= buffer[0] <= 126
        if not good:
            raise _malformed("the request line is not METHOD TARGET HTTP/1.1")

    def _count(self, outside: int) -> None:
        self._outside += outside
        if self._outside > HEAD_BYTES_MAX:
            raise RequestRefused("too_large", f"a request has at most {HEAD_BYTES_MAX} bytes outside its body")

    def _parsed(self, lines: list[bytes]) -> Head:
        line = _REQUEST_LINE.fullmatch(lines[0])
        if line is None:
            raise _malformed("the request line is not METHOD TARGET HTTP/1.1")
        if len(lines) - 1 > HEADERS_MAX:
            raise RequestRefused("too_large", f"a request has at most {HEADERS_MAX} header lines")
        headers = [_field(each) for each in lines[1:]]
        version = "1.1" if line[3] == b"1" else "1.0"
        names = [name for name, _ in headers]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_HOST.fullmatch, hosts)):
            raise _malformed("it needs exactly one Host header")
        self._frame(headers, names, version)
        tokens = {
            token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
        }
        return Head(
            method=line[1].decode("ascii"),
            target=_path_of(line[2]),
            version=version,
            headers=headers,
            length=None if self._chunked else self._left,
            keep_alive=version == "1.1" and b"close" not in tokens,
            # An HTTP/1.0 client does not understand an interim answer (RFC 9110 section 10.1.1).
            expects_continue=version == "1.1"
            and (b"expect", b"100-continue") in ((name, value.lower()) for name, value in headers),
        )

    def _frame(self, headers: list[tuple[bytes, bytes]], names: list[bytes], version: str) -> None:
        """Read how the body is framed (RFC 9112 section 6.3)."""
        if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
            raise _malformed("the length of the body is stated more than once")
        for name, value in headers:
            if name == b"transfer-encoding":
                if value.lower() != b"chunked" or version == "1.0":
                    raise _malformed("the transfer coding is not chunked")
                self._chunked = True
            elif name == b"content-length":
                if not _LENGTH.fullmatch(value):
                    raise _malformed("Content-Length is not a number")
                self._left = int(value)
        self.complete = not self._chunked and self._left == 0

    def body(self) -> bytes:
        """Return the bytes of the body that have arrived, and drop them. Raises RequestRefused.

        At the end of the body `complete` becomes True.
        """
        if self.complete:
            return b""
        if not self._chunked:
            piece = self._take(self._left)
            self._left -= len(piece)
            self.complete = self._left == 0
            return piece
        pieces = []
        while self._buffer and not self.complete:
            if self._chunk_left > 2:
                # `_chunk_left` counts the CRLF after the chunk's data.
                piece = self._take(self._chunk_left - 2)
                self._chunk_left -= len(piece)
                pieces.append(piece)
            elif not self._skip_frame():
                break
        return b"".join(pieces)

    def _take(self, count: int) -> bytes:
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        return piece

    def _skip_frame(self) -> bool:
        """Read the CRLF after a chunk and the line before the next. Return False if one of them is incomplete."""
        if self._chunk_left:
            if len(self._buffer) < 2:
                return False
            if self._take(2) != b"\r\n":
                raise _malformed("a chunk does not end with its length")
            self._count(2)
            self._chunk_left = 0
        end = self._buffer.find(b"\r\n", 0, _CHUNK_LINE_BYTES_MAX)
        if end < 0:
            if len(self._buffer) >= _CHUNK_LINE_BYTES_MAX:
                raise _malformed("the line before a chunk is too long")
            return False
        size = _CHUNK.fullmatch(self._buffer[:end])
        if size is None:
            raise _malformed("the line before a chunk is not its length")
        length = int(size[1], 16)
        if length == 0:
            return self._end_chunks(end + 2)
        del self._buffer[: end + 2]
        self._count(end + 2)
        self._chunk_left = length + 2
        return True

    def _end_chunks(self, end: int) -> bool:
        """Read the empty line after the last chunk, and refuse trailers (RFC 9112 section 7.1.2)."""
        if len(self._buffer) < end + 2:
            return False
        if self._buffer[end : end + 2] != b"\r\n":
            raise _malformed("trailers are not accepted")
        del self._buffer[: end + 2]
        self._count(end + 2)
        self.complete = True
        return True


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return name and value of a header line (RFC 9112 section 5)."""
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or _FORBIDDEN.search(value):
        raise _malformed("a header line is not NAME: VALUE")
    return name.lower(), value.strip(b" \t")


def _path_of(target: bytes) -> bytes:
    """Return path and query of a target in origin form or absolute form (RFC 9112 sections 3.2.1 and 3.2.2)."""
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            raise _malformed("the target is not a path")
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise _malformed("the target has a fragment")
    return target
