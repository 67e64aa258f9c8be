"""Adapter: one question to the agent's socket. Standard library only, and small: a gate waits on every licensed machine.

The program at the socket must be one of root or of the gate's own user, which is the agent's (SO_PEERCRED, unix(7)).
With socket activation the kernel names root, because systemd listens. An answer is read to its end, within bounds.
"""

import json
import os
import socket
import struct

from node.clock import monotonic

ANSWER_BYTES_MAX = 256 * 1024
"""The largest licence document has 60 kB."""
_READ_BYTES = 16 * 1024
_PEERCRED = struct.Struct("3i")
_TIMEVAL = struct.Struct("@ll")
_LEAST_SECONDS = 0.001
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Unanswered(Exception):
    """No answer that can be used. The text is the cause."""


def quoted(text: str) -> str:
    """A text in a URL's path or query (RFC 3986, section 2.1)."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text.encode())


class AgentSocket:
    """The socket at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def ask(self, target: str, seconds: float) -> tuple[int, dict[str, object]]:
        """Status and document of the answer to a GET of `target`, within `seconds`. Raises Unanswered."""
        try:
            data = self._exchange(f"GET {target} HTTP/1.1\r\nHost: cascadia\r\nConnection: close\r\n\r\n", seconds)
        except TimeoutError:
            raise Unanswered(f"the agent at {self.path} did not answer in time") from None
        except OSError as error:
            raise Unanswered(f"the agent at {self.path} cannot be reached: {error.strerror or error}") from error
        return _parsed(data)

    def _exchange(self, request: str, seconds: float) -> bytes:
        """All bytes until the agent closes. Raises OSError, Unanswered."""
        ends_at = monotonic() + seconds
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            # The kernel then waits for a place in the queue. With a timeout of Python a full queue refuses at once, and a
            # user who keeps it full would end the gate.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))
            try:
                connection.connect(self.path)
            except BlockingIOError:
                raise TimeoutError from None
            connection.settimeout(seconds)
            _, user, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
            if user not in (0, os.geteuid()):
                raise Unanswered(f"a program of user {user} listens at {self.path}, and it is not the agent")
            connection.sendall(request.encode())
            data = b""
            while len(data) <= ANSWER_BYTES_MAX:
                left = ends_at - monotonic()
                if left <= 0:
                    raise TimeoutError
                connection.settimeout(left)
                piece = connection.recv(_READ_BYTES)
                if not piece:
                    return data
                data += piece
        raise Unanswered(f"the answer at {self.path} is too long")


def _timeval(seconds: float) -> bytes:
    """A bound as the kernel takes it. Zero would be no bound."""
    whole, part = divmod(max(seconds, _LEAST_SECONDS), 1)
    return _TIMEVAL.pack(int(whole), int(part * 1_000_000))


def _parsed(data: bytes) -> tuple[int, dict[str, object]]:
    """Status and JSON object of an HTTP/1.1 answer with a Content-Length (RFC 9112). Raises Unanswered."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    status = rest[:3]
    lengths = [value.strip() for name, _, value in (line.partition(b":") for line in lines[1:]) if _is_length(name)]
    if version != b"HTTP/1.1" or not status.isdigit() or lengths != [b"%d" % len(body)]:
        raise Unanswered("the agent's answer is cut, or no answer of HTTP")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Unanswered("the agent's answer is no JSON object")
    return int(status), document


def _is_length(name: bytes) -> bool:
    return name.strip().lower() == b"content-length"
