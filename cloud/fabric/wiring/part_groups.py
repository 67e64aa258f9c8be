"""Wiring: the ports of Fabric, and the groups of parts that others are made of. Decides nothing."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from cloud.events.settings import EventSettings
from cloud.fabric.attestation.verifier import TpmVerifier, Verifier
from cloud.fabric.entropy import Entropy
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.secrets import Secrets
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.audit_retention import AuditRetention
from cloud.fabric.service.events.expired_codes import ExpiredCodes
from cloud.fabric.service.nodes.statement_stream import StatementStream
from cloud.fabric.service.ports import Now, ServiceCertificates
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.service.published_trust.follower import Follower, TrustChanged
from cloud.fabric.service.published_trust.online_roles import OnlineRoles
from cloud.fabric.service.published_trust.publishing import Publishing
from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.published_trust.session_ends import SessionEnds
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.service.recovery.codes import RecoveryCodes
from cloud.fabric.service.rights.admitted import Rights
from cloud.fabric.store import Stores
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.tuf.repository import OnlineSigners
from cloud.fabric.wake import WakeRoom


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What the wiring takes from outside: settings, keys, clock, entropy, the issuer, and Fabric's TLS."""

    trust_domain: str
    public_url: str
    confirm_within: timedelta
    approve_within: timedelta
    now: Now
    entropy: Entropy
    signer: Signer
    online: OnlineSigners = field(repr=False)
    issuer: Issuer
    current_trust: CurrentTrust
    service_certificates: ServiceCertificates = dict
    trust_changed: TrustChanged
    verifier: Verifier = field(default_factory=TpmVerifier)
    limits_factor: float = 1.0
    """Multiplies the limits of sessions, activations and renewals."""
    events: EventSettings = field(default_factory=EventSettings)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Parts that use cases of every subject share."""

    audit: AuditLog
    audit_retention: AuditRetention
    expired_codes: ExpiredCodes
    acting: Acting
    rights: Rights
    recovery_codes: RecoveryCodes
    statement_stream: StatementStream
    wake_room: WakeRoom
    woken: asyncio.Event
    """Set it to start the background work at once."""


@dataclass(frozen=True, kw_only=True)
class TrustParts:
    """Use cases of the published trust."""

    adoption: Adoption
    publishing: Publishing
    renewal_orders: RenewalOrders
    online_roles: OnlineRoles
    session_ends: SessionEnds
    trust_reports: TrustReports
    follower: Follower


class Given(NamedTuple):
    """What every use case of nodes is made of."""

    stores: Stores
    ports: Ports
    secrets: Secrets
    shared: Shared
    trust: TrustParts
