"""In-memory state: the agent's session with the cloud, and the HTTP client that uses it.

`Connection` is the only owner of the session key. `close` drops the key.
"""

from collections.abc import Callable
from datetime import datetime

import trio

from node.exchanges import schedule
from node.exchanges.session import Credentials
from node.link import api
from node.link.certificates import Window
from node.trust.published import TrustSet


class Connection:
    """At most one session with its HTTP client for Fabric."""

    def __init__(self, window: Callable[[], Window]) -> None:
        """`window` returns the times at which the dates of servers' certificates are judged."""
        self._window = window
        self._credentials: Credentials | None = None
        self._fabric: api.Service | None = None
        self._opened_under: TrustSet | None = None
        self._opened = trio.Event()
        self.cursor = 0
        """The position of the wake channel that the current statement reflects. At 0 the first poll returns at once."""

    @property
    def credentials(self) -> Credentials | None:
        """Key and certificate of the session; None without a session."""
        return self._credentials

    @property
    def fabric(self) -> api.Service | None:
        """The client of Fabric that uses the session; None without a session."""
        return self._fabric

    @property
    def session_until(self) -> datetime | None:
        """`notAfter` of the session certificate; None without a session."""
        return self._credentials.not_after if self._credentials else None

    async def wait_open(self) -> api.Service:
        """Wait until there is a session; returns Fabric over it."""
        while self._fabric is None:
            await self._opened.wait()
        return self._fabric

    def serves(self, trust: TrustSet, now: datetime) -> bool:
        """Whether the next exchange can use the session.

        The session must have been opened under the same service URLs and X.509 bundle, and must not be due for renewal.
        """
        held, under = self._credentials, self._opened_under
        if held is None or under is None or not same_peers(under, trust):
            return False
        return now < schedule.session_renewal_at(held.not_before, held.not_after)

    async def replace(self, credentials: Credentials, trust: TrustSet) -> None:
        """Close the present session, and use `credentials` from now on. They were obtained under `trust`.

        Raises CertificateRejected, and then keeps the present session.
        """
        fabric = credentials.connect(trust, "fabric", self._window)
        await self.close()
        self._credentials = credentials
        self._opened_under = trust
        self._fabric = fabric
        self._opened.set()

    def outdate(self) -> None:
        """Keep the session until the next exchange, which then opens a new one."""
        self._opened_under = None

    async def close(self) -> None:
        """Drop the session and its key."""
        # Dropped before it is closed: closing waits, and meanwhile no other task may use the closed client.
        fabric, self._fabric, self._credentials = self._fabric, None, None
        if fabric is not None:
            self._opened = trio.Event()
            await fabric.aclose()


def same_peers(one: TrustSet, other: TrustSet) -> bool:
    """Whether both have the same service URLs and the same X.509 bundle."""
    return (one.bundle, one.urls) == (other.bundle, other.urls)
