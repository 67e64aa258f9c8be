"""Ports: types of arguments that most use cases of Fabric take. Clock, transaction, wake-up of the background work."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from cryptography import x509

from cloud.fabric.store.rows import GenerationRow, NodeRow

Now = Callable[[], datetime]
"""Returns the time, aware and in UTC."""


class Transaction(Protocol):
    """Begins one transaction over all stores. It is committed when its block ends."""

    def __call__(
        self, *keys: str, reads: tuple[str, ...] = (), patience: float | None = None
    ) -> AbstractAsyncContextManager[object]:
        """Begin a transaction with these keys. `cloud.fabric.store.keys` has the rules, `cloud.storage` the errors."""


class Presented(Protocol):
    """Takes up the statements that nodes present, after a restore of the cloud."""

    def waits(self, node: NodeRow) -> bool:
        """Whether the node gets no new lease for now."""

    async def settle(self, node: NodeRow, generation: GenerationRow, token: str) -> tuple[NodeRow, GenerationRow]:
        """Take up the statement `token` that the node presents. Returns the present rows."""


WakeBackground = Callable[[], None]
"""Starts a pass of the background work at once. Called after the commit."""
ServiceCertificates = Callable[[], Mapping[str, x509.Certificate]]
"""Returns the TLS certificates of the services that Fabric knows, by the service's name."""
