"""Use case: read the claim of a machine that asks for its node back, before any proof.

The claim only names a node. Nothing of a node is changed or disclosed before the proof: an unknown node and a node of
another tenant get the same refusal.
"""

from dataclasses import dataclass

import msgspec

from cloud.fabric.errors import CodeRefused, Invalid, RecoveryCodeRefused, RecoveryRefused
from cloud.fabric.licensing.presented import judge
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.service.nodes.statement_stream import is_closed
from cloud.fabric.service.recovery.codes import RecoveryCodes
from cloud.fabric.service.recovery.tries import Caller
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import NodeRow, RecoveryClaimed, RecoveryCodeRow, TenantRow
from cloud.fabric.store.tenants import TenantStore
from protocol.ids import IdError, NodeId, RecoveryCodeId, TenantId, parse_id
from protocol.messages.recovery import RecoveryClaim
from protocol.signed.statements import Revocation, Statement


class Named(msgspec.Struct, frozen=True):
    """The tenant of a recovery, the node that the claim names (None: the chip must name it), and the checked claim."""

    tenant: TenantRow
    node: NodeRow | None
    claimed: RecoveryClaimed


@dataclass(frozen=True, kw_only=True)
class RecoveryClaims:
    """Reads claims. `signer` verifies the statements that this Fabric has signed."""

    signer: Signer
    nodes: NodeStore
    tenants: TenantStore
    codes: RecoveryCodes

    async def read(self, claim: RecoveryClaim, code_text: str, *, source: str, chip: str, proof_key: str = "") -> Named:
        """The tenant and the node that a claim names, by its recovery code, its statement or an id.

        `source` is the caller's address, and `chip` a hash of the machine's public EK or node key. A request in a file
        proves a code by `proof_key` in the place of its text. Raises Invalid, RecoveryRefused, RecoveryCodeRefused,
        TooOften.
        """
        if not (code_text.strip() or proof_key):
            return await self._named(claim, None)
        async with self.codes.attempt(Caller(source, chip)):
            found = self.codes.find_proved(proof_key) if proof_key else self.codes.find(code_text)
            return await self._named(claim, await found)

    async def _named(self, claim: RecoveryClaim, code: RecoveryCodeRow | None) -> Named:
        named = _node_id(claim.node)
        statement = self.signer.presented(claim.statement)
        if statement is None and claim.statement and not named and code is None:
            raise RecoveryRefused("this cloud did not sign the statement. Name the node by its id")
        if named and statement is not None and statement.node != named:
            raise RecoveryRefused("the statement is of another node than the named one")
        node_id = named or (statement.node if statement is not None else "") or (code.node if code is not None else "")
        if not node_id and code is None:
            raise RecoveryRefused("no node is named. Name the node by its id, or show a recovery code")
        node = await self.nodes.find(NodeId(node_id)) if node_id else None
        if node_id and node is None:
            raise RecoveryRefused("no such node")
        tenant = await self._tenant(node, code)
        if isinstance(statement, Revocation) and node is not None:
            await self._require_known(node, statement)
        if statement is not None and (statement.tenant, statement.node) != (tenant.id, node_id):
            raise RecoveryRefused("the statement is of another tenant than the node")
        claimed = RecoveryClaimed(
            node=NodeId(node_id),
            situation=claim.situation,
            statement=statement is not None,
            last_ran_at=None if claim.last_ran_at is msgspec.UNSET else claim.last_ran_at,
            code=code.id if code is not None else RecoveryCodeId(""),
            later=node is not None and statement is not None and await self._is_later(node, statement),
        )
        return Named(tenant, node, claimed)

    async def _tenant(self, node: NodeRow | None, code: RecoveryCodeRow | None) -> TenantRow:
        """The tenant of node and code. Raises RecoveryCodeRefused if they differ."""
        if node is not None and code is not None and (code.tenant != node.tenant or code.node not in ("", node.id)):
            raise RecoveryCodeRefused(
                "the recovery code is for another node", code=code.id, tenant=code.tenant, node=node.id
            )
        tenant = node.tenant if node is not None else (code.tenant if code is not None else TenantId(""))
        row = await self.tenants.find(tenant)
        if row is None:
            raise CodeRefused
        return row

    async def _require_known(self, node: NodeRow, statement: Revocation) -> None:
        """Check that the database knows a presented revocation. Raises RecoveryRefused.

        A database of before the revocation was restored. The machine's next session, or an operator, brings it back.
        """
        generation = await self.nodes.find_generation(node.id, statement.generation)
        if statement.reason != "superseded" and (generation is None or not is_closed(node, generation)):
            raise RecoveryRefused(f"the statement says that the node was {statement.reason}")

    async def _is_later(self, node: NodeRow, statement: Statement) -> bool:
        """Whether a database from a backup has lost the statement, and with it what was decided since."""
        generation = await self.nodes.find_generation(node.id, statement.generation)
        stored = self.signer.presented(generation.statement) if generation is not None else None
        found = judge(stored, statement, tenant=node.tenant, node=node.id, generation=statement.generation)
        return found != "known"


def _node_id(text: str) -> str:
    """The node id that a person or a state directory named; empty for none. Raises Invalid."""
    text = text.strip().lower()
    if not text:
        return ""
    try:
        return parse_id("node", text)
    except IdError as error:
        raise Invalid(f"node: {error}") from error
