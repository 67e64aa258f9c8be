"""Look-ups and connections with one deadline, on a resolver and on addresses that a test controls."""

import socket
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from node.link import connect
from node.link.connect import (
    ADDRESSES_MAX,
    NETWORK_THREADS_MAX,
    STAGGER_SECONDS,
    LinkFailed,
    Opened,
    look_up,
    network_limiter,
    open_first,
    open_in_turn,
    open_tcp,
)


class Stream(trio.abc.AsyncResource):
    """A connection to an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


Found = list[tuple[int, int, int, str, tuple[str, int]]]


def found(*addresses: str) -> Found:
    return [(socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, 443)) for each in addresses]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Found | Exception], None]:
    """Sets the answer for every name."""

    def set_answer(answer: Found | Exception) -> None:
        def getaddrinfo(*_: object, **__: object) -> Found:
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return set_answer


class Network:
    """Addresses with an outcome: an error, seconds until the connection opens, or no answer."""

    def __init__(self, outcomes: dict[str, Exception | float]) -> None:
        self.outcomes = outcomes
        self.tried: list[tuple[float, str]] = []

    async def open_one(self, address: str) -> Stream:
        self.tried.append((trio.current_time(), address))
        outcome = self.outcomes.get(address, float("inf"))
        if isinstance(outcome, Exception):
            raise OSError("failed") from outcome
        await trio.sleep(outcome)
        return Stream(address)


def test_families_take_turns(resolver: Callable[[Found | Exception], None]) -> None:
    resolver(found("::1", "::2", "::3", "10.0.0.1", "10.0.0.1"))
    assert look_up("cloud.example", 443) == ("::1", "10.0.0.1", "::2", "::3")
    resolver(found(*(f"10.0.0.{number}" for number in range(200))))
    assert len(look_up("cloud.example", 443)) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("cloud.example", socket.gaierror(-2, "Name or service not known")),
        ("cloud.example", socket.gaierror(-3, "Temporary failure in name resolution")),
        ("cloud.example", OSError(24, "Too many open files")),
        ("x" * 64 + ".example", UnicodeError("label too long")),
    ],
)
async def test_a_name_without_an_address(
    host: str, answer: Exception, resolver: Callable[[Found | Exception], None]
) -> None:
    resolver(answer)
    with pytest.raises(LinkFailed) as caught:
        await open_first(host, 443, 5, Network({}).open_one)
    assert caught.value.code == "dns_failed"
    assert host in caught.value.text
    assert str(getattr(answer, "strerror", None) or answer) in caught.value.text


async def test_a_silent_address_costs_a_quarter_of_a_second(
    resolver: Callable[[Found | Exception], None], autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.01
    resolver(found("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"))
    network = Network({"10.0.0.2": ConnectionRefusedError(111, "refused"), "10.0.0.3": 0.1, "10.0.0.4": 0.0})
    stream = await open_first("cloud.example", 443, 10, network.open_one)
    assert stream.address == "10.0.0.3"
    assert [address for _, address in network.tried] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert trio.current_time() - network.tried[0][0] == pytest.approx(STAGGER_SECONDS + 0.1)


async def test_many_silent_addresses_have_one_deadline(
    resolver: Callable[[Found | Exception], None], autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.01
    resolver(found(*(f"10.0.0.{number}" for number in range(200))))
    network = Network({})
    started = trio.current_time()
    with pytest.raises(
        LinkFailed, match=r"no answer from 10.0.0.0, 10.0.0.1, 10.0.0.2, ... port 443 within 10 s"
    ) as caught:
        await open_first("cloud.example", 443, 10, network.open_one)
    assert caught.value.code == "timed_out"
    assert trio.current_time() - started == pytest.approx(10, abs=0.1)
    assert len(network.tried) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((OSError(101, "no route"), OSError(111, "refused")), "connection_refused"),
        ((OSError(101, "Network is unreachable"), OSError(113, "No route to host")), "unreachable"),
        ((OSError(110, "timed out"),), "timed_out"),
        ((ExceptionGroup("all", [OSError(113, "No route to host")]),), "unreachable"),
        ((OSError(24, "Too many open files"),), "cloud_unreachable"),
    ],
)
async def test_the_cause_of_failed_connections(
    errors: tuple[Exception, ...], code: str, resolver: Callable[[Found | Exception], None]
) -> None:
    addresses = [f"10.0.0.{number}" for number in range(len(errors))]
    resolver(found(*addresses))
    with pytest.raises(LinkFailed) as caught:
        await open_first("cloud.example", 443, 5, Network(dict(zip(addresses, errors, strict=True))).open_one)
    assert caught.value.code == code
    assert "10.0.0.0" in caught.value.text


def test_a_thread_tries_the_addresses_in_turn_with_one_deadline(
    resolver: Callable[[Found | Exception], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, given = 0.0, []

    def open_one(address: str, seconds: float) -> str:
        nonlocal now
        given.append(seconds)
        if address == answers:
            return address
        now += seconds
        raise TimeoutError

    monkeypatch.setattr(connect, "monotonic", lambda: now)
    resolver(found(*(f"10.0.0.{number}" for number in range(200))))
    answers = "none"
    with pytest.raises(LinkFailed, match=r"no answer from 10.0.0.0, ") as caught:
        open_in_turn("cloud.example", 80, 10, open_one)
    assert caught.value.code == "timed_out"
    assert now == pytest.approx(10)
    assert len(given) == ADDRESSES_MAX
    assert given[:2] == [2.5, 1.875]
    now, answers = 0.0, "10.0.0.3"
    assert open_in_turn("cloud.example", 80, 10, open_one) == answers
    assert now < 7


async def test_cancelled_after_a_connection_opened_it_is_closed() -> None:
    opened: list[Stream] = []

    async def open_one(address: str) -> Stream:
        opened.append(Stream(address))
        scope.cancel()
        return opened[0]

    with trio.CancelScope() as scope:
        await open_first("127.0.0.1", 443, 5, open_one)
    assert scope.cancelled_caught
    assert opened[0].closed


async def test_a_stuck_resolver_takes_no_thread_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """More look-ups than threads: each ends at its deadline, and other work still gets a thread."""
    release = threading.Event()

    def stuck(*_: object, **__: object) -> Found:
        release.wait()
        return found("10.0.0.1")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)

    async def ask() -> None:
        with pytest.raises(LinkFailed, match=r"the look-up of cloud\.example took longer") as caught:
            await open_first("cloud.example", 443, 0.1, Network({}).open_one)
        assert caught.value.code == "timed_out"

    try:
        with trio.fail_after(2):
            async with trio.open_nursery() as nursery:
                for _ in range(NETWORK_THREADS_MAX + 2):
                    nursery.start_soon(ask)
            assert network_limiter().borrowed_tokens == NETWORK_THREADS_MAX
            default = trio.to_thread.current_default_thread_limiter()
            assert default.borrowed_tokens == 0
    finally:
        release.set()


async def test_a_connection_that_no_request_takes_is_closed() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    opened = Opened(await open_tcp("127.0.0.1", port, 5))
    async with await listener.accept() as server:
        await opened.aclose()
        with trio.fail_after(5):
            assert await server.receive_some() == b""
    assert opened.take() is None
    await listener.aclose()


async def test_an_address_needs_no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "getaddrinfo")
    stream = await open_first("::1", 443, 5, Network({"::1": 0.0}).open_one)
    assert stream.address == "::1"
