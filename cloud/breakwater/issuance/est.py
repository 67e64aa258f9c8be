"""Use cases of EST (RFC 7030): CA certificates, a service's first certificate, and renewals.

This module contains no HTTP and no SQL. Rule: No name comes from a request. The secret determines the service that
enrols. The TLS certificate determines the service that renews. A node's session certificate determines the generation
whose device certificate is renewed.
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
    """Port: issues certificates. `cloud.breakwater.issuance.issuing.Issuing` is the adapter."""

    async def issue_service(
        self, name: str, csr_der: bytes, request_id: str, caller: str, shown: int = 0
    ) -> Certificate: ...

    async def renew_device(
        self, spiffe: NodeSpiffeId, generation: int, csr_der: bytes, request_id: str
    ) -> Certificate: ...


class Est:
    """The operations of EST. `ca_certificates` returns all trusted CA certificates in DER."""

    def __init__(self, issuing: Issues, enrolments: Enrolments, ca_certificates: CaCertificates) -> None:
        self._issuing = issuing
        self._enrolments = enrolments
        self._ca_certificates = ca_certificates

    def ca_certificates(self) -> tuple[bytes, ...]:
        """Return all trusted CA certificates in DER: roots, issuing CAs, cross-certificates."""
        return self._ca_certificates()

    async def enrol(self, credentials: Credentials, csr: bytes, host: str) -> bytes:
        """Issue a service's first certificate for a one-time secret, and return it in DER.

        `host` is the address of the caller. The secret is checked before the CSR is parsed, and bound to the CSR before
        a certificate is issued. If the CSR is refused, the secret can be used for another CSR.

        Raises:
            EnrolmentRefused, TriedTooOften, and the errors of `Issuing.issue_service`.
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
        """Issue the next certificate of a service, or the next device certificate of a node. Return it in DER.

        `request` is the request's id. A repeat with the same id gets the same certificate. Without `request`:

        - The id of a service's request is the CSR's hash and the serial of its TLS certificate. So a stored CSR works
          for the next renewal too.
        - The id of a node's request is the CSR's hash alone, because the session certificate does not identify the
          device certificate.

        Raises:
            ValueRefused: `request` does not match `REQUEST_ID`.
            And the errors of `Issuing.issue_service` and `Issuing.renew_device`.
        """
        if request and not REQUEST_ID.fullmatch(request):
            raise ValueRefused("the id of a request is 1 to 128 letters, digits or _ . : -")
        digest = hashlib.sha256(csr).hexdigest()
        if isinstance(peer, ServicePeer):
            name, caller = request or f"{digest}.{peer.serial:x}", f"service/{peer.name}"
            issued = await self._issuing.issue_service(peer.name, csr, name, caller, peer.serial)
        elif isinstance(peer, NodePeer):
            issued = await self._issuing.renew_device(peer.spiffe, peer.generation, csr, request or digest)
        else:
            raise NotAdmitted("the caller has no certificate to renew")
        return issued.certificate_chain[0]
