"""Hook: run after a revocation. It counts the event and wakes the CRL publisher.

A revocation by another process arrives as a hint (`cloud.events.doorbell`). If the hint is lost, the publisher finds the
revocation when it next looks at the database. Other services learn it from an event.
"""

from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.revocation.crl_publisher import CrlPublisher
from cloud.breakwater.store.revocation_writes import HINT_REVOKED
from cloud.contracts.breakwater import RevocationReason
from cloud.events.doorbell import Doorbell


class RevocationNotifier:
    """Called after each change that may have revoked certificates.

    `kind` says what was revoked: `generation`, `key` or `service`.
    """

    def __init__(self, metrics: IssuerMetrics, crl_publisher: CrlPublisher) -> None:
        self._metrics = metrics
        self._crl_publisher = crl_publisher

    def __call__(self, kind: str, reason: RevocationReason) -> None:
        self._metrics.revoked.add(kind, reason)
        self._crl_publisher.wake()

    def listen(self, doorbell: Doorbell) -> None:
        """Take the hints of other processes about revocations."""

        async def missed() -> None:
            self._crl_publisher.wake()

        doorbell.on_hint(HINT_REVOKED, lambda _: self._crl_publisher.wake(), missed)
