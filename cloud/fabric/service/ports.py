"""Ports: types of arguments that most use cases of Fabric take. Clock, transaction, wake-up of the background work."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from cryptography import x509

Now = Callable[[], datetime]
"""Returns the time, aware and in UTC."""
Transaction = Callable[[], AbstractAsyncContextManager[object]]
"""Begins one transaction over all stores. It is committed when its block ends."""
WakeBackground = Callable[[], None]
"""Starts a pass of the background work at once. Called after the commit."""
ServiceCertificates = Callable[[], Mapping[str, x509.Certificate]]
"""Returns the TLS certificates of the services that Fabric knows, by the service's name."""
