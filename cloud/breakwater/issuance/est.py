"""Use cases of EST (RFC 7030): the CA certificates, a service's first certificate, renewals.

No HTTP and no SQL. Rule: a name never comes out of a request. An enrolling service is the one that its secret was made
for; a renewing service is the one that its TLS certificate names; a node renews the device certificate of its
session's generation.
"""

import hashlib
from collections.abc import Callable
from typing import Protocol

from cloud.breakwater.errors import CsrRefused, NotAdmitted, ValueRefused
from cloud.breakwater.issuance.enrolment import Enrolments, caller_of
from cloud.http.guard import Credentials
from cloud.mtls.peer import NodePeer, Peer, ServicePeer
from protocol.ids import NodeSpiffeId
from protocol.messages.est import REQUEST_ID
from protocol.messages.sessions import Certificate

CaCertificates = Callable[[], tuple[bytes, ...]]


class Issues(Protocol):
    """`cloud.breakwater.issuance.issuing.Issuing`, as far as EST needs it."""

    async def issue_service(
        self, name: str, csr_der: bytes, request_id: str, caller: str, shown: int = 0
    ) -> Certificate: ...

    async def renew_device(
        self, spiffe: NodeSpiffeId, generation: int, csr_der: bytes, request_id: str
    ) -> Certificate: ...


class Est:
    """EST over an issuer. `ca_certificates` are all trusted CAs, in DER."""

    def __init__(self, issuing: Issues, enrolments: Enrolments, ca_certificates: CaCertificates) -> None:
        self._issuing = issuing
        self._enrolments = enrolments
        self._ca_certificates = ca_certificates

    def ca_certificates(self) -> tuple[bytes, ...]:
        """Roots, issuing CAs, and what crosses them."""
        return self._ca_certificates()

    async def enrol(self, credentials: Credentials, csr: bytes, host: str) -> bytes:
        """A service's first certificate, for its one-time secret. `host` is where the request came from.

        The secret is judged before the request is taken apart, and bound to it before anything is issued; a request
        that is refused for what it is gives the secret free again.

        Raises:
            EnrolmentRefused, TriedTooOften, and as `Issuing.issue_service`.
        """
        digest = hashlib.sha256(csr).hexdigest()
        row = await self._enrolments.judge(credentials.service, credentials.secret, digest, host)
        await self._enrolments.bind(row, digest, host)
        try:
            issued = await self._issuing.issue_service(row.service, csr, digest, caller_of(row.id))
        except (CsrRefused, NotAdmitted):
            await self._enrolments.give_back(row, digest)
            raise
        return issued.certificate_chain[0]

    async def reenrol(self, peer: Peer, csr: bytes, request: str = "") -> bytes:
        """The next certificate of a service, or the next device certificate of a node.

        `request` names the request. Without it a service's is named by the CSR and the certificate that it shows, so
        that a CSR kept in a file serves for the next renewal too, while a repeat gets what the first try made; a
        node's by the CSR alone, for its session certificate says nothing of its device certificate.

        Raises:
            ValueRefused: `request` is not of the form `REQUEST_ID`.
            And as `Issuing.issue_service` and `Issuing.renew_device`.
        """
        if request and not REQUEST_ID.fullmatch(request):
            raise ValueRefused("a request's name is 1 to 128 letters, digits or _ . : -")
        digest = hashlib.sha256(csr).hexdigest()
        if isinstance(peer, ServicePeer):
            name, caller = request or f"{digest}.{peer.serial:x}", f"service/{peer.name}"
            issued = await self._issuing.issue_service(peer.name, csr, name, caller, peer.serial)
        elif isinstance(peer, NodePeer):
            issued = await self._issuing.renew_device(peer.spiffe, peer.generation, csr, request or digest)
        else:
            raise NotAdmitted("there is no certificate to renew")
        return issued.certificate_chain[0]
