"""Wiring: the parts that answer nodes without a network. Decides nothing."""

from collections.abc import Callable
from dataclasses import dataclass

from cloud.fabric.service.airgap.activations import FileActivations
from cloud.fabric.service.airgap.answering import AirgapAnswers
from cloud.fabric.service.airgap.contacts import Contacts
from cloud.fabric.service.airgap.exchanges import Exchanges
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.store import Stores
from cloud.fabric.wiring.node_parts import NodeParts
from cloud.fabric.wiring.part_groups import Ports, Shared, TrustParts


@dataclass(frozen=True, kw_only=True)
class AirgapParts:
    """Use cases of exchanges with nodes without a network."""

    airgap_answers: AirgapAnswers
    airgap_exchanges: Exchanges


def make_airgap_parts(
    stores: Stores, ports: Ports, shared: Shared, nodes: NodeParts, trust: TrustParts, waits: Callable[[], str]
) -> AirgapParts:
    """Make the use cases and connect them. `waits` says why no node is served now; empty if nodes are served."""
    exchanges = Exchanges(
        trust_domain=ports.trust_domain,
        now=ports.now,
        entropy=ports.entropy,
        acting=shared.acting,
        audit=shared.audit,
        airgap=stores.airgap,
        nodes=stores.nodes,
        tenants=stores.tenants,
        chip_challenges=nodes.chip_challenges,
        statement_stream=shared.statement_stream,
        presented=nodes.statements.presented,
    )
    contacts = Contacts(
        now=ports.now,
        nodes=stores.nodes,
        issuer=ports.issuer,
        current_trust=ports.current_trust,
        exchanges=exchanges,
        clones=nodes.clones,
        seen=nodes.seen,
        fingerprints=nodes.fingerprints,
        pcr_quotes=nodes.activations.pcr_quotes,
        renewals=nodes.renewals,
        statements=nodes.statements,
        reconstruction=nodes.sessions.reconstruction,
        trust_reports=trust.trust_reports,
    )
    file_activations = FileActivations(
        now=ports.now,
        entropy=ports.entropy,
        activations=stores.activations,
        nodes=stores.nodes,
        tenants=stores.tenants,
        exchanges=exchanges,
        contacts=contacts,
        chip_challenges=nodes.chip_challenges,
        starts=nodes.activations.starts,
        with_tpm=nodes.activations,
        confirmations=nodes.confirmations,
        statements=nodes.statements,
    )
    answers = AirgapAnswers(
        now=ports.now,
        waits=waits,
        airgap=stores.airgap,
        repository=stores.repository,
        exchanges=exchanges,
        contacts=contacts,
        file_activations=file_activations,
        filters=ListFilters(tenants=stores.tenants, codes=stores.codes),
    )
    return AirgapParts(airgap_answers=answers, airgap_exchanges=exchanges)
