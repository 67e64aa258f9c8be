"""`cloud.http.places`: shares of addresses, the connection that is closed for another, and one log line a period."""

import logging
import resource

import pytest

from cloud.http.places import CONNECTIONS_MAX, LOG_SECONDS, RESERVE, Places, connections_max


class Link:
    """A connection that notes whether it was closed."""

    def __init__(self, places: Places, address: str, *, certified: bool = False) -> None:
        self.address, self.certified, self.closed = address, certified, False
        self._places = places
        places.take(self)

    def evict(self) -> None:
        self.closed = True
        self._places.release(self)


class SlowLink(Link):
    """A connection that is closed later."""

    def evict(self) -> None:
        self.closed = True


def opened(places: Places, address: str, count: int) -> list[Link]:
    """As many connections of the address as are admitted, of `count`."""
    return [Link(places, address) for _ in range(count) if places.admit(address)]


def test_an_address_holds_as_many_connections_as_places_are_free() -> None:
    places = Places(10)
    first = opened(places, "a", 20)
    # The later ones each closed the one that waited longest.
    assert [link.closed for link in first] == [True] * 15 + [False] * 5
    assert places.count == 5
    assert len([link for link in opened(places, "b", 20) if not link.closed]) == 3
    assert [link.closed for link in opened(places, "c", 1)] == [False]
    assert places.count == 9


def test_a_full_process_takes_a_place_from_the_address_with_most() -> None:
    places = Places(4)
    many = opened(places, "a", 2)
    for address in ("b", "c"):
        opened(places, address, 1)
    assert places.count == 4
    assert not places.admit("d")  # its descriptor is still open
    assert [link.closed for link in many] == [True, False]
    assert places.admit("d")


def test_strangers_with_many_addresses_close_no_connection_of_a_node() -> None:
    places = Places(5)
    nodes = [Link(places, address, certified=True) for address in ("node 1", "node 2", "node 2")]
    strangers = [Link(places, f"stranger {number}") for number in range(2)]
    for number in range(2, 5):
        assert not places.admit(f"stranger {number}")
        assert strangers[-2].closed
        strangers.append(Link(places, f"stranger {number}"))
    assert [node.closed for node in nodes] == [False] * 3
    for stranger in strangers[-2:]:
        places.works(stranger)
    assert not places.admit("stranger 5")
    assert [node.closed for node in nodes] == [False, True, False]


def test_a_connection_that_is_being_closed_exposes_no_node_of_its_address() -> None:
    places = Places(3)
    node = SlowLink(places, "shared", certified=True)
    strangers = [SlowLink(places, address) for address in ("shared", "other")]
    for _ in range(2):
        assert not places.admit("new")
    assert [each.closed for each in (node, *strangers)] == [False, True, True]


def test_requests_in_work_are_not_closed_and_certificates_come_last() -> None:
    places = Places(6)
    working, certified, stranger = (Link(places, "a", certified=each) for each in (False, True, False))
    places.works(working)
    assert places.admit("a")
    assert (working.closed, certified.closed, stranger.closed) == (False, False, True)
    Link(places, "a")
    assert places.admit("a")
    fresh = Link(places, "a")
    places.works(fresh)
    assert places.admit("a")
    assert certified.closed
    third = Link(places, "a")
    places.works(third)
    assert not places.admit("a")
    assert not working.closed
    places.waits(working)
    assert places.admit("a")
    assert working.closed


def test_the_log_has_one_line_a_period(caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    places = Places(2, now=lambda: clock[0])
    with caplog.at_level(logging.WARNING):
        opened(places, "a", 1000)
        places.shed()
        assert len(caplog.records) == 1
        clock[0] = LOG_SECONDS
        places.shed()
    assert len(caplog.records) == 2
    assert vars(caplog.records[1])["closed"] == 999


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (64, 128, 64),
        (256, 4096, 4096 - RESERVE),
        (1024, 2**20, CONNECTIONS_MAX),
        (1024, resource.RLIM_INFINITY, CONNECTIONS_MAX),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, CONNECTIONS_MAX),
    ],
)
def test_the_limit_follows_that_of_file_descriptors(
    soft: int, hard: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: set_to.append(limits))
    assert connections_max() == expected
    assert all(top > expected and kept == hard for top, kept in set_to)
