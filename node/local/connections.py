"""Pure functions: which connection of the socket is closed to make room for a new one.

Root and the agent's own user have places of their own, so other users cannot take these. A user may hold as many
connections as places are free. So a user alone has half of the places, and the share shrinks as the places fill. Above
the share, a new connection closes the connection of its user that has been open longest. If another user holds more,
it closes the longest open connection of that user.
"""

from collections import Counter
from collections.abc import Callable, Iterator

PLACES = 64
"""Local programs ask once a minute, and an answer takes a millisecond."""
PLACES_PRIVILEGED = 64
"""For programs of root and of the agent's user, and for their command lines. A renewal can hold a place for two minutes."""


class Connection:
    """One open connection. `close` ends it. `busy`: the agent works on its request, so it is not closed."""

    def __init__(self, user: int, close: Callable[[], None]) -> None:
        self.user = user
        self.close = close
        self.busy = False


class Table:
    """The connections that share `places` places, the longest open first."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._open: dict[Connection, None] = {}
        self._held: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def held(self, user: int) -> int:
        """The number of connections that a user holds."""
        return self._held[user]

    def admit(self, connection: Connection) -> bool:
        """Take a new connection, and close another one if its user is above the share. False if there is no room."""
        if self._held[connection.user] >= self._places - len(self._open) and not self.make_room(connection.user):
            return False
        self._open[connection] = None
        self._held[connection.user] += 1
        return True

    def make_room(self, user: int) -> bool:
        """Close the longest open connection of the user who holds most, if that is more than `user` holds.

        Otherwise the longest open connection of `user` is closed. Returns False if no such connection may be closed.
        """
        for payer in self._payers(user):
            for each in self._open:
                if each.user == payer and not each.busy:
                    self.remove(each)
                    each.close()
                    return True
        return False

    def remove(self, connection: Connection) -> None:
        """Forget a connection. A connection that is not in the table is no error."""
        if connection in self._open:
            del self._open[connection]
            self._held[connection.user] -= 1

    def _payers(self, user: int) -> Iterator[int]:
        mine = self._held[user]
        yield from (other for other, count in self._held.most_common() if count > mine)
        yield user
