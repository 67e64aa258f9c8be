"""Effects: what Fabric does with Breakwater's events.

It stores the revoked certificates of services, and the CA of Breakwater's own certificate. A revocation takes effect in
memory before it is stored, also if it cannot be stored.
"""

from collections.abc import Callable, Iterable, Sequence

from cloud.contracts.breakwater_events import (
    AUTHORITY,
    GENERATIONS,
    IDENTITY,
    SERVICE_CERTIFICATE,
    IdentityV1,
    ServiceCertificateV1,
)
from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import Event
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.keys import REVOKED
from cloud.fabric.store.revoked import RevokedStore
from cloud.mtls.revoked import RevokedCertificate, RevokedSet


class IssuerEvents:
    """The effects of Breakwater's events. `issuing` is called with the key id of the CA of Breakwater's certificate."""

    nouns: Sequence[EventNoun] = (SERVICE_CERTIFICATE, IDENTITY)
    ignored: Iterable[str] = (AUTHORITY.noun, GENERATIONS.noun)
    keys: Sequence[str] = (REVOKED,)

    def __init__(
        self,
        revoked: RevokedSet,
        store: RevokedStore,
        installation: InstallationStore,
        issuing: Callable[[str], None],
    ) -> None:
        self._revoked = revoked
        self._store = store
        self._installation = installation
        self._issuing = issuing

    async def load(self) -> None:
        """Read what earlier events have stored. Called before Fabric listens. Raises StorageError."""
        await self._revoked.load()
        issuer = await self._installation.issuer()
        if issuer:
            self._issuing(issuer)

    def hear(self, event: Event, body: object) -> None:
        """Refuse a revoked certificate from now on, and report another CA of Breakwater's certificate."""
        if isinstance(body, ServiceCertificateV1):
            self._revoked.add(RevokedCertificate(body.serial, body.not_after))
        elif isinstance(body, IdentityV1):
            self._issuing(body.issuer)

    async def apply(self, event: Event, body: object) -> None:
        """Store what `hear` has taken into memory."""
        if isinstance(body, ServiceCertificateV1):
            await self._store.add(RevokedCertificate(body.serial, body.not_after))
        elif isinstance(body, IdentityV1):
            await self._installation.set_issuer(body.issuer)

    async def absent(self, subject: str) -> None:
        """Keep what is stored: a restored Breakwater may have forgotten a revocation, and it stays revoked."""
