"""Use case: operators issue, list and revoke recovery codes.

The answer to `issue` is the only place where the text of a code appears. The database holds a keyed hash of the text.

A stolen token of an operator must not be enough to take over a node unseen. So a code is accepted later if its node (or,
for a code of a whole tenant, the tenant) had another code in the period of the tenant's policy. The delay is recorded in
the audit of the tenant, and lists show the code as `delayed` meanwhile.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from cloud.fabric import schemas
from cloud.fabric.bodies.recovery_codes import (
    CODES_AT_ONCE_MAX,
    IssuedRecoveryCode,
    IssuedRecoveryCodes,
    IssueRecoveryCodes,
    RecoveryCode,
)
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_time
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.ports import Now
from cloud.fabric.service.recovery.codes import recovery_code_hash
from cloud.fabric.store.keys import node_key, recovery_code_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.recovery_codes import RecoveryCodeStore
from cloud.fabric.store.rows import NodeRow, RecoveryCaseRow, RecoveryCodeRow, TenantRow
from cloud.fabric.store.tenants import TenantStore
from cloud.http.guard import Operator
from protocol.airgap.code_proof import proof_key
from protocol.codes import RECOVERY_ENTROPY_BYTES, make_recovery_code
from protocol.ids import NodeId, RecoveryCodeId, RecoveryId, TenantId
from protocol.messages.recovery import CaseState

CODE_LIFE_MAX = timedelta(days=731)
"""Two years: a code on paper in a safe is replaced before."""
CODE_WANTED: tuple[CaseState, ...] = ("eligible", "needs_operator", "code_issued", "refused")
"""States of a case in which a code can be issued for it."""


class _Scope(msgspec.Struct, frozen=True):
    """What the codes of one issue are for. `node` is None for a whole tenant."""

    tenant: TenantRow
    node: NodeRow | None
    case: RecoveryCaseRow | None


@dataclass(frozen=True, kw_only=True)
class RecoveryCodeIssues:
    """Issues, lists and revokes recovery codes."""

    key: bytes = field(repr=False)
    now: Now
    entropy: Entropy
    acting: Acting
    audit: AuditLog
    cases: RecoveryCaseStore
    codes: RecoveryCodeStore
    nodes: NodeStore
    tenants: TenantStore
    filters: ListFilters

    async def issue(self, operator: Operator, body: IssueRecoveryCodes) -> IssuedRecoveryCodes:
        """Issue codes. The answer carries their texts. Raises NotFound, Invalid, Conflict.

        A code for a case moves the case to `code_issued`, in the same transaction.
        """
        expires_at = self._check(body)
        now = self.now()
        ids = sorted(RecoveryCodeId(new_id("rcc", now, self.entropy)) for _ in range(body.count))
        node, tenant = await self._named(body)
        scope_key = tenant_key(tenant) if node is None else node_key(node)
        keys = (scope_key, *map(recovery_code_key, ids))
        async with self.acting.transaction(operator, *keys, reads=() if node is None else (tenant_key(tenant),)):
            scope = await self._scope(body, node, tenant)
            usable_from, earlier = await self._usable_from(scope, now)
            if expires_at <= usable_from:
                raise Invalid(
                    f"expires_at: the codes are accepted from {usable_from:%Y-%m-%d %H:%M} UTC on, "
                    "because others were issued before"
                )
            issued = [self._made(each, scope, operator, now, usable_from, expires_at) for each in ids]
            for row, _ in issued:
                await self.codes.insert(row)
                await self.audit.write(
                    operator_actor(operator),
                    "recovery.code_issued",
                    row.id,
                    row.tenant,
                    node=row.node,
                    case=row.recovery_case,
                    usable_from=f"{usable_from:%Y-%m-%dT%H:%M:%SZ}" if earlier else "",
                    reissued_after=earlier.id if earlier else "",
                )
            if scope.case is not None:
                await self._mark(scope.case, ids[0])
        shown = tuple(IssuedRecoveryCode(views.recovery_code(row, now), secret) for row, secret in issued)
        return IssuedRecoveryCodes(shown, reissued=earlier is not None)

    def _check(self, body: IssueRecoveryCodes) -> datetime:
        """The checked time of expiry. Raises Invalid."""
        if sum(each is not None for each in (body.node, body.case, body.tenant)) != 1:
            raise Invalid("a recovery code is for exactly one of node, case and tenant")
        if not 1 <= body.count <= CODES_AT_ONCE_MAX:
            raise Invalid(f"count: 1 to {CODES_AT_ONCE_MAX}")
        if body.case is not None and body.count != 1:
            raise Invalid("count: a case gets one code")
        expires_at, now = check_time("expires_at", body.expires_at), self.now()
        if not now < expires_at <= now + CODE_LIFE_MAX:
            raise Invalid("expires_at: must be in the future, at most two years away")
        return expires_at

    async def _named(self, body: IssueRecoveryCodes) -> tuple[NodeId | None, TenantId]:
        """The node and the tenant that the body names; they never change. Raises NotFound."""
        if body.tenant is not None:
            return None, body.tenant
        if body.case is not None:
            case = await self.cases.find(body.case)
            if case is None:
                raise NotFound("no such recovery case")
            return case.node, case.tenant
        node = await self.nodes.find(body.node) if body.node is not None else None
        if node is None:
            raise NotFound("no such node")
        return node.id, node.tenant

    async def _scope(self, body: IssueRecoveryCodes, node: NodeId | None, tenant: TenantId) -> _Scope:
        """The rows that the codes are for. Raises NotFound, Conflict."""
        tenant_row = await self.tenants.find(tenant)
        if tenant_row is None:
            raise NotFound("no such tenant")
        node_row = None if node is None else await self.nodes.find(node)
        if node_row is not None and node_row.standing in ("revoked", "released"):
            raise Conflict(
                f"the node is {node_row.standing}; only an activation code made with "
                "`cascade code create --readmit NODE` brings it back"
            )
        case = None if body.case is None else await self._wanted(body.case)
        return _Scope(tenant_row, node_row, case)

    async def _wanted(self, case: RecoveryId) -> RecoveryCaseRow:
        row = await self.cases.find(case)
        if row is None:
            raise NotFound("no such recovery case")
        if row.state not in CODE_WANTED:
            raise Conflict(f"the case is {row.state}; it does not wait for a recovery code")
        newest = await self.cases.latest(row.node)
        if newest is not None and newest.id != row.id:
            raise Conflict(f"the case {newest.id} of the same node was opened later; issue the code for that one")
        return row

    async def _usable_from(self, scope: _Scope, now: datetime) -> tuple[datetime, RecoveryCodeRow | None]:
        """The time from which new codes are accepted, and the earlier code of the period that delays them."""
        policy = scope.tenant.recovery
        earlier = await self.codes.newest(scope.tenant.id, "" if scope.node is None else scope.node.id)
        if earlier is None or earlier.created_at <= now - timedelta(days=policy.period_days):
            return now, None
        return now + timedelta(hours=policy.code_delay_hours), earlier

    def _made(
        self,
        code: RecoveryCodeId,
        scope: _Scope,
        operator: Operator,
        now: datetime,
        usable_from: datetime,
        expires_at: datetime,
    ) -> tuple[RecoveryCodeRow, str]:
        """The row of a new code, and its text."""
        secret = make_recovery_code(self.entropy(RECOVERY_ENTROPY_BYTES))
        row = RecoveryCodeRow(
            id=code,
            tenant=scope.tenant.id,
            secret_hash=recovery_code_hash(self.key, secret),
            proof_key=proof_key(secret),
            node=NodeId("") if scope.node is None else scope.node.id,
            recovery_case="" if scope.case is None else scope.case.id,
            created_at=now,
            created_by=operator.id,
            usable_from=usable_from,
            expires_at=expires_at,
        )
        return row, secret

    async def _mark(self, case: RecoveryCaseRow, code: RecoveryCodeId) -> None:
        """Move a case to `code_issued`. An operator can still approve or deny the case."""
        marked = msgspec.structs.replace(case, state="code_issued", reason=f"the recovery code {code} was issued")
        await self.cases.update(marked)

    async def page(self, tenant: str, node: str, state: str, cursor: str, limit: int) -> schemas.Page[RecoveryCode]:
        """A page of codes, the oldest first. An empty filter matches every code. Raises Invalid, NotFound.

        The only other `state` is `delayed`: codes that are accepted later, because others were issued before.
        """
        if state not in ("", "delayed"):
            raise Invalid("state: must be delayed, or empty")
        await self.filters.check(tenant=tenant)
        after, now = views.read_cursor(cursor), self.now()
        count = views.read_limit(limit) + 1
        if state:
            rows = await self.codes.delayed(tenant, node, now, after, count)
        else:
            rows = await self.codes.page(tenant, node, after, count)
        return views.page([views.recovery_code(row, now) for row in rows], [row.id for row in rows], limit)

    async def revoke(self, operator: Operator, code: RecoveryCodeId) -> RecoveryCode:
        """Revoke a code: no machine can use it any more. A repeat changes nothing.

        Raises NotFound; Conflict if the code was used.
        """
        async with self.acting.transaction(operator, recovery_code_key(code)):
            row = await self.codes.find(code)
            if row is None:
                raise NotFound("no such recovery code")
            if row.used_at is not None:
                raise Conflict(
                    f"the code was used for the recovery case {row.used_case}; `cascade recovery deny` ends it"
                )
            now = self.now()
            if await self.codes.revoke(code, now):
                await self.audit.write(
                    operator_actor(operator), "recovery.code_revoked", code, row.tenant, node=row.node
                )
                row = msgspec.structs.replace(row, revoked_at=now)
        return views.recovery_code(row, self.now())
