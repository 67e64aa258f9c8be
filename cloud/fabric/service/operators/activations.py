"""Use case: operators list activations, approve or deny those that wait for a person, and lift denials.

The first decision about an activation counts. A repeat changes nothing. The opposite decision is refused, and so is a
repeat with another reason, because the audit has the first one. An approval takes the seat in the same transaction, so
an approved machine finds its seat when it returns.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

import msgspec

from cloud.fabric import schemas
from cloud.fabric.attestation.software_evidence import anchor_values
from cloud.fabric.errors import Conflict, Invalid, NotFound, Refused, SeatsExhausted
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.ports import Now
from cloud.fabric.service.rights.admitted import REFUSALS, Rights
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.denied import DeniedStore
from cloud.fabric.store.keys import code_key, node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow
from cloud.fabric.store.tenants import TenantStore
from cloud.http.guard import Operator
from protocol.ids import ActivationId, NodeId

Decision = Literal["approved", "denied"]


@dataclass(frozen=True, kw_only=True)
class ActivationDecisions:
    """Lists activations, and decides about waiting ones. An approved machine must return within `approve_within`."""

    approve_within: timedelta
    now: Now
    acting: Acting
    audit: AuditLog
    activations: ActivationStore
    codes: CodeStore
    denied: DeniedStore
    nodes: NodeStore
    tenants: TenantStore
    rights: Rights
    filters: ListFilters

    async def page(
        self, tenant: str, code: str, state: str, cursor: str, limit: int
    ) -> schemas.Page[schemas.Activation]:
        """A page of activations, the oldest first. An empty filter matches every activation. Raises Invalid, NotFound."""
        if state and state not in get_args(schemas.ActivationState):
            raise Invalid(f"state: must be one of {', '.join(get_args(schemas.ActivationState))}")
        await self.filters.check(tenant=tenant, code=code)
        after = views.read_cursor(cursor)
        rows = await self.activations.page(tenant, code, state, after, views.read_limit(limit) + 1)
        return views.page([views.activation(row) for row in rows], [row.id for row in rows], limit)

    async def show(self, activation: ActivationId) -> schemas.Activation:
        """One activation with its evidence. Raises NotFound."""
        return views.activation(await self._find(activation))

    async def decide(
        self, operator: Operator, activation: ActivationId, decision: Decision, reason: str
    ) -> schemas.Activation:
        """Approve or deny a pending activation. A repeat of the decision changes nothing.

        Raises NotFound, Invalid; Conflict if the activation does not wait any more, if it was decided for another reason,
        if no seat of its code is free, or if code or tenant do not admit the machine any more.
        """
        check_text("reason", reason)
        row = await self._find(activation)
        _require_code(row)
        candidate = (node_key(row.candidate),) if row.candidate else ()
        async with self.acting.transaction(operator, code_key(row.code), reads=(tenant_key(row.tenant), *candidate)):
            row = await self._find(activation)
            if _is_done(row, decision):
                if reason and reason != row.decision_reason:
                    raise Conflict(f"the activation is {decision} already{_by(row)}; the first reason stays")
                return views.activation(row)
            if row.state != "pending":
                raise Conflict(f"the activation is {row.state}{_by(row)}; it does not wait for a decision")
            decided = msgspec.structs.replace(
                row,
                state=decision,
                decided_at=self.now(),
                decided_by=operator.id,
                decision_reason=reason,
            )
            if decision == "approved":
                decided = await self._admitted(decided)
            await self.activations.set_decided(decided)
            if decision == "denied" and row.tier == "software":
                await self._remember(row)
            await self.audit.write(
                operator_actor(operator),
                f"activation.{decision}",
                row.id,
                row.tenant,
                reason=reason,
                code=row.code,
                tier=row.tier,
                node=row.candidate,
                matched=row.matched,
            )
        return views.activation(decided)

    async def lift(self, operator: Operator, activation: ActivationId, reason: str) -> schemas.Activation:
        """End a denial: the machine may ask again with the same code. A repeat changes nothing.

        Raises NotFound, Invalid; Conflict if the activation is not denied.
        """
        check_text("reason", reason)
        row = await self._find(activation)
        _require_code(row)
        async with self.acting.transaction(operator, code_key(row.code)):
            row = await self._find(activation)
            if row.state == "lifted":
                return views.activation(row)
            if not await self.activations.set_lifted(row.id):
                raise Conflict(f"the activation is {row.state}, not denied")
            await self.audit.write(
                operator_actor(operator), "activation.lifted", row.id, row.tenant, reason=reason, code=row.code
            )
        return views.activation(msgspec.structs.replace(row, state="lifted"))

    async def _remember(self, row: ActivationRow) -> None:
        """Store by which disks and boards the denied machine is known when it asks again with a new key."""
        tenant = await self.tenants.find(row.tenant)
        if tenant is not None:
            await self.denied.add(row.code, row.id, anchor_values(row.fingerprint, tenant.fingerprint_salt))

    async def _admitted(self, row: ActivationRow) -> ActivationRow:
        """The approved row, with a seat if the machine holds none. Raises Conflict."""
        now = self.now()
        if row.approve_by is None or row.approve_by <= now:
            raise Conflict("the activation has expired; the machine must start again")
        try:
            await self.rights.admitted(row)
        except REFUSALS as error:
            raise Conflict(f"cannot approve: {_reason(error)}") from error
        node = await self.nodes.find(NodeId(row.candidate)) if row.candidate else None
        holds = node is not None and node.seat_held
        if not holds and not await self.codes.take_seat(row.code):
            raise SeatsExhausted("no seat of the activation's code is free: release a node, or deny the activation")
        return msgspec.structs.replace(row, seat_reserved=not holds, approve_by=now + self.approve_within)

    async def _find(self, activation: ActivationId) -> ActivationRow:
        row = await self.activations.find(activation)
        if row is None:
            raise NotFound("no such activation")
        return row


def _require_code(row: ActivationRow) -> None:
    """Check that the activation is no recovery. Raises Conflict."""
    if row.claim is not None:
        case = f"; decide about the case {row.recovery} with `cascade recovery`" if row.recovery else ""
        raise Conflict(f"this activation is a recovery{case}")


def _is_done(row: ActivationRow, decision: Decision) -> bool:
    """Whether this decision was made already. An approved activation may have continued since."""
    if row.state == decision:
        return True
    continued = row.state in ("proved", "issued", "confirmed")
    return decision == "approved" and continued and row.decided_at is not None


def _by(row: ActivationRow) -> str:
    return f" since {row.decided_at:%Y-%m-%d %H:%M} UTC, by {row.decided_by}" if row.decided_at is not None else ""


def _reason(error: Refused) -> str:
    """The reason of a refusal by code or tenant, for the operator."""
    return error.detail or {
        "CodeExpired": "its code has expired",
        "CodeRevoked": "its code was revoked",
        "CodeRefused": "its code does not exist any more",
    }.get(type(error).__name__, "code or tenant do not admit it any more")
