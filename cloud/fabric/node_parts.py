"""Wiring: the ports of Fabric, the groups of its parts, and the parts that serve nodes. Decides nothing."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from cloud.fabric.attestation.verifier import TpmVerifier, Verifier
from cloud.fabric.entropy import Entropy
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.secrets import Secrets
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.activations.admission import Admissions
from cloud.fabric.service.activations.approval import Approvals
from cloud.fabric.service.activations.recognition import Recognition
from cloud.fabric.service.activations.software_renewal import SoftwareRenewals
from cloud.fabric.service.activations.starts import ActivationStarts
from cloud.fabric.service.activations.with_tpm import Activations
from cloud.fabric.service.activations.without_tpm import SoftwareActivations
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.audit_retention import AuditRetention
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges
from cloud.fabric.service.nodes.clones import Clones
from cloud.fabric.service.nodes.closing import Closings
from cloud.fabric.service.nodes.code_checks import CodeChecks
from cloud.fabric.service.nodes.confirm import Confirmations
from cloud.fabric.service.nodes.fingerprints import Fingerprints
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.limits import ActivationLimits, SessionLimits
from cloud.fabric.service.nodes.pcr_quotes import PcrQuotes
from cloud.fabric.service.nodes.renewal import Renewals
from cloud.fabric.service.nodes.renewal_starts import RenewalStarts
from cloud.fabric.service.nodes.revocation_delivery import RevocationDelivery
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.nodes.session_refusals import SessionRefusals
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
from cloud.fabric.service.recovery.codes import RecoveryCodes
from cloud.fabric.service.restored.presenting import PresentedStatements
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


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Parts that use cases of every subject share."""

    audit: AuditLog
    audit_retention: AuditRetention
    acting: Acting
    code_checks: CodeChecks
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


@dataclass(frozen=True, kw_only=True)
class NodeParts:
    """Use cases of nodes: exchanges that nodes begin, and the background work on their rows."""

    activations: Activations
    software_activations: SoftwareActivations
    approvals: Approvals
    confirmations: Confirmations
    sessions: Sessions
    statements: Statements
    renewals: Renewals
    software_renewals: SoftwareRenewals
    lapses: Lapses
    closings: Closings
    chip_challenges: ChipChallenges
    seen: SeenSessions
    fingerprints: Fingerprints
    clones: Clones


class _Given(NamedTuple):
    """What every use case of nodes is made of."""

    stores: Stores
    ports: Ports
    secrets: Secrets
    shared: Shared
    trust: TrustParts


def make_node_parts(stores: Stores, ports: Ports, secrets: Secrets, shared: Shared, trust: TrustParts) -> NodeParts:
    given = _Given(stores, ports, secrets, shared, trust)
    now, transaction, audit, stream = ports.now, stores.transaction, shared.audit, shared.statement_stream
    chip_challenges = ChipChallenges(
        ek_key=secrets.ek_key, entropy=ports.entropy, verifier=ports.verifier, tenants=stores.tenants
    )
    lapses = _lapses(given)
    delivery = RevocationDelivery(trust_domain=ports.trust_domain, audit=audit, nodes=stores.nodes)
    clones = _clones(given)
    seen = SeenSessions(
        trust_domain=ports.trust_domain,
        transaction=transaction,
        audit=audit,
        nodes=stores.nodes,
        delivery=delivery,
        clones=clones,
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
        presented=_presented(given),
        audit=shared.audit,
    )
    fingerprints = _fingerprints(given, clones)
    pcr_quotes = PcrQuotes(tenants=stores.tenants, seen=seen)
    renewals = _renewals(given, chip_challenges)
    checks = _Checks(chip_challenges, pcr_quotes, lapses)
    activations = _activation_parts(given, checks)
    return NodeParts(
        activations=activations.activations,
        software_activations=activations.software_activations,
        approvals=activations.approvals,
        confirmations=Confirmations(
            now=now,
            transaction=transaction,
            audit=audit,
            activations=stores.activations,
            code_checks=shared.code_checks,
            lapses=lapses,
            nodes=stores.nodes,
            enrolled=stores.enrolled,
            statements=statements,
            statement_stream=stream,
            wake_room=shared.wake_room,
            wake_background=shared.woken.set,
        ),
        sessions=_sessions(given, statements, (pcr_quotes, fingerprints, clones)),
        statements=statements,
        renewals=renewals,
        software_renewals=SoftwareRenewals(
            public_url=ports.public_url,
            nonce_key=secrets.nonce_key,
            renewals=renewals,
            fingerprints=fingerprints,
        ),
        lapses=lapses,
        closings=Closings(transaction=transaction, audit=audit, nodes=stores.nodes, issuer=ports.issuer),
        chip_challenges=chip_challenges,
        seen=seen,
        fingerprints=fingerprints,
        clones=clones,
    )


def _presented(given: _Given) -> PresentedStatements:
    stores, ports, secrets, shared, _ = given
    return PresentedStatements(
        epoch=secrets.epoch,
        trust_domain=ports.trust_domain,
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        nodes=stores.nodes,
        codes=stores.codes,
        signer=ports.signer,
        statement_stream=shared.statement_stream,
        wake_background=shared.woken.set,
    )


def _lapses(given: _Given) -> Lapses:
    stores, ports, _, shared, _ = given
    return Lapses(
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        nodes=stores.nodes,
        enrolled=stores.enrolled,
        issuer=ports.issuer,
        statement_stream=shared.statement_stream,
        wake_room=shared.wake_room,
        wake_background=shared.woken.set,
    )


def _fingerprints(given: _Given, clones: Clones) -> Fingerprints:
    stores, ports, _, shared, _ = given
    return Fingerprints(
        trust_domain=ports.trust_domain,
        transaction=stores.transaction,
        audit=shared.audit,
        nodes=stores.nodes,
        tenants=stores.tenants,
        clones=clones,
    )


def _clones(given: _Given) -> Clones:
    stores, ports, secrets, shared, _ = given
    return Clones(
        trust_domain=ports.trust_domain,
        token_key=secrets.nonce_key,
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        nodes=stores.nodes,
        tenants=stores.tenants,
        statement_stream=shared.statement_stream,
        wake_room=shared.wake_room,
    )


def _sessions(given: _Given, statements: Statements, judges: tuple[PcrQuotes, Fingerprints, Clones]) -> Sessions:
    stores, ports, secrets, shared, trust = given
    pcr_quotes, fingerprints, clones = judges
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
        seen=statements.seen,
        pcr_quotes=pcr_quotes,
        clones=clones,
        refusals=SessionRefusals(now=ports.now, transaction=stores.transaction, audit=shared.audit),
        limits=SessionLimits(ports.limits_factor),
        session_ends=trust.session_ends,
        trust_reports=trust.trust_reports,
        fingerprints=fingerprints,
    )


def _renewals(given: _Given, chip_challenges: ChipChallenges) -> Renewals:
    stores, ports, _, shared, _ = given
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


@dataclass(frozen=True, kw_only=True)
class _ActivationParts:
    """Use cases of activations."""

    activations: Activations
    software_activations: SoftwareActivations
    approvals: Approvals


class _Checks(NamedTuple):
    """Use cases that activations share with other exchanges."""

    chip_challenges: ChipChallenges
    pcr_quotes: PcrQuotes
    lapses: Lapses


def _activation_parts(given: _Given, checks: _Checks) -> _ActivationParts:
    """Make the use cases and connect them."""
    stores, ports, secrets, shared, _ = given
    approvals = Approvals(
        approve_within=ports.approve_within,
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        denied=stores.denied,
    )
    starts = ActivationStarts(
        now=ports.now,
        entropy=ports.entropy,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        denied=stores.denied,
        tenants=stores.tenants,
        code_checks=shared.code_checks,
        limits=ActivationLimits(ports.limits_factor),
    )
    admissions = Admissions(
        epoch=secrets.epoch,
        confirm_within=ports.confirm_within,
        now=ports.now,
        entropy=ports.entropy,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        nodes=stores.nodes,
        enrolled=stores.enrolled,
        code_checks=shared.code_checks,
        issuer=ports.issuer,
        lapses=checks.lapses,
        approvals=approvals,
    )
    recognition = Recognition(nodes=stores.nodes, enrolled=stores.enrolled)
    activations = Activations(
        now=ports.now,
        activations=stores.activations,
        nodes=stores.nodes,
        chip_challenges=checks.chip_challenges,
        pcr_quotes=checks.pcr_quotes,
        starts=starts,
        recognition=recognition,
        admissions=admissions,
    )
    software_activations = SoftwareActivations(
        entropy=ports.entropy,
        activations=stores.activations,
        nodes=stores.nodes,
        tenants=stores.tenants,
        chip_challenges=checks.chip_challenges,
        starts=starts,
        recognition=recognition,
        admissions=admissions,
    )
    return _ActivationParts(activations=activations, software_activations=software_activations, approvals=approvals)
