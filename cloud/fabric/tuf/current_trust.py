"""Process state: the trust that this Fabric uses now, taken from the newest published bundle.

The wiring makes one object before the database is open. At that time it trusts no certificate. The follower replaces
its bundle. Only the published bundle is used: the certificates that `cascade init` writes into a folder went into the
first publication, and Fabric never reads them again.
"""

from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.crypto.validity import outside
from cloud.fabric.tuf.targets import read_certificates
from cloud.mtls.peer import PeerTrust, key_id_of
from protocol.signed.trust import X509Bundle


class RenewalOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A renewal order: nodes renew their device certificates made before `after`.

    At `starts_at` the time `after` has come, and every replica knows the order. Leases signed before `starts_at` do not
    carry the order. If they did, the whole fleet would renew within one heartbeat. From `starts_at` on, Fabric wakes
    the nodes one after the other, in order of id, over `spread_seconds`. `woken` of about `nodes` nodes have been
    woken, up to the id `woken_up_to`. When a woken node requests its statement, its lease is signed again and carries
    the order. Every other lease that is signed after `starts_at` carries the order too. `done`: all have been woken.
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
        """Whether the order has reached the node. Checked at every request, since nodes ask without being woken too."""
        return self.done or node <= self.woken_up_to


class CurrentTrust:
    """Roots and issuers of the published bundle, its `version` (0: none yet), and the renewal order, if there is one.

    `sessions_until` maps the key id of an issuing CA to the time after which all its session certificates have expired.
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
        """The roots in PEM, for TLS contexts."""
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.roots)

    def replace(self, version: int, bundle: X509Bundle) -> None:
        """Replace the bundle. Raises TargetsError for an unreadable certificate, and then changes nothing."""
        roots, nodes, services = (
            read_certificates(ders) for ders in (bundle.roots, bundle.node_issuers, bundle.service_issuers)
        )
        ders = (*bundle.node_issuers, *bundle.service_issuers)
        self._key_ids = dict(zip(ders, map(key_id_of, (*nodes, *services)), strict=True))
        self.roots = roots
        self.trust = PeerTrust(self.trust.trust_domain, nodes, services, roots)
        self.version = version

    def outside(self, now: datetime) -> str:
        """Return why no peer can use the bundle now. Return "" if peers can.

        Of the roots, of the issuers of nodes, and of the issuers of services, one at least has to be valid.
        """
        for name, certificates in (
            ("root", self.roots),
            ("CA of nodes", self.trust.node_issuers),
            ("CA of services", self.trust.service_issuers),
        ):
            faults = [outside(ca.not_valid_before_utc, ca.not_valid_after_utc, now) for ca in certificates]
            if faults and all(faults):
                return f"no published {name} is valid: the last {faults[-1]}"
        return ""

    def key_id(self, der: bytes) -> str:
        """The key id of a CA certificate (DER). Raises ValueError if the bytes are not a certificate."""
        return self._key_ids.get(der) or key_id_of(x509.load_der_x509_certificate(der))
