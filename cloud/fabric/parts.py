"""Wiring: makes every part of Fabric over an open database, and gives each a name. Decides nothing."""

import asyncio
from dataclasses import dataclass, field, fields
from datetime import timedelta

from cloud.audit import AuditEntries
from cloud.fabric.attestation.verifier import TpmVerifier, Verifier
from cloud.fabric.background import AUDIT_SECONDS, HOUSEKEEPING_SECONDS, Background, Periodic
from cloud.fabric.entropy import Entropy
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.secrets import Secrets
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.audit_retention import AuditRetention
from cloud.fabric.service.nodes.activation import Activations
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges
from cloud.fabric.service.nodes.closing import Closings
from cloud.fabric.service.nodes.code_checks import CodeChecks
from cloud.fabric.service.nodes.confirm import Confirmations
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.limits import ActivationLimits, SessionLimits
from cloud.fabric.service.nodes.renewal import Renewals
from cloud.fabric.service.nodes.renewal_starts import RenewalStarts
from cloud.fabric.service.nodes.revocation_delivery import RevocationDelivery
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.nodes.session_refusals import SessionRefusals
from cloud.fabric.service.nodes.sessions import Sessions
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.nodes.statement_stream import StatementStream
from cloud.fabric.service.operators.audit_lists import AuditLists
from cloud.fabric.service.operators.codes import Codes
from cloud.fabric.service.operators.node_lists import NodeLists
from cloud.fabric.service.operators.standing import Standings
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.service.operators.token_refusals import TokenRefusals
from cloud.fabric.service.operators.tokens import Tokens
from cloud.fabric.service.ports import Now, ServiceCertificates
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.service.published_trust.follower import Follower, TrustChanged
from cloud.fabric.service.published_trust.online_roles import OnlineRoles
from cloud.fabric.service.published_trust.publishing import Publishing
from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.published_trust.session_ends import SessionEnds
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.store import Stores
from cloud.fabric.store.rows import AuditRow
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.tuf.repository import OnlineSigners
from cloud.fabric.wake import WakeRoom
from cloud.http.readiness import DatabaseProbe, Readiness, trouble_probe


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
class OperatorParts:
    """Use cases of operators."""

    tenants: Tenants
    codes: Codes
    tokens: Tokens
    standings: Standings
    node_lists: NodeLists
    audit_lists: AuditLists


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


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All parts of one Fabric process."""

    stores: Stores
    current_trust: CurrentTrust
    shared: Shared
    operators: OperatorParts
    nodes: NodeParts
    trust: TrustParts
    background: Background
    readiness: Readiness

    def services(self) -> dict[str, object]:
        """The parts that handlers take, keyed by the name of the handler's parameter."""
        groups = (self.operators, self.nodes, self.trust)
        parts = {each.name: getattr(group, each.name) for group in groups for each in fields(group)}
        return {**parts, "repository": self.stores.repository, "readiness": self.readiness}


SERVICES = (
    *(each.name for group in (OperatorParts, NodeParts, TrustParts) for each in fields(group)),
    *("repository", "readiness"),
)
"""The keys of `Parts.services`, available before a database is open."""


def make_parts(stores: Stores, ports: Ports, secrets: Secrets) -> Parts:
    """Make all parts and connect them. Starts nothing."""
    shared = Shared(
        audit=AuditLog(entries=AuditEntries(AuditRow, ports.now, ports.entropy), store=stores.audit),
        acting=Acting(now=ports.now, begin=stores.transaction, tokens=stores.tokens),
        code_checks=CodeChecks(now=ports.now, codes=stores.codes, tenants=stores.tenants),
        audit_retention=AuditRetention(now=ports.now, store=stores.audit),
        statement_stream=StatementStream(
            trust_domain=ports.trust_domain,
            signer=ports.signer,
            current_trust=ports.current_trust,
            nodes=stores.nodes,
            activations=stores.activations,
        ),
        wake_room=WakeRoom(),
        woken=asyncio.Event(),
    )
    trust = _trust_parts(stores, ports, shared)
    nodes = _node_parts(stores, ports, secrets, shared, trust)
    return Parts(
        stores=stores,
        current_trust=ports.current_trust,
        shared=shared,
        operators=_operator_parts(stores, ports, shared),
        nodes=nodes,
        trust=trust,
        background=make_background(ports.entropy, shared, nodes, trust),
        readiness=Readiness(
            DatabaseProbe(stores.installation.read_all, lambda: stores.installation.prove_writable(ports.now())),
            trouble_probe(
                "trust",
                "trust_not_followed",
                lambda: trust.follower.trouble,
                "Read the log of this service. `cascade trust show` shows the published trust.",
            ),
            trouble_probe(
                "trust",
                "trust_not_valid",
                lambda: ports.current_trust.outside(ports.now()),
                "Check the clock of this host. `cascade pki status` on the issuer's host names the CAs and the next step.",
                needed=True,
            ),
        ),
    )


def make_background(entropy: Entropy, shared: Shared, nodes: NodeParts, trust: TrustParts) -> Background:
    """The background work in its state after a start. Its only state is when each piece of work is due."""
    return Background(
        woken=shared.woken,
        entropy=entropy,
        activations=nodes.activations,
        closings=nodes.closings,
        lapses=nodes.lapses,
        renewals=nodes.renewals,
        seen=nodes.seen,
        further=(
            Periodic("audit", AUDIT_SECONDS, shared.audit_retention.step),
            Periodic("trust", HOUSEKEEPING_SECONDS, trust.online_roles.keep_fresh),
        ),
    )


def _operator_parts(stores: Stores, ports: Ports, shared: Shared) -> OperatorParts:
    now, entropy, acting, audit = ports.now, ports.entropy, shared.acting, shared.audit
    tenants = Tenants(now=now, entropy=entropy, acting=acting, audit=audit, tenants=stores.tenants)
    return OperatorParts(
        tenants=tenants,
        codes=Codes(
            now=now,
            entropy=entropy,
            acting=acting,
            audit=audit,
            codes=stores.codes,
            nodes=stores.nodes,
            tenants=tenants,
        ),
        tokens=Tokens(
            now=now,
            entropy=entropy,
            acting=acting,
            refusals=TokenRefusals(now=now, transaction=stores.transaction, audit=audit),
            audit=audit,
            tokens=stores.tokens,
        ),
        standings=Standings(
            now=now,
            acting=acting,
            audit=audit,
            codes=stores.codes,
            nodes=stores.nodes,
            statement_stream=shared.statement_stream,
            wake_room=shared.wake_room,
            wake_background=shared.woken.set,
        ),
        node_lists=NodeLists(nodes=stores.nodes),
        audit_lists=AuditLists(audit=stores.audit),
    )


def _trust_parts(stores: Stores, ports: Ports, shared: Shared) -> TrustParts:
    now, transaction, current_trust = ports.now, stores.transaction, ports.current_trust
    adoption = Adoption(
        now=now,
        adoption=stores.adoption,
        repository=stores.repository,
        current_trust=current_trust,
        service_certificates=ports.service_certificates,
    )
    renewal_orders = RenewalOrders(
        now=now,
        transaction=transaction,
        acting=shared.acting,
        audit=shared.audit,
        installation=stores.installation,
        nodes=stores.adoption,
        adoption=adoption,
        current_trust=current_trust,
        wake_room=shared.wake_room,
    )
    follower_woken = asyncio.Event()
    trust_reports = TrustReports(transaction=transaction, adoption=stores.adoption, current_trust=current_trust)
    return TrustParts(
        adoption=adoption,
        publishing=Publishing(
            trust_domain=ports.trust_domain,
            public_url=ports.public_url,
            now=now,
            transaction=transaction,
            acting=shared.acting,
            audit=shared.audit,
            repository=stores.repository,
            adoption=adoption,
            current_trust=current_trust,
            signer=ports.signer,
            online=ports.online,
            service_certificates=ports.service_certificates,
            wake_follower=follower_woken.set,
        ),
        renewal_orders=renewal_orders,
        online_roles=OnlineRoles(now=now, transaction=transaction, repository=stores.repository, online=ports.online),
        session_ends=SessionEnds(
            now=now, transaction=transaction, installation=stores.installation, current_trust=current_trust
        ),
        trust_reports=trust_reports,
        follower=Follower(
            woken=follower_woken,
            current_trust=current_trust,
            installation=stores.installation,
            repository=stores.repository,
            renewal_orders=renewal_orders,
            trust_reports=trust_reports,
            trust_changed=ports.trust_changed,
        ),
    )


def _node_parts(stores: Stores, ports: Ports, secrets: Secrets, shared: Shared, trust: TrustParts) -> NodeParts:
    now, transaction, audit, stream = ports.now, stores.transaction, shared.audit, shared.statement_stream
    chip_challenges = ChipChallenges(
        ek_key=secrets.ek_key, entropy=ports.entropy, verifier=ports.verifier, tenants=stores.tenants
    )
    lapses = Lapses(
        now=now,
        transaction=transaction,
        audit=audit,
        activations=stores.activations,
        codes=stores.codes,
        nodes=stores.nodes,
        issuer=ports.issuer,
        statement_stream=stream,
        wake_room=shared.wake_room,
        wake_background=shared.woken.set,
    )
    delivery = RevocationDelivery(trust_domain=ports.trust_domain, audit=audit, nodes=stores.nodes)
    seen = SeenSessions(
        trust_domain=ports.trust_domain, transaction=transaction, audit=audit, nodes=stores.nodes, delivery=delivery
    )
    statements = Statements(
        now=now,
        transaction=transaction,
        nodes=stores.nodes,
        current_trust=ports.current_trust,
        statement_stream=stream,
        trust_reports=trust.trust_reports,
        wake_room=shared.wake_room,
        seen=seen,
    )
    return NodeParts(
        activations=_activations(stores, ports, secrets, shared, chip_challenges, lapses),
        confirmations=Confirmations(
            now=now,
            transaction=transaction,
            audit=audit,
            activations=stores.activations,
            code_checks=shared.code_checks,
            lapses=lapses,
            nodes=stores.nodes,
            statements=statements,
            statement_stream=stream,
            wake_room=shared.wake_room,
            wake_background=shared.woken.set,
        ),
        sessions=_sessions(stores, ports, secrets, shared, trust, statements, seen),
        statements=statements,
        renewals=_renewals(stores, ports, shared, chip_challenges),
        lapses=lapses,
        closings=Closings(transaction=transaction, audit=audit, nodes=stores.nodes, issuer=ports.issuer),
        chip_challenges=chip_challenges,
        seen=seen,
    )


def _activations(
    stores: Stores, ports: Ports, secrets: Secrets, shared: Shared, chip_challenges: ChipChallenges, lapses: Lapses
) -> Activations:
    return Activations(
        epoch=secrets.epoch,
        confirm_within=ports.confirm_within,
        now=ports.now,
        entropy=ports.entropy,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        nodes=stores.nodes,
        tenants=stores.tenants,
        code_checks=shared.code_checks,
        issuer=ports.issuer,
        chip_challenges=chip_challenges,
        lapses=lapses,
        limits=ActivationLimits(ports.limits_factor),
    )


def _sessions(
    stores: Stores,
    ports: Ports,
    secrets: Secrets,
    shared: Shared,
    trust: TrustParts,
    statements: Statements,
    seen: SeenSessions,
) -> Sessions:
    return Sessions(
        trust_domain=ports.trust_domain,
        public_url=ports.public_url,
        nonce_key=secrets.nonce_key,
        now=ports.now,
        entropy=ports.entropy,
        nodes=stores.nodes,
        issuer=ports.issuer,
        current_trust=ports.current_trust,
        statements=statements,
        statement_stream=shared.statement_stream,
        seen=seen,
        refusals=SessionRefusals(now=ports.now, transaction=stores.transaction, audit=shared.audit),
        limits=SessionLimits(ports.limits_factor),
        session_ends=trust.session_ends,
        trust_reports=trust.trust_reports,
    )


def _renewals(stores: Stores, ports: Ports, shared: Shared, chip_challenges: ChipChallenges) -> Renewals:
    return Renewals(
        trust_domain=ports.trust_domain,
        now=ports.now,
        entropy=ports.entropy,
        transaction=stores.transaction,
        audit=shared.audit,
        nodes=stores.nodes,
        renewals=stores.renewals,
        tenants=stores.tenants,
        issuer=ports.issuer,
        current_trust=ports.current_trust,
        chip_challenges=chip_challenges,
        statement_stream=shared.statement_stream,
        starts=RenewalStarts(factor=ports.limits_factor),
        wake_background=shared.woken.set,
    )
