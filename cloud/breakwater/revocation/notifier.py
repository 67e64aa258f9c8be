"""Hook: run after a revocation. It counts the event and wakes the CRL publisher and the feed.

A revocation by another process arrives as a hint over the database (`cloud.storage.hints`). If the hint is lost, the
publisher and the feed find the revocation when they next look at the database.
"""

from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.revocation.crl_publisher import CrlPublisher
from cloud.breakwater.revocation.feed import RevocationFeed
from cloud.contracts.breakwater import RevocationReason
from cloud.storage import ServiceEngine
from cloud.tasks.stopping import Stopping


class RevocationNotifier:
    """Called after each change that may have revoked certificates.

    `kind` says what was revoked: `generation`, `key` or `service`.
    """

    def __init__(
        self, metrics: IssuerMetrics, crl_publisher: CrlPublisher, feed: RevocationFeed, engine: ServiceEngine
    ) -> None:
        self._metrics = metrics
        self._crl_publisher = crl_publisher
        self._feed = feed
        self._engine = engine

    def __call__(self, kind: str, reason: RevocationReason) -> None:
        self._metrics.revoked.add(kind, reason)
        self._wake()

    async def follow_hints(self, stopping: Stopping) -> None:
        """Background task: send hints about revocations, and take those of other processes, until the process stops."""

        async def connected() -> None:
            self._wake()

        await self._engine.listen(lambda _: self._wake(), connected, stopping)

    def _wake(self) -> None:
        self._crl_publisher.wake()
        self._feed.wake()
