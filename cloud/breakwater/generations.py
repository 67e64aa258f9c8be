"""Use cases: open and close generations of nodes, at Fabric's request. A close revokes their certificates.

Rule: A closed generation never opens again. The store excludes a close during an issuance.
"""

from collections.abc import Callable

from cloud.audit import AuditEntries
from cloud.breakwater.errors import ValueRefused
from cloud.breakwater.store import Stores
from cloud.breakwater.store.audit import AuditRow
from cloud.contracts.breakwater import (
    GENERATION_MAX,
    REASON_NUMBERS,
    CloseGeneration,
    CloseGenerations,
    GenerationsPage,
    OpenGeneration,
    RevocationReason,
    SupersedeKeys,
)
from protocol.faults import fault_point
from protocol.ids import IdError, NodeId, NodeSpiffeId, TenantId, parse_id

Revoked = Callable[[str, RevocationReason], None]
"""Called after each change that may have revoked certificates, with what was revoked (`kind`) and the reason."""


def node_of(trust_domain: str, tenant: str, node: str, generation: int) -> NodeSpiffeId:
    """Return the SPIFFE id of a node. Raises ValueRefused for invalid ids or a generation out of bounds."""
    try:
        spiffe = NodeSpiffeId(trust_domain, TenantId(parse_id("ten", tenant)), NodeId(parse_id("node", node)))
    except IdError as error:
        raise ValueRefused(str(error)) from error
    if not 1 <= generation <= GENERATION_MAX:
        raise ValueRefused(f"a generation is a number from 1 to {GENERATION_MAX}")
    return spiffe


class Generations:
    """Opens and closes generations. `caller` is the name in the audit."""

    def __init__(self, stores: Stores, trust_domain: str, entries: AuditEntries[AuditRow], revoked: Revoked) -> None:
        self._store = stores.generations
        self._lists = stores.generation_lists
        self._trust_domain = trust_domain
        self._entries = entries
        self._revoked = revoked

    async def is_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """Whether the generation was opened and is not closed."""
        return await self._store.is_open(tenant, node, generation)

    async def page(self, after: str) -> GenerationsPage:
        """List the generations of the nodes after the id `after`; empty for the first page."""
        return await self._lists.page(after)

    async def open(self, caller: str, body: OpenGeneration) -> None:
        """Open a generation; idempotent. Raises Conflict, ValueRefused."""
        entry = self._entry(caller, "generation.open", body.tenant, body.node, body.generation)
        with fault_point("breakwater.generation.open"):
            await self._store.open(entry)

    async def close_up_to(self, caller: str, body: CloseGenerations) -> int:
        """Close every generation up to `up_to` permanently; idempotent.

        Returns how many of their device certificates are revoked.

        Raises Conflict, ValueRefused.
        """
        entry = self._entry(caller, "generation.close", body.tenant, body.node, body.up_to, body.reason)
        with fault_point("breakwater.generation.close"):
            revoked = await self._store.close_up_to(entry, REASON_NUMBERS[body.reason])
        self._revoked("generation", body.reason)
        return revoked

    async def close_one(self, caller: str, body: CloseGeneration) -> int:
        """Close only this generation, permanently; idempotent. Return how many device certificates are revoked.

        Raises Conflict, ValueRefused.
        """
        entry = self._entry(caller, "generation.close_one", body.tenant, body.node, body.generation, body.reason)
        with fault_point("breakwater.generation.close_one"):
            revoked = await self._store.close_one(entry, REASON_NUMBERS[body.reason])
        self._revoked("generation", body.reason)
        return revoked

    async def supersede_keys(self, caller: str, body: SupersedeKeys) -> int:
        """Revoke a generation's device certificates for earlier keys; idempotent. Return how many were newly revoked.

        Raises Conflict, ValueRefused.
        """
        entry = self._entry(caller, "generation.rekey", body.tenant, body.node, body.generation, "superseded")
        with fault_point("breakwater.keys.supersede"):
            revoked = await self._store.supersede_keys(entry, body.spki_sha256, REASON_NUMBERS["superseded"])
        self._revoked("key", "superseded")
        return revoked

    def _entry(self, caller: str, action: str, tenant: str, node: str, generation: int, detail: str = "") -> AuditRow:
        node_of(self._trust_domain, tenant, node, generation)
        return self._entries.make(
            caller,
            action,
            f"{node}.{generation}",
            tenant=tenant,
            node=node,
            generation=generation,
            detail=detail,
        )
