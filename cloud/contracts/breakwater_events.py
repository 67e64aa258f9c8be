"""Messages: bodies of Breakwater's events. Each has the public state of one object after the change.

A body has no secret: no key and no one-time secret. Only services get these events, except those of a node's
generations, which belong to its tenant. `cloud.contracts.event_nouns` has the rules of evolution. The text below a field
is its description in the schema.
"""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.contracts.breakwater import RevocationReason
from cloud.contracts.event_nouns import EventNoun, pasts_of
from protocol.ids import NodeId, ServiceName, TenantId

SERVICE = "breakwater"

# `recorded` is the first event of an object that existed before this release published events.
AuthorityPast = Literal["prepared", "activated", "replaced", "tainted", "revoked", "recorded"]
ServiceCertificatePast = Literal["revoked", "recorded"]
GenerationsPast = Literal["closed", "recorded"]
IdentityPast = Literal["renewed"]

CLOSED_MAX = 1000
"""Closed generations that a body lists one by one. A node has one or two, because later closes include earlier ones."""


class AuthorityV1(msgspec.Struct, frozen=True, kw_only=True):
    """A generation of a CA."""

    id: str
    """Class and number, for example `services-2`."""
    ca: Literal["root", "nodes", "services"]
    """Class of the CA: what its certificates are for."""
    number: int
    """Number of the generation in its class."""
    state: Literal["prepared", "active", "old", "tainted", "revoked"]
    """State of the generation. Only the active one of a class issues certificates."""
    certificate: bytes
    """Certificate of the CA, DER in base64."""
    changed_at: datetime
    """Time of the last change of the state."""


class ServiceCertificateV1(msgspec.Struct, frozen=True, kw_only=True):
    """A revoked certificate of a service."""

    serial: str
    """Serial number, in lower-case hex."""
    service: ServiceName
    """Name of the service."""
    not_after: datetime
    """End of the certificate. It is refused after this time in any case."""
    revoked_at: datetime
    """Time of the revocation."""
    reason: RevocationReason
    """Reason of the revocation, as RFC 5280 spells it."""


class GenerationsV1(msgspec.Struct, frozen=True, kw_only=True):
    """The closed generations of a node. None of them opens again."""

    node: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    closed_up_to: int
    """Every generation up to this number is closed. 0 if none is."""
    closed: tuple[int, ...]
    """Closed generations above `closed_up_to`, the newest 1,000."""


class IdentityV1(msgspec.Struct, frozen=True, kw_only=True):
    """Breakwater's own certificate: the CA that it comes from."""

    service: ServiceName
    """Name of the service: Breakwater's."""
    authority: str
    """Id of the CA, for example `services-2`."""
    issuer: str
    """Key id of the CA, in lower-case hex. A service with a certificate of another CA renews its own."""


AUTHORITY = EventNoun(service=SERVICE, noun="authority", body=AuthorityV1, pasts=pasts_of(AuthorityPast))
SERVICE_CERTIFICATE = EventNoun(
    service=SERVICE, noun="service_certificate", body=ServiceCertificateV1, pasts=pasts_of(ServiceCertificatePast)
)
GENERATIONS = EventNoun(service=SERVICE, noun="generations", body=GenerationsV1, pasts=pasts_of(GenerationsPast))
IDENTITY = EventNoun(service=SERVICE, noun="identity", body=IdentityV1, pasts=pasts_of(IdentityPast))

NOUNS = (AUTHORITY, SERVICE_CERTIFICATE, GENERATIONS, IDENTITY)
"""Every noun of Breakwater's events."""
