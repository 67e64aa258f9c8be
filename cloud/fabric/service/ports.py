"""Ports that most use cases of Fabric take from the wiring: clock, transaction, wake-up of the background work."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from cryptography import x509

Now = Callable[[], datetime]
"""The time, aware and in UTC."""
Transaction = Callable[[], AbstractAsyncContextManager[object]]
"""Begins one transaction over all stores: durable when its block ends."""
WakeBackground = Callable[[], None]
"""Lets the background work look at the rows at once; called after the commit."""
ServiceCertificates = Callable[[], Mapping[str, x509.Certificate]]
"""The TLS certificates of the services that are known here, by the service's name."""
