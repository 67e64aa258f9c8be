"""Values: the ports of Fabric, and the groups of its parts. `parts` and `node_parts` make them."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from cloud.fabric.attestation.verifier import TpmVerifier, Verifier
from cloud.fabric.entropy import Entropy
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.audit_retention import AuditRetention
from cloud.fabric.service.nodes.activation import Activations
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges
from cloud.fabric.service.nodes.closing import Closings
from cloud.fabric.service.nodes.code_checks import CodeChecks
from cloud.fabric.service.nodes.confirm import Confirmations
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.renewal import Renewals
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.nodes.sessions import Sessions
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.nodes.statement_stream import StatementStream
from cloud.fabric.service.ports import Now, ServiceCertificates
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.service.published_trust.follower import Follower, TrustChanged
from cloud.fabric.service.published_trust.online_roles import OnlineRoles
from cloud.fabric.service.published_trust.publishing import Publishing
from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.published_trust.session_ends import SessionEnds
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.tuf.repository import OnlineSigners
from cloud.fabric.wake import WakeRoom


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What the wiring takes from outside: settings, keys, clock, entropy, the issuer, and Fabric's TLS."""

    trust_domain: str
    public_url: str
    confirm_within: timedelta
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


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Parts that use cases of every subject share."""

    audit: AuditLog
    audit_retention: AuditRetention
    acting: Acting
    code_checks: CodeChecks
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


@dataclass(frozen=True, kw_only=True)
class NodeParts:
    """Use cases of nodes: exchanges that nodes begin, and the background work on their rows."""

    activations: Activations
    confirmations: Confirmations
    sessions: Sessions
    statements: Statements
    renewals: Renewals
    lapses: Lapses
    closings: Closings
    chip_challenges: ChipChallenges
    seen: SeenSessions
