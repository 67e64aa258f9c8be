"""In-memory state: the session with the cloud that the agent holds, and the connections over it.

`Connection` is its only owner. The session key exists here and nowhere else; closing forgets it.
"""

from datetime import datetime

import trio

from node.exchanges import schedule
from node.exchanges.session import Credentials
from node.link import api
from node.trust.published import TrustSet


class Connection:
    """At most one session with its HTTP client for Fabric."""

    def __init__(self) -> None:
        self._credentials: Credentials | None = None
        self._fabric: api.Service | None = None
        self._opened_under: TrustSet | None = None
        self._opened = trio.Event()
        self.cursor = 0
        """The wake channel's position that the held statement reflects; at 0 the first poll is answered at once."""

    @property
    def credentials(self) -> Credentials | None:
        return self._credentials

    @property
    def fabric(self) -> api.Service | None:
        """Fabric over the session."""
        return self._fabric

    @property
    def session_until(self) -> datetime | None:
        """The end of the session certificate."""
        return self._credentials.not_after if self._credentials else None

    async def wait_open(self) -> api.Service:
        """Wait until there is a session; returns Fabric over it."""
        while self._fabric is None:
            await self._opened.wait()
        return self._fabric

    def serves(self, trust: TrustSet, now: datetime) -> bool:
        """Whether the session can be used for the next exchange.

        It must have been opened under the same servers and issuers, and not be due for renewal.
        """
        held, under = self._credentials, self._opened_under
        if held is None or under is None or not same_peers(under, trust):
            return False
        return now < schedule.session_renewal_at(held.not_before, held.not_after)

    async def replace(self, credentials: Credentials, trust: TrustSet) -> None:
        """Hold another session, opened under `trust`."""
        await self.close()
        self._credentials = credentials
        self._opened_under = trust
        self._fabric = credentials.connect(trust, "fabric")
        self._opened.set()

    def outdate(self) -> None:
        """Keep the session until the next exchange, which opens another one."""
        self._opened_under = None

    async def close(self) -> None:
        """Forget the session."""
        # Forgotten before it is closed: closing waits, and no other task may meet a closed client meanwhile.
        fabric, self._fabric, self._credentials = self._fabric, None, None
        if fabric is not None:
            self._opened = trio.Event()
            await fabric.aclose()


def same_peers(one: TrustSet, other: TrustSet) -> bool:
    """Whether both trust the same servers and issuers."""
    return (one.bundle, one.urls) == (other.bundle, other.urls)
