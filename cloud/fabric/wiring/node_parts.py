"""Wiring: the parts that serve nodes. Decides nothing."""

from dataclasses import dataclass

from cloud.fabric.secrets import Secrets
from cloud.fabric.service.activations.approval import Approvals
from cloud.fabric.service.activations.with_tpm import Activations
from cloud.fabric.service.activations.without_tpm import SoftwareActivations
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges
from cloud.fabric.service.nodes.clones import Clones
from cloud.fabric.service.nodes.closing import Closings
from cloud.fabric.service.nodes.confirm import Confirmations
from cloud.fabric.service.nodes.fingerprints import Fingerprints
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.limits import SessionLimits
from cloud.fabric.service.nodes.pcr_quotes import PcrQuotes
from cloud.fabric.service.nodes.release import Releases
from cloud.fabric.service.nodes.replaced import ReplacedMachines
from cloud.fabric.service.nodes.revocation_delivery import RevocationDelivery
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.nodes.session_refusals import SessionRefusals
from cloud.fabric.service.nodes.sessions import Sessions
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.recovery.decisions import CaseDecisions
from cloud.fabric.service.renewals.renewal import Renewals
from cloud.fabric.service.renewals.renewal_starts import RenewalStarts
from cloud.fabric.service.renewals.returned_keys import ReturnedKeys
from cloud.fabric.service.renewals.software_renewal import SoftwareRenewals
from cloud.fabric.service.restored.presenting import PresentedStatements
from cloud.fabric.service.restored.reconstructing import Reconstruction
from cloud.fabric.service.rights.recovery_confirms import RecoveryConfirms
from cloud.fabric.service.uptime import Uptime
from cloud.fabric.store import Stores
from cloud.fabric.wiring.activation_parts import Checks, make_activation_parts, make_recovery_parts
from cloud.fabric.wiring.part_groups import Given, Ports, Shared, TrustParts


@dataclass(frozen=True, kw_only=True)
class NodeParts:
    """Use cases of nodes: exchanges that nodes begin, and the background work on their rows."""

    activations: Activations
    software_activations: SoftwareActivations
    approvals: Approvals
    confirmations: Confirmations
    sessions: Sessions
    statements: Statements
    releases: Releases
    renewals: Renewals
    software_renewals: SoftwareRenewals
    lapses: Lapses
    closings: Closings
    chip_challenges: ChipChallenges
    seen: SeenSessions
    fingerprints: Fingerprints
    clones: Clones
    case_decisions: CaseDecisions
    uptime: Uptime


def make_node_parts(stores: Stores, ports: Ports, secrets: Secrets, shared: Shared, trust: TrustParts) -> NodeParts:
    given = Given(stores, ports, secrets, shared, trust)
    now, transaction, audit, stream = ports.now, stores.transaction, shared.audit, shared.statement_stream
    chip_challenges = ChipChallenges(
        ek_key=secrets.ek_key, entropy=ports.entropy, verifier=ports.verifier, tenants=stores.tenants
    )
    lapses = _lapses(given)
    delivery = RevocationDelivery(trust_domain=ports.trust_domain, audit=audit, nodes=stores.nodes)
    clones = _clones(given)
    recovery = make_recovery_parts(given, clones)
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
        replaced=recovery.replaced,
        silences=recovery.silences,
        audit=shared.audit,
    )
    fingerprints = _fingerprints(given, clones)
    pcr_quotes = PcrQuotes(tenants=stores.tenants, seen=seen)
    renewals = _renewals(given, chip_challenges, ReturnedKeys(now=now, clones=clones, seen=seen))
    checks = Checks(chip_challenges, pcr_quotes, lapses)
    activations = make_activation_parts(given, checks, recovery)
    return NodeParts(
        activations=activations.activations,
        software_activations=activations.software_activations,
        approvals=activations.approvals,
        confirmations=_confirmations(given, lapses, statements),
        sessions=_sessions(given, statements, (pcr_quotes, fingerprints, clones), recovery.replaced, chip_challenges),
        statements=statements,
        releases=_releases(given),
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
        case_decisions=recovery.decisions,
        uptime=recovery.uptime,
    )


def _confirmations(given: Given, lapses: Lapses, statements: Statements) -> Confirmations:
    stores, ports, _, shared, _ = given
    return Confirmations(
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        rights=shared.rights,
        lapses=lapses,
        recovery_confirms=RecoveryConfirms(now=ports.now, audit=shared.audit, cases=stores.recovery_cases),
        nodes=stores.nodes,
        enrolled=stores.enrolled,
        statements=statements,
        statement_stream=shared.statement_stream,
        wake_room=shared.wake_room,
        wake_background=shared.woken.set,
    )


def _releases(given: Given) -> Releases:
    stores, ports, _, shared, _ = given
    return Releases(
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        codes=stores.codes,
        nodes=stores.nodes,
        statement_stream=shared.statement_stream,
        wake_room=shared.wake_room,
        wake_background=shared.woken.set,
    )


def _presented(given: Given) -> PresentedStatements:
    stores, ports, secrets, shared, _ = given
    return PresentedStatements(
        epoch=secrets.epoch,
        trust_domain=ports.trust_domain,
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        nodes=stores.nodes,
        activations=stores.activations,
        codes=stores.codes,
        tenants=stores.tenants,
        enrolled=stores.enrolled,
        recovery_confirms=RecoveryConfirms(now=ports.now, audit=shared.audit, cases=stores.recovery_cases),
        signer=ports.signer,
        statement_stream=shared.statement_stream,
        wake_background=shared.woken.set,
    )


def _lapses(given: Given) -> Lapses:
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


def _fingerprints(given: Given, clones: Clones) -> Fingerprints:
    stores, ports, _, shared, _ = given
    return Fingerprints(
        trust_domain=ports.trust_domain,
        transaction=stores.transaction,
        audit=shared.audit,
        nodes=stores.nodes,
        tenants=stores.tenants,
        clones=clones,
    )


def _clones(given: Given) -> Clones:
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


def _reconstruction(given: Given, chip_challenges: ChipChallenges) -> Reconstruction:
    stores, ports, secrets, shared, _ = given
    return Reconstruction(
        epoch=secrets.epoch,
        now=ports.now,
        entropy=ports.entropy,
        transaction=stores.transaction,
        audit=shared.audit,
        installation=stores.installation,
        tenants=stores.tenants,
        nodes=stores.nodes,
        enrolled=stores.enrolled,
        renewals=stores.renewals,
        closed=stores.closed,
        issuer=ports.issuer,
        signer=ports.signer,
        chip_challenges=chip_challenges,
        statement_stream=shared.statement_stream,
        wake_background=shared.woken.set,
    )


def _sessions(
    given: Given,
    statements: Statements,
    judges: tuple[PcrQuotes, Fingerprints, Clones],
    replaced: ReplacedMachines,
    chip_challenges: ChipChallenges,
) -> Sessions:
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
        replaced=replaced,
        reconstruction=_reconstruction(given, chip_challenges),
    )


def _renewals(given: Given, chip_challenges: ChipChallenges, returns: ReturnedKeys) -> Renewals:
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
        returns=returns,
        wake_background=shared.woken.set,
    )
