"""Use case: judge the PCR quotes of nodes under the policies of their tenants. The verifier checks the quotes."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.attestation.pcr_quotes import PcrReport, pcr_policy, refusal_of, report_of
from cloud.fabric.errors import QuoteRefused
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.rights.admitted import Admitted
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow, without_tpm
from cloud.fabric.store.tenants import TenantStore
from protocol.evidence import PcrQuote, qualifying_data
from protocol.messages.activation import ProveActivation
from protocol.messages.sessions import ProofClaims

NO_TPM = "the node has no TPM"


@dataclass(frozen=True, kw_only=True)
class PcrQuotes:
    """Judges quotes at activations and sessions."""

    tenants: TenantStore
    seen: SeenSessions

    def at_activation(self, row: ActivationRow, admitted: Admitted, body: ProveActivation) -> PcrReport:
        """As `of_activation`, for the answer to a challenge. The answer must have been checked. Raises QuoteRefused."""
        return self.of_activation(row, admitted, body.pcr_quote, lambda: qualifying_data(body.secret, row.id, body.csr))

    def of_activation(
        self,
        row: ActivationRow,
        admitted: Admitted,
        quote: PcrQuote | msgspec.UnsetType,
        challenge: Callable[[], bytes],
    ) -> PcrReport:
        """The report of an activation, empty under the policy `ignore`. The profile is that of the right.

        `challenge` returns the challenge of the quote. The key evidence must have been checked. Raises QuoteRefused.
        """
        policy = pcr_policy(admitted.tenant.pcr_policies, admitted.profile)
        if policy == "ignore":
            return PcrReport()
        report = report_of(quote, row.ak_public, challenge())
        refused = refusal_of(policy, report, ())
        if refused:
            raise QuoteRefused(refused)
        return report

    async def at_session(self, node: NodeRow, generation: GenerationRow, claims: ProofClaims, now: datetime) -> None:
        """As `of_contact`, for a session whose proof was checked. Raises QuoteRefused."""
        await self.of_contact(node, generation, claims.pcr_quote, claims.nonce.encode(), now)

    async def of_contact(
        self,
        node: NodeRow,
        generation: GenerationRow,
        quote: PcrQuote | msgspec.UnsetType,
        challenge: bytes,
        now: datetime,
    ) -> None:
        """Judge the quote of a contact whose signature was checked, and keep what changed. Raises QuoteRefused.

        A generation that was activated without a quote gets its accepted values from its first valid quote.
        """
        tenant = await self.tenants.find(node.tenant)
        policy = pcr_policy(tenant.pcr_policies if tenant else {}, node.profile)
        if policy == "ignore":
            return
        if without_tpm(node, generation):
            report = PcrReport(fault=NO_TPM)
        else:
            report = report_of(quote, generation.ak_public, challenge)
        self.seen.note_pcrs(node, generation, report, now)
        refused = refusal_of(policy, report, generation.pcr_accepted)
        if refused:
            raise QuoteRefused(refused)
