"""Use case: have Breakwater close every generation that Fabric has closed."""

import asyncio
from dataclasses import dataclass

from cloud.audit import SYSTEM
from cloud.fabric.errors import IssuerRefused, IssuerUnavailable
from cloud.fabric.issuer import Issuer
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.keys import node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.tasks.back_off import BackOff
from protocol.faults import fault_point

PAGE_ITEMS = 100


@dataclass(frozen=True, kw_only=True)
class Closings:
    """Closes generations at the issuer."""

    transaction: Transaction
    audit: AuditLog
    nodes: NodeStore
    issuer: Issuer

    async def close_at_issuer(self, back_off: BackOff) -> None:
        """Have every closed generation closed at Breakwater too, and store that it is done.

        Reports failed and successful calls to `back_off`. Raises IssuerUnavailable at the first call that fails. A
        refusal for one node does not stop the others; IssuerRefused is raised at the end.
        """
        after, refused = "", None
        while rows := await self.nodes.closing(after, PAGE_ITEMS):
            for node in rows:
                try:
                    await self.issuer.close_generations(node.tenant, node.id, node.closed_up_to)
                except IssuerRefused as error:
                    refused = error
                    continue
                except IssuerUnavailable:
                    back_off.failed(asyncio.get_running_loop().time())
                    raise
                back_off.worked()
                with fault_point("fabric.generation.closed"):
                    async with self.transaction(node_key(node.id)):
                        await self.nodes.set_closed_at_issuer(node.id, node.closed_up_to)
                        await self.audit.write(
                            SYSTEM, "generation.closed_at_issuer", node.id, node.tenant, up_to=node.closed_up_to
                        )
            after = rows[-1].id
        if refused is not None:
            back_off.failed(asyncio.get_running_loop().time())
            raise refused
