"""Hook: run after this process revoked certificates. It counts the event and wakes the CRL publisher and the feed.

Other processes find revocations by polling the database.
"""

from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.revocation.crl_publisher import CrlPublisher
from cloud.breakwater.revocation.feed import RevocationFeed
from cloud.contracts.breakwater import RevocationReason


class RevocationNotifier:
    """Called after each change that may have revoked certificates.

    `kind` says what was revoked: `generation`, `key` or `service`.
    """

    def __init__(self, metrics: IssuerMetrics, crl_publisher: CrlPublisher, feed: RevocationFeed) -> None:
        self._metrics = metrics
        self._crl_publisher = crl_publisher
        self._feed = feed

    def __call__(self, kind: str, reason: RevocationReason) -> None:
        self._metrics.revoked.add(kind, reason)
        self._crl_publisher.wake()
        self._feed.wake()
