"""Use case and background task: renew Breakwater's own certificate in its own process, and follow changes of the CAs.

Other services renew over EST. The revocation feed reports a change of the CA to them.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.revocation.feed import RevocationFeed
from cloud.mtls.anchors import client_anchors
from cloud.mtls.identity import Identity
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer
from cloud.mtls.renewal import IdentityRenewal, Rekey
from cloud.mtls.server import ServerTls
from protocol.messages.sessions import Certificate


class IssuesServices(Protocol):
    """Port: issues service certificates. `cloud.breakwater.issuance.issuing.Issuing` is the adapter."""

    async def issue_service(
        self, name: str, csr_der: bytes, request_id: str, caller: str, shown: int = 0
    ) -> Certificate: ...


class LocalIssuerClient:
    """Adapter for `cloud.mtls.renewal.IssuerClient`: calls the issuer in this process instead of using EST."""

    def __init__(self, issuing: IssuesServices, ca_certificates: Callable[[], tuple[bytes, ...]]) -> None:
        self._issuing = issuing
        self._ca_certificates = ca_certificates

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        """Issue Breakwater's next certificate for a CSR (DER) and return it in DER."""
        issued = await self._issuing.issue_service("breakwater", csr, request, "service/breakwater")
        return issued.certificate_chain[0]

    async def ca_certificates(self) -> tuple[bytes, ...]:
        """Return every trusted CA certificate in DER."""
        return self._ca_certificates()


class OwnIdentity:
    """Breakwater's certificate in `directory`, the TLS context that uses it, and the background task that renews it."""

    def __init__(
        self,
        identity: Identity,
        directory: Path,
        passphrase_file: Path,
        *,
        issuing: IssuesServices,
        authorities: Authorities,
        feed: RevocationFeed,
        now: Callable[[], datetime],
    ) -> None:
        self._authorities = authorities
        self._feed = feed
        self.tls = ServerTls(identity.chain_pem, identity.key, client_anchors(authorities.peer_trust()))
        self.renewal = IdentityRenewal(
            identity,
            directory,
            trust=authorities.peer_trust,
            issuer=LocalIssuerClient(issuing, authorities.ca_certificates),
            now=now,
            server_tls=(self.tls,),
            on_renewed=(self._renewed,),
            rekey=Rekey(passphrase_file),
        )
        authorities.on_change(self._authorities_changed)
        self._follow(authorities)

    def _authorities_changed(self, authorities: Authorities) -> None:
        self.tls.retrust(client_anchors(authorities.peer_trust()))
        self._follow(authorities)

    def _follow(self, authorities: Authorities) -> None:
        active = [row.certificate for row in authorities.rows() if row.ca == "services" and row.state == "active"]
        self.renewal.trust_changed(tuple(x509.load_der_x509_certificate(der) for der in active))
        self._report_issuer()

    async def _renewed(self, _: Identity) -> None:
        self._report_issuer()

    def _report_issuer(self) -> None:
        """Report the CA of the certificate to the feed; an empty key id if that CA is not trusted.

        The feed reports a new CA only after Breakwater has a certificate from it. So a service that reconnects after
        the report gets the new certificate.
        """
        try:
            issuer = require_issuer(self.renewal.identity.leaf, self._authorities.peer_trust().service_issuers)
        except PeerRefused:
            self._feed.report_issuer("")
        else:
            self._feed.report_issuer(key_id_of(issuer))
