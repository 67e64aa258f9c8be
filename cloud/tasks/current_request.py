"""Values: the request that a task works on, with its id and its place in a trace (W3C Trace Context, level 1).

The listener makes the id of each request. A caller's `X-Request-Id` is ignored, so an id in a log or in the audit is
always one of ours. `traceparent` is what connects the services: a caller's valid one is continued, and any other one is
ignored as if it were absent. Its ids are hexadecimal digits of a fixed number, so a caller cannot write into a log.

Code that runs outside a request (background tasks, commands) has no current request.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar

import msgspec

REQUEST_ID_CHARS = 36
"""Characters of an id: a UUID of version 7 (RFC 9562 section 5.7), which sorts by time."""
INSTANCE_PREFIX = "urn:uuid:"
_VERSION_0 = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER_VERSION = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[!-~]*)?")
_VALUE_BYTES_MAX = 256
_SAMPLED = 0x01
_ENTROPY_BYTES = 34

Entropy = Callable[[int], bytes]


class CurrentRequest(msgspec.Struct, frozen=True):
    """A request. `trace` has 32 hexadecimal digits. `span` has 16 and names this service's part of the trace."""

    id: str
    trace: str
    span: str
    sampled: bool

    @property
    def instance(self) -> str:
        """The URI of the request, for problem documents."""
        return INSTANCE_PREFIX + self.id

    @property
    def traceparent(self) -> str:
        """The value of the header for calls that this request causes, and for its events."""
        return f"00-{self.trace}-{self.span}-{int(self.sampled):02x}"


_CURRENT: ContextVar[CurrentRequest | None] = ContextVar("current_request", default=None)


def new_request(headers: Iterable[tuple[bytes, bytes]], unix_ms: int, entropy: Entropy = os.urandom) -> CurrentRequest:
    """Make the id of a request, and continue the trace of its headers. Names of headers are in lower case."""
    random = entropy(_ENTROPY_BYTES)
    trace, sampled = _parsed([value for name, value in headers if name == b"traceparent"])
    return CurrentRequest(_uuid7(unix_ms, random[:10]), trace or random[10:26].hex(), random[26:].hex(), sampled)


def enter(request: CurrentRequest) -> None:
    """Make a request the current one of this task, until the task ends."""
    _CURRENT.set(request)


def current_request() -> CurrentRequest | None:
    """Return the request that this task works on, or None."""
    return _CURRENT.get()


def current_request_id() -> str:
    """Return the id of the request that this task works on, or an empty text."""
    request = _CURRENT.get()
    return request.id if request is not None else ""


def current_traceparent() -> str:
    """Return the `traceparent` of the request that this task works on, or an empty text."""
    request = _CURRENT.get()
    return request.traceparent if request is not None else ""


def _parsed(values: list[bytes]) -> tuple[str, bool]:
    """Return the trace id and whether the caller records the trace. The id is empty if there is no valid value."""
    if len(values) != 1 or len(values[0]) > _VALUE_BYTES_MAX:
        return "", False
    version = _VERSION_0 if values[0].startswith(b"00") else _LATER_VERSION
    found = version.fullmatch(values[0])
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return "", False
    return found[1].decode(), bool(int(found[3], 16) & _SAMPLED)


def _uuid7(unix_ms: int, random: bytes) -> str:
    bits = int.from_bytes(random, "big")
    value = (unix_ms & (2**48 - 1)) << 80 | 0x7 << 76 | (bits >> 62 & 0xFFF) << 64 | 0b10 << 62 | bits & (2**62 - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
