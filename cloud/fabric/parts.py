"""Wiring: makes every part of Fabric over an open database, and gives each a name. Decides nothing."""

import asyncio
from dataclasses import dataclass, fields
from functools import partial

from cloud.audit import AuditEntries
from cloud.events.parts import SERVICES as EVENT_SERVICES
from cloud.events.parts import EventParts, make_event_parts
from cloud.fabric.airgap_parts import AirgapParts, make_airgap_parts
from cloud.fabric.background import (
    AUDIT_SECONDS,
    HOUSEKEEPING_SECONDS,
    IDLE_SECONDS,
    SEEN_SECONDS,
    Background,
    Periodic,
)
from cloud.fabric.entropy import Entropy
from cloud.fabric.restored_parts import RestoredParts, make_restored_parts
from cloud.fabric.routes.buckets import NODE
from cloud.fabric.secrets import Secrets
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.audit_retention import AuditRetention
from cloud.fabric.service.events.expired_codes import CODES_SECONDS, ExpiredCodes
from cloud.fabric.service.events.first_events import FirstEvents
from cloud.fabric.service.nodes.statement_stream import StatementStream
from cloud.fabric.service.operators.activations import ActivationDecisions
from cloud.fabric.service.operators.audit_lists import AuditLists
from cloud.fabric.service.operators.clone_cases import CloneCases
from cloud.fabric.service.operators.codes import Codes
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.operators.node_lists import NodeLists
from cloud.fabric.service.operators.pcr_policies import PcrPolicies
from cloud.fabric.service.operators.recovery_cases import RecoveryDecisions
from cloud.fabric.service.operators.recovery_codes import RecoveryCodeIssues
from cloud.fabric.service.operators.recovery_policies import RecoveryPolicies
from cloud.fabric.service.operators.standing import Standings
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.service.operators.token_refusals import TokenRefusals
from cloud.fabric.service.operators.tokens import Tokens
from cloud.fabric.service.operators.trusted_hardware import TrustedHardware
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.service.published_trust.follower import Follower
from cloud.fabric.service.published_trust.online_roles import OnlineRoles
from cloud.fabric.service.published_trust.publishing import Publishing
from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.published_trust.session_ends import SessionEnds
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.service.recovery.codes import RecoveryCodes
from cloud.fabric.service.recovery.decisions import CaseDecisions
from cloud.fabric.service.recovery.tries import RecoveryTries
from cloud.fabric.service.rights.admitted import Rights
from cloud.fabric.service.unchanged import Unchanged
from cloud.fabric.service.uptime import BEAT_SECONDS
from cloud.fabric.store import Stores, stores_over
from cloud.fabric.store.rows import AuditRow
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.wake import WakeRoom
from cloud.fabric.wiring.node_parts import NodeParts, make_node_parts
from cloud.fabric.wiring.part_groups import Ports, Shared, TrustParts
from cloud.http.cursors import ListCursors
from cloud.http.readiness import DatabaseProbe, Readiness, trouble_probe


@dataclass(frozen=True, kw_only=True)
class OperatorParts:
    """Use cases of operators."""

    tenants: Tenants
    codes: Codes
    activation_decisions: ActivationDecisions
    tokens: Tokens
    standings: Standings
    node_lists: NodeLists
    clone_cases: CloneCases
    pcr_policies: PcrPolicies
    recovery_decisions: RecoveryDecisions
    recovery_code_issues: RecoveryCodeIssues
    recovery_policies: RecoveryPolicies
    trusted_hardware: TrustedHardware
    audit_lists: AuditLists
    list_cursors: ListCursors


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All parts of one Fabric process."""

    stores: Stores
    current_trust: CurrentTrust
    events: EventParts
    shared: Shared
    operators: OperatorParts
    nodes: NodeParts
    trust: TrustParts
    airgap: AirgapParts
    restored: RestoredParts
    first_events: FirstEvents
    background: Background
    readiness: Readiness

    def services(self) -> dict[str, object]:
        """The parts that handlers take, keyed by the name of the handler's parameter."""
        groups = (self.operators, self.nodes, self.trust, self.airgap, self.restored)
        parts = {each.name: getattr(group, each.name) for group in groups for each in fields(group)}
        further = {"repository": self.stores.repository, "readiness": self.readiness}
        return {**parts, **self.events.services(), **further}


SERVICES = (
    *(
        each.name
        for group in (OperatorParts, NodeParts, TrustParts, AirgapParts, RestoredParts)
        for each in fields(group)
    ),
    *EVENT_SERVICES,
    *("repository", "readiness"),
)
"""The keys of `Parts.services`, available before a database is open."""


def make_parts(stores: Stores, ports: Ports, secrets: Secrets) -> Parts:
    """Make all parts and connect them. Starts nothing. The parts use stores of their own, which add events."""
    events = make_event_parts(stores.engine, "fabric", ports.now, ports.entropy, ports.events)
    stores = stores_over(stores.engine, events.outbox)
    audit = AuditLog(entries=AuditEntries(AuditRow, ports.now, ports.entropy), store=stores.audit)
    shared = Shared(
        audit=audit,
        acting=Acting(now=ports.now, begin=stores.transaction, tokens=stores.tokens),
        rights=Rights(
            now=ports.now,
            codes=stores.codes,
            nodes=stores.nodes,
            cases=stores.recovery_cases,
            tenants=stores.tenants,
        ),
        recovery_codes=RecoveryCodes(
            key=secrets.recovery_key,
            now=ports.now,
            audit=audit,
            codes=stores.recovery_codes,
            tries=RecoveryTries(now=ports.now, transaction=stores.transaction, audit=audit, factor=ports.limits_factor),
        ),
        audit_retention=AuditRetention(now=ports.now, store=stores.audit),
        expired_codes=ExpiredCodes(now=ports.now, transaction=stores.transaction, codes=stores.codes),
        statement_stream=StatementStream(
            trust_domain=ports.trust_domain,
            epoch=secrets.epoch,
            signer=ports.signer,
            current_trust=ports.current_trust,
            nodes=stores.nodes,
            activations=stores.activations,
        ),
        wake_room=WakeRoom(),
        woken=asyncio.Event(),
    )
    trust = _trust_parts(stores, ports, shared)
    nodes = make_node_parts(stores, ports, secrets, shared, trust)
    restored = make_restored_parts(stores, ports, secrets, shared, nodes)
    airgap = make_airgap_parts(stores, ports, shared, nodes, trust, partial(restored.waits, NODE))
    return Parts(
        stores=stores,
        current_trust=ports.current_trust,
        events=events,
        shared=shared,
        operators=_operator_parts(stores, ports, shared, nodes.case_decisions, secrets.cursor_key),
        nodes=nodes,
        trust=trust,
        airgap=airgap,
        restored=restored,
        first_events=FirstEvents(stores.transaction, stores.first_events),
        background=make_background(ports.entropy, shared, nodes, trust, airgap, restored),
        readiness=Readiness(
            restored.probe(),
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


def make_background(
    entropy: Entropy,
    shared: Shared,
    nodes: NodeParts,
    trust: TrustParts,
    airgap: AirgapParts,
    restored: RestoredParts,
) -> Background:
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
            Periodic("beat", BEAT_SECONDS, nodes.uptime.beat),
            Periodic("approvals", IDLE_SECONDS, nodes.approvals.expire_overdue),
            Periodic("recoveries", IDLE_SECONDS, nodes.case_decisions.end_overdue),
            Periodic("fingerprints", SEEN_SECONDS, nodes.fingerprints.store),
            Periodic("codes", CODES_SECONDS, shared.expired_codes.step),
            Periodic("audit", AUDIT_SECONDS, shared.audit_retention.step),
            Periodic("airgap", HOUSEKEEPING_SECONDS, airgap.airgap_exchanges.forget_old),
            Periodic("trust", HOUSEKEEPING_SECONDS, trust.online_roles.keep_fresh),
            *restored.periodic(),
        ),
    )


def _operator_parts(
    stores: Stores, ports: Ports, shared: Shared, case_decisions: CaseDecisions, cursor_key: bytes
) -> OperatorParts:
    now, entropy, acting, audit = ports.now, ports.entropy, shared.acting, shared.audit
    filters = ListFilters(tenants=stores.tenants, codes=stores.codes)
    unchanged = Unchanged(audit=stores.audit, tokens=stores.tokens)
    tenants = Tenants(now=now, entropy=entropy, acting=acting, audit=audit, tenants=stores.tenants, unchanged=unchanged)
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
        activation_decisions=_activation_decisions(stores, ports, shared, filters),
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
        node_lists=NodeLists(
            now=now, nodes=stores.nodes, tenants=stores.tenants, airgap=stores.airgap, filters=filters
        ),
        trusted_hardware=TrustedHardware(now=now, acting=acting, audit=audit, tenants=stores.tenants, hardware=tenants),
        clone_cases=CloneCases(
            now=now,
            entropy=entropy,
            acting=acting,
            audit=audit,
            nodes=stores.nodes,
            tenants=stores.tenants,
            statement_stream=shared.statement_stream,
            wake_room=shared.wake_room,
            filters=filters,
            unchanged=unchanged,
        ),
        pcr_policies=PcrPolicies(
            acting=acting, audit=audit, tenants=stores.tenants, hardware=tenants, nodes=stores.nodes
        ),
        recovery_decisions=RecoveryDecisions(
            acting=acting, cases=stores.recovery_cases, decisions=case_decisions, filters=filters
        ),
        recovery_code_issues=_recovery_code_issues(stores, ports, shared, filters),
        recovery_policies=RecoveryPolicies(acting=acting, audit=audit, tenants=stores.tenants, unchanged=unchanged),
        audit_lists=AuditLists(audit=stores.audit, filters=filters),
        list_cursors=ListCursors("fabric", cursor_key),
    )


def _recovery_code_issues(stores: Stores, ports: Ports, shared: Shared, filters: ListFilters) -> RecoveryCodeIssues:
    return RecoveryCodeIssues(
        key=shared.recovery_codes.key,
        now=ports.now,
        entropy=ports.entropy,
        acting=shared.acting,
        audit=shared.audit,
        cases=stores.recovery_cases,
        codes=stores.recovery_codes,
        nodes=stores.nodes,
        tenants=stores.tenants,
        filters=filters,
    )


def _activation_decisions(stores: Stores, ports: Ports, shared: Shared, filters: ListFilters) -> ActivationDecisions:
    return ActivationDecisions(
        approve_within=ports.approve_within,
        now=ports.now,
        acting=shared.acting,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        denied=stores.denied,
        nodes=stores.nodes,
        tenants=stores.tenants,
        rights=shared.rights,
        filters=filters,
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
