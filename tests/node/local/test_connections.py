"""Which connection is closed to make room for a new one."""

from collections import Counter

from hypothesis import given, settings, strategies

from node.local.connections import Connection, Table


class Door:
    """A table, and the users of the connections that it closed."""

    def __init__(self, places: int) -> None:
        self.table = Table(places)
        self.closed: list[int] = []
        self.connections: list[Connection] = []

    def open(self, user: int, *, busy: bool = False) -> bool:
        number = len(self.connections)
        connection = Connection(user, lambda: self.closed.append(number))
        connection.busy = busy
        self.connections.append(connection)
        return self.table.admit(connection)


def test_a_user_alone_has_half_of_the_places() -> None:
    door = Door(8)
    assert all(door.open(1) for _ in range(6))
    assert (door.table.held(1), door.closed) == (4, [0, 1])


def test_the_share_shrinks_as_the_table_fills() -> None:
    door = Door(8)
    for user in (1, 1, 1, 1, 2, 2, 3, 3, 4, 4):
        assert door.open(user)
    assert [door.table.held(user) for user in (1, 2, 3, 4)] == [2, 2, 2, 2]
    assert door.closed == [0, 1]


def test_more_users_than_places_take_turns() -> None:
    door = Door(4)
    assert all(door.open(user) for user in range(6))
    assert door.closed == [0, 1]
    assert len(door.table) == 4


def test_a_busy_connection_is_not_closed() -> None:
    door = Door(4)
    assert door.open(1, busy=True)
    assert door.open(1)
    assert door.open(1)
    assert door.closed == [1]
    full = Door(1)
    assert full.open(1, busy=True)
    assert not full.open(1)
    assert not full.open(2)


def test_a_connection_that_has_ended_frees_its_place_once() -> None:
    door = Door(2)
    door.open(1)
    door.table.remove(door.connections[0])
    door.table.remove(door.connections[0])
    assert (len(door.table), door.table.held(1)) == (0, 0)


@settings(max_examples=50)
@given(strategies.lists(strategies.integers(1, 9), max_size=60), strategies.integers(2, 12))
def test_every_user_gets_in_and_only_the_greediest_pay(users: list[int], places: int) -> None:
    door, held = Door(places), Counter[int]()
    for user in users:
        before = len(door.closed)
        assert door.open(user)
        held[user] += 1
        for number in door.closed[before:]:
            payer = door.connections[number].user
            held[payer] -= 1
            assert payer == user or held[payer] + 1 > held[user] - 1
        assert len(door.table) <= places
        assert all(door.table.held(each) == held[each] for each in held)
