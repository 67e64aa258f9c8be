"""Breakwater's own certificate: renewed by the issuer in its own process, and kept in step with the authorities.

Other services renew over EST, and the feed reports a change of CA to them.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.revocation.feed import RevocationFeed
from cloud.mtls.identity import Identity
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer
from cloud.mtls.renewal import IdentityRenewal, Rekey
from cloud.mtls.server import ServerTls
from protocol.messages.sessions import Certificate


class IssuesServices(Protocol):
    """`cloud.breakwater.issuance.issuing.Issuing`, as far as it is needed here."""

    async def issue_service(
        self, name: str, csr_der: bytes, request_id: str, caller: str, shown: int = 0
    ) -> Certificate: ...


class LocalIssuerClient:
    """Adapter: Breakwater asks its own issuer, as other services ask it over EST (`cloud.mtls.renewal.IssuerClient`)."""

    def __init__(self, issuing: IssuesServices, ca_certificates: Callable[[], tuple[bytes, ...]]) -> None:
        self._issuing = issuing
        self._ca_certificates = ca_certificates

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        """The next certificate of Breakwater's own listener."""
        issued = await self._issuing.issue_service("breakwater", csr, request, "service/breakwater")
        return issued.certificate_chain[0]

    async def ca_certificates(self) -> tuple[bytes, ...]:
        """Every trusted CA."""
        return self._ca_certificates()


class OwnIdentity:
    """The certificate in `directory`, the TLS context that serves it, and the background task that renews it."""

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
        self.tls = ServerTls(identity.chain_pem, identity.key, authorities.roots_pem())
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
        self.tls.retrust(authorities.roots_pem())
        self._follow(authorities)

    def _follow(self, authorities: Authorities) -> None:
        active = [row.certificate for row in authorities.rows() if row.ca == "services" and row.state == "active"]
        self.renewal.trust_changed(tuple(x509.load_der_x509_certificate(der) for der in active))
        self._report_issuer()

    async def _renewed(self, _: Identity) -> None:
        self._report_issuer()

    def _report_issuer(self) -> None:
        """Report to the feed which CA the certificate is of; empty while that CA is not trusted.

        Breakwater is the first to have a certificate of an activated CA: who hears of it here and connects again gets
        that certificate shown.
        """
        try:
            issuer = require_issuer(self.renewal.identity.leaf, self._authorities.peer_trust().service_issuers)
        except PeerRefused:
            self._feed.report_issuer("")
        else:
            self._feed.report_issuer(key_id_of(issuer))
