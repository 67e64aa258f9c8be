"""The trust that this Fabric works by now: the newest published bundle, and what follows from it.

One object, made empty before the database is open (it trusts nobody then) and changed by the follower alone; everybody
else reads. The published bundle is the only source: the certificates that `cascade init` lays into a folder are the seed
of the first publication and are not read again.
"""

from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.fabric.tuf.targets import read_certificates
from cloud.mtls.peer import PeerTrust, key_id_of
from protocol.signed.trust import X509Bundle


class RenewalOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's order that device certificates made before `after` are renewed once that time has come.

    Leases signed before `starts_at`, when that time has come and every replica knows the order, lack it: a fleet that
    held the order before would act on it in one heartbeat. The nodes are woken one after the other, by id, over
    `spread_seconds` from there: `woken` of about `nodes`, up to the id `woken_up_to`. A node whose turn has come gets its
    lease signed again when it asks; a lease that is due from there on has the order too.
    """

    after: datetime
    reason: str
    set_at: datetime
    starts_at: datetime
    spread_seconds: int
    nodes: int
    woken: int = 0
    woken_up_to: str = ""
    done: bool = False

    def reached(self, node: str) -> bool:
        """Whether the node's turn has come: every node asks at each heartbeat, woken or not."""
        return self.done or node <= self.woken_up_to


class CurrentTrust:
    """Roots and issuers by the published bundle of `version` (0: none yet), and the order to renew, if there is one.

    `sessions_until`: by key id of an issuing CA, the time after which no session certificate of that CA counts.
    """

    def __init__(self, trust_domain: str) -> None:
        self.version = 0
        self.trust = PeerTrust(trust_domain, (), ())
        self.roots: tuple[x509.Certificate, ...] = ()
        self.order: RenewalOrder | None = None
        self.sessions_until: dict[str, datetime] = {}
        self._key_ids: dict[bytes, str] = {}

    @property
    def ca_pem(self) -> bytes:
        """The roots, for TLS contexts."""
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.roots)

    def replace(self, version: int, bundle: X509Bundle) -> None:
        """Trust another bundle from now on. Raises TargetsError, and nothing is changed."""
        roots, nodes, services = (
            read_certificates(ders) for ders in (bundle.roots, bundle.node_issuers, bundle.service_issuers)
        )
        ders = (*bundle.node_issuers, *bundle.service_issuers)
        self._key_ids = dict(zip(ders, map(key_id_of, (*nodes, *services)), strict=True))
        self.roots = roots
        self.trust = PeerTrust(self.trust.trust_domain, nodes, services, roots)
        self.version = version

    def key_id(self, der: bytes) -> str:
        """The key id of an issuing CA's certificate. Raises ValueError for what is none."""
        return self._key_ids.get(der) or key_id_of(x509.load_der_x509_certificate(der))
