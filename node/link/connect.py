"""Adapter: name look-ups and TCP connections of the agent, each with one deadline over all addresses of a name. Values
of an exchange over a connection.

A name can have many addresses, and some of them can be silent. The attempts overlap, so one silent address costs a
quarter of a second. A name look-up blocks its thread, and nothing can end it. So look-ups have a limiter that no other
work shares: a stuck resolver takes no thread from the disk or the TPM.
"""

import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec
import trio
from trio.lowlevel import RunVar

from node.clock import monotonic

T = TypeVar("T", bound=trio.abc.AsyncResource)
U = TypeVar("U")

CONNECT_SECONDS_MAX = 10.0
"""Five times the 2 s that a handshake over a satellite link takes."""
STAGGER_SECONDS = 0.25
"""The next address is tried after this time without an answer, or at once after a refusal (RFC 8305 section 5)."""
ADDRESSES_MAX = 32
"""All of them are tried within 8 s. A name with more addresses has a broken or hostile server."""
ADDRESSES_SHOWN_MAX = 3
ADDRESSES_PER_WAIT = 4
"""A thread tries addresses one after the other. Each gets this part of the time that is left."""
NETWORK_THREADS_MAX = 4
"""Threads that may wait for a resolver or for the trust repository. A stuck one is left behind, and keeps its place
until the system ends its wait."""

KEEPALIVE_IDLE_SECONDS = 20
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_PROBES = 2
USER_TIMEOUT_SECONDS = 30
"""A silent connection is probed after 20 s and given up after 30 s (tcp(7)). Address translators that forget a
connection do so after 30 s at the earliest, so the probes also keep the connection in their memory. A probe has 40
bytes: a million nodes send 2 MB/s."""
SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_SECONDS * 1000),
)

_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EHOSTDOWN}

_limiter: RunVar[trio.CapacityLimiter | None] = RunVar("network_limiter", default=None)


class LinkFailed(Exception):
    """A connection could not be made. `code` names the cause; `text` completes "cannot reach URL: "."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class NoAnswer(Exception):
    """An exchange over an open connection has no usable answer: the connection ended, or its bytes are not HTTP."""


class AnswerTooLong(NoAnswer):
    """The body of an answer is longer than the caller allows."""


class Answer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and body of an HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Opened:
    """An open connection that waits for its first request."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream: trio.SocketStream | None = stream

    def take(self) -> trio.SocketStream | None:
        """The connection, for the caller to use and to close; None if it was taken before."""
        stream, self._stream = self._stream, None
        return stream

    async def aclose(self) -> None:
        """Close a connection that no request took."""
        stream = self.take()
        if stream is not None:
            with trio.CancelScope(shield=True):  # shielded: closing a socket never waits
                await stream.aclose()


def network_limiter() -> trio.CapacityLimiter:
    """The limiter of threads that wait for the network."""
    limiter = _limiter.get()
    if limiter is None:
        limiter = trio.CapacityLimiter(NETWORK_THREADS_MAX)
        _limiter.set(limiter)
    return limiter


def look_up(host: str, port: int) -> tuple[str, ...]:
    """The addresses of a name, IPv6 and IPv4 in turns (RFC 8305 section 4). Blocks. Raises LinkFailed `dns_failed`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise LinkFailed("dns_failed", f"cannot find the address of {host} ({reason})") from error
    unique = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
    first = [address for family, address in unique if family == found[0][0]]
    other = [address for family, address in unique if family != found[0][0]]
    turns = [each for pair in zip(first, other, strict=False) for each in pair]
    rest = max(first, other, key=len)[min(len(first), len(other)) :]
    return (*turns, *rest)[:ADDRESSES_MAX]


async def open_first(host: str, port: int, seconds_max: float, open_one: Callable[[str], Awaitable[T]]) -> T:
    """A connection to the first address of a name that answers.

    Args:
        host: name or address.
        port: the port.
        seconds_max: bound of the look-up and of all attempts together.
        open_one: connects to one address. It raises OSError; TimeoutError after a time-out.

    Raises LinkFailed with the code `dns_failed`, `connection_refused`, `unreachable` or `timed_out`.
    """
    step = f"the look-up of {host} took longer than {seconds_max:g} s"
    with trio.move_on_after(seconds_max):
        addresses = await _addresses(host, port)
        shown = _listed(addresses)
        step = f"no answer from {shown} port {port} within {seconds_max:g} s"
        opened, errors = await _race(addresses, open_one)
        if opened is not None:
            return opened
        raise _failure(f"{shown} port {port}", errors)
    raise LinkFailed("timed_out", step)


async def open_tcp(host: str, port: int, seconds_max: float) -> trio.SocketStream:
    """A TCP connection to the first address of a name that answers. Raises as `open_first`.

    The kernel probes the connection while it is idle, so that a connection that a device on the way has dropped ends
    soon.
    """

    async def open_one(address: str) -> trio.SocketStream:
        # As bytes: Python would load its tables of international names to look at a text.
        return await trio.open_tcp_stream(address.encode(), port)

    stream = await open_first(host, port, seconds_max, open_one)
    for option in SOCKET_OPTIONS:
        with suppress(OSError):  # a system without an option still connects
            stream.socket.setsockopt(*option)
    return stream


def open_in_turn(host: str, port: int, seconds_max: float, open_one: Callable[[str, float], U]) -> U:
    """As `open_first`, for a thread: the addresses are tried one after the other, with one deadline for all of them.

    `open_one` also gets its seconds, and raises as that of `open_first`. A look-up counts, but cannot be ended.
    """
    ends_at = monotonic() + seconds_max
    addresses = look_up(host, port)
    errors: list[Exception] = []
    for address in addresses:
        left = ends_at - monotonic()
        if left <= 0:
            break
        try:
            return open_one(address, left / min(len(addresses) - len(errors), ADDRESSES_PER_WAIT))
        except OSError as error:
            errors.append(error)
    raise _failure(f"{_listed(addresses)} port {port}", errors or [TimeoutError()])


def _listed(addresses: tuple[str, ...]) -> str:
    return ", ".join(addresses[:ADDRESSES_SHOWN_MAX]) + (", ..." if len(addresses) > ADDRESSES_SHOWN_MAX else "")


async def _addresses(host: str, port: int) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        work = partial(look_up, host, port)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=network_limiter())


async def _race(
    addresses: tuple[str, ...], open_one: Callable[[str], Awaitable[T]]
) -> tuple[T | None, list[Exception]]:
    """Happy Eyeballs (RFC 8305 section 5): the first connection that opens, or the errors of all attempts."""
    errors: list[Exception] = []
    opened: list[T] = []

    async def attempt(address: str, failed: trio.Event) -> None:
        try:
            stream = await open_one(address)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        opened.append(stream)
        nursery.cancel_scope.cancel()

    kept = 0
    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(STAGGER_SECONDS):
                    await failed.wait()
        kept = 1
    finally:
        with trio.CancelScope(shield=True):  # shielded: closing a socket never waits
            for surplus in opened[kept:]:
                await surplus.aclose()
    return (opened[0] if opened else None), errors


def _failure(where: str, errors: list[Exception]) -> LinkFailed:
    numbers = [number for error in errors for number in _errnos(error)]
    if errno.ECONNREFUSED in numbers:
        return LinkFailed("connection_refused", f"{where} refused the connection; no program listens there")
    if any(number in _UNREACHABLE for number in numbers):
        return LinkFailed("unreachable", f"this machine has no network connection to {where}")
    if errno.ETIMEDOUT in numbers or any(isinstance(error, TimeoutError) for error in errors):
        return LinkFailed("timed_out", f"no answer from {where}")
    reason = next((number for number in numbers), None)
    return LinkFailed("cloud_unreachable", f"no connection to {where} ({errno.errorcode.get(reason or 0, 'unknown')})")


def _errnos(error: BaseException | None) -> Iterator[int]:
    """The error numbers of an exception, its causes and its groups."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            yield error.errno
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _errnos(each)
        error = error.__cause__ or error.__context__
