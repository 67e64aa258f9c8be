"""Use case and background task: renew Breakwater's own certificate in its own process, and follow changes of the CAs.

Other services renew over EST. An event tells them that Breakwater's certificate is of another CA.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.store.events import EventStore
from cloud.mtls.anchors import client_anchors
from cloud.mtls.identity import Identity
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer
from cloud.mtls.renewal import IdentityRenewal, Rekey
from cloud.mtls.server import ServerTls
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point
from protocol.messages.sessions import Certificate

log = logging.getLogger("cascade.breakwater.identity")

RETRY_SECONDS = 1.0
"""Pause after a failure of the database."""


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
        event_store: EventStore,
        now: Callable[[], datetime],
    ) -> None:
        self._authorities = authorities
        self._event_store = event_store
        self._changed = asyncio.Event()
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
        """Have the CA of the certificate published, if it is another one."""
        self._changed.set()

    async def publish_issuer(self, stopping: Stopping) -> None:
        """Background task: publish the CA of the certificate, at the start and after each change.

        The event comes after the certificate is in use. So a service that reconnects after the event gets the new
        certificate.
        """
        pause: float | None = None
        while not await stopping.first(self._changed, pause):
            self._changed.clear()
            try:
                await self._publish()
                pause = None
            except StorageError as error:
                log.error("cannot publish the CA of the own certificate", extra={"error": str(error)})
                pause = RETRY_SECONDS

    async def _publish(self) -> None:
        try:
            issuer = require_issuer(self.renewal.identity.leaf, self._authorities.peer_trust().service_issuers)
        except PeerRefused:
            return  # the CA is not trusted any more: the renewal follows
        key_id = key_id_of(issuer)
        for row in self._authorities.rows():
            known = self._authorities.find(row.id)
            if known is not None and row.ca == "services" and known.key_id.hex() == key_id:
                with fault_point("breakwater.identity.publish"):
                    await self._event_store.identity(row.id, key_id)
