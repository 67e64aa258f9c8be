"""Pure functions: limit how many renewals may be started, before any query.

A process counts starts by node, by tenant and in whole. Anyone can make a certificate in any node's name. So certificates
that no published CA signed are counted by the source and IPv6 site of the request and in a separate whole, and cannot
use up the places of real certificates. A copy of a device certificate uses up the places of its node only.
"""

from datetime import datetime

from cloud.fabric.errors import TooOften
from cloud.tasks.buckets import Buckets, Level, Rate, admit
from cloud.tasks.source import site_of
from protocol.ids import NodeId, TenantId

STARTS_PER_NODE = Rate(10, 6.0)
"""A machine needs one start. A node with the certificate of an older CA may start again every six seconds."""
STARTS_PER_TENANT = Rate(4_000, 0.1)
STARTS_WHOLE = Rate(12_000, 0.05)
"""Twenty a second admit a quarter of a million machines in the four hours after a long outage."""
STARTS_PER_SOURCE = Rate(1_200, 0.5)
"""Starts of one source with certificates that no published CA signed. A site of 600 machines starts at once."""


class RenewalStarts:
    """Counts the starts of renewals. A restart sets the counts to zero. The rows limit open and proved renewals."""

    def __init__(self, whole: Rate = STARTS_WHOLE, factor: float = 1.0) -> None:
        """`whole`: the limit of all nodes together, and of all sources together. `factor` multiplies all limits."""
        self._whole = whole.times(factor)
        self._factor = factor
        self._nodes, self._tenants, self._wholes = Buckets(), Buckets(), Buckets()
        self._sources, self._sites = Buckets(), Buckets()

    def count(self, tenant: TenantId, node: NodeId, source: str, now: datetime, *, proven: bool) -> None:
        """Count one start. A refused start is not counted. Raises TooOften.

        `proven`: a published CA signed the certificate that names the node.
        """
        if proven:
            own = [
                Level(self._nodes, node, STARTS_PER_NODE.times(self._factor)),
                Level(self._tenants, tenant, STARTS_PER_TENANT.times(self._factor)),
            ]
        else:
            own = [Level(self._sources, source, STARTS_PER_SOURCE.times(self._factor))]
            if site := site_of(source):
                own.append(Level(self._sites, site, self._whole.half))
        wait = admit([*own, Level(self._wholes, proven, self._whole)], now.timestamp())
        if wait > 0:
            raise TooOften("too many renewals were started", wait)
