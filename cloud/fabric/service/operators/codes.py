"""Use case: operators make, list and revoke activation codes.

The answer to `create` is the only place where the text of a code appears. The database holds a hash of the text.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cloud.fabric import schemas
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.licensing import statements
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text, check_time
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.service.ports import Now
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.keys import code_key, node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import CodeRow
from cloud.http.guard import Operator
from protocol.airgap.code_proof import proof_key
from protocol.codes import ENTROPY_BYTES, make_secret, secret_hash
from protocol.encoding import json_encode
from protocol.ids import CodeId, NodeId, TenantId
from protocol.limits import (
    ATTRIBUTE_NAME_CHARS_MAX,
    ATTRIBUTE_VALUE_CHARS_MAX,
    ENTITLEMENT_NAME_CHARS_MAX,
    ENTITLEMENTS_BYTES_MAX,
    ENTITLEMENTS_MAX,
    EVENT_WAIT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MIN,
    NAME_CHARS_MAX,
    SEATS_MAX,
    WAKE_SECONDS_MIN,
)
from protocol.signed.lease import Entitlement, Grant, LeaseInvalid, check_entitlements

CODE_LIFE_MAX = timedelta(days=3652)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Makes, lists and revokes activation codes."""

    now: Now
    entropy: Entropy
    acting: Acting
    audit: AuditLog
    codes: CodeStore
    nodes: NodeStore
    tenants: Tenants

    async def create(self, operator: Operator, tenant: TenantId, body: schemas.CreateCode) -> schemas.CreatedCode:
        """Make a code. The answer carries its text. Raises NotFound, Invalid, Conflict."""
        await self.tenants.find(tenant)
        expires_at = check_time("expires_at", body.expires_at)
        self._check(body, expires_at)
        now = self.now()
        secret = make_secret("cac", self.entropy(ENTROPY_BYTES))
        row = CodeRow(
            id=CodeId(new_id("code", now, self.entropy)),
            tenant=tenant,
            secret_hash=secret_hash(secret),
            proof_key=proof_key(secret),
            profile=body.profile,
            entitlements=_grants(body),
            lease=body.lease,
            seats=body.seats,
            seats_taken=0,
            readmit_node=body.readmit_node,
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
            intervals=body.intervals,
            approval=body.approval,
            tier_min=body.tier_min,
        )
        reads = () if body.readmit_node is None else (node_key(body.readmit_node),)
        async with self.acting.transaction(operator, code_key(row.id), reads=reads):
            await self._check_readmitted(tenant, body.readmit_node)
            await self.codes.insert(row)
            await self.audit.write(
                operator_actor(operator),
                "code.created",
                row.id,
                tenant,
                profile=row.profile,
                seats=row.seats,
                readmit_node=row.readmit_node,
                approval="yes" if row.approval else "",
                tier_min="" if row.tier_min == "software" else row.tier_min,
            )
        return schemas.CreatedCode(views.code(row, now), secret)

    def _check(self, body: schemas.CreateCode, expires_at: datetime) -> None:
        check_text("profile", body.profile, NAME_CHARS_MAX, empty=False)
        _check_entitlements(body)
        if body.intervals is not None:
            _check_intervals(body.intervals)
        if not 1 <= body.seats <= SEATS_MAX:
            raise Invalid(f"seats: 1 to {SEATS_MAX}")
        now = self.now()
        if not now < expires_at <= now + CODE_LIFE_MAX:
            raise Invalid("expires_at: must be in the future, at most ten years away")
        if body.lease is not None:
            try:
                statements.check_terms(body.lease)
            except statements.TermsError as error:
                raise Invalid(f"lease: {error}") from error

    async def _check_readmitted(self, tenant: TenantId, readmit_node: NodeId | None) -> None:
        if readmit_node is None:
            return
        node = await self.nodes.find(readmit_node)
        if node is None or node.tenant != tenant:
            raise Invalid("readmit_node: this tenant has no such node")
        if node.standing != "revoked" and node.tier != "software":
            raise Conflict(
                f"readmit_node: {node.id} is {node.standing}, not revoked; any open code of its tenant activates its "
                "machine again"
            )

    async def page(self, tenant: TenantId, cursor: str, limit: int) -> schemas.Page[schemas.Code]:
        """A page of the tenant's codes, the oldest first. Raises NotFound, Invalid."""
        await self.tenants.find(tenant)
        rows = await self.codes.page(tenant, views.read_cursor(cursor), views.read_limit(limit) + 1)
        now = self.now()
        return views.page([views.code(row, now) for row in rows], [row.id for row in rows], limit)

    async def revoke(self, operator: Operator, code: CodeId, dry_run: bool = False) -> schemas.Code:
        """Revoke a code: no further machine can activate with it. Activated machines keep their licence.

        A repeat changes nothing. Raises NotFound.
        """
        async with self.acting.transaction(operator, code_key(code), dry_run=dry_run):
            row = await self.codes.find(code)
            if row is None:
                raise NotFound("no such code")
            if row.revoked_at is None:
                await self.codes.revoke(code, self.now())
                await self.audit.write(operator_actor(operator), "code.revoked", code, row.tenant)
                row = await self.codes.find(code) or row
        return views.code(row, self.now())


def _grants(body: schemas.CreateCode) -> tuple[Grant, ...]:
    """The entitlements as a lease has them: the names in their order, then those that are only in `entitlement_terms`.

    Terms that say nothing make a plain name.
    """
    terms: dict[str, Grant] = {}
    for each in body.entitlement_terms:
        entitlement = Entitlement(
            name=each.name,
            limit=each.limit,
            not_before=each.not_before and each.not_before.astimezone(UTC),
            until=each.until and each.until.astimezone(UTC),
            attributes=each.attributes,
        )
        terms[each.name] = each.name if entitlement == Entitlement(name=each.name) else entitlement
    plain: dict[str, Grant] = {name: name for name in body.entitlements}
    return tuple((plain | terms).values())


def _check_entitlements(body: schemas.CreateCode) -> None:
    """Check the entitlements of a new code. Raises Invalid."""
    names, terms = body.entitlements, body.entitlement_terms
    for listed in (names, [each.name for each in terms]):
        if len(listed) > ENTITLEMENTS_MAX or len(set(listed)) != len(listed):
            raise Invalid(f"entitlements: at most {ENTITLEMENTS_MAX}, each named once")
        for name in listed:
            check_text("entitlements", name, ENTITLEMENT_NAME_CHARS_MAX, empty=False)
    for each in terms:
        for date in (each.not_before, each.until):
            if date is not None:
                check_time("entitlement_terms", date)
        for name, value in each.attributes.items():
            check_text("entitlement_terms.attributes", name, ATTRIBUTE_NAME_CHARS_MAX, empty=False)
            check_text("entitlement_terms.attributes", value, ATTRIBUTE_VALUE_CHARS_MAX)
    grants = _grants(body)
    try:
        check_entitlements(grants)
    except LeaseInvalid as error:
        raise Invalid(f"entitlement_terms: {error}") from error
    if len(json_encode(grants)) > ENTITLEMENTS_BYTES_MAX:
        raise Invalid(f"entitlements: at most {ENTITLEMENTS_BYTES_MAX} bytes in JSON together")


def _check_intervals(intervals: schemas.LeaseIntervals) -> None:
    """Check the intervals of a new code. Raises Invalid."""
    heartbeat, wake = intervals.heartbeat_seconds, intervals.wake_seconds
    if heartbeat is not None and not HEARTBEAT_SECONDS_MIN <= heartbeat <= HEARTBEAT_SECONDS_MAX:
        raise Invalid(f"intervals.heartbeat_seconds: {HEARTBEAT_SECONDS_MIN} to {HEARTBEAT_SECONDS_MAX}")
    if wake is not None and not WAKE_SECONDS_MIN <= wake <= EVENT_WAIT_SECONDS_MAX:
        raise Invalid(f"intervals.wake_seconds: {WAKE_SECONDS_MIN} to {EVENT_WAIT_SECONDS_MAX}")
