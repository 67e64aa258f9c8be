"""Activation codes: made, listed, taken back. The secret is answered once and kept as a hash."""

from datetime import UTC, timedelta

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.licensing import statements
from cloud.fabric.service import views
from cloud.fabric.service.context import Core, check_text, operator_actor
from cloud.fabric.service.operators import tenants
from cloud.fabric.store.rows import CodeRow
from cloud.http.guard import Operator
from protocol.codes import ENTROPY_BYTES, make_secret, secret_hash
from protocol.ids import CodeId, TenantId
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX, ENTITLEMENTS_MAX, NAME_CHARS_MAX, SEATS_MAX

CODE_LIFE_MAX = timedelta(days=3652)


async def create(core: Core, operator: Operator, tenant: TenantId, body: schemas.CreateCode) -> schemas.CreatedCode:
    """Raises NotFound, Invalid."""
    await tenants.find(core, tenant)
    await _check(core, tenant, body)
    now = core.now()
    secret = make_secret("cac", core.entropy(ENTROPY_BYTES))
    row = CodeRow(
        id=CodeId(core.ids.make("code", now)),
        tenant=tenant,
        secret_hash=secret_hash(secret),
        profile=body.profile,
        entitlements=body.entitlements,
        lease=body.lease,
        seats=body.seats,
        seats_taken=0,
        readmit_node=body.readmit_node,
        created_at=now,
        expires_at=body.expires_at.astimezone(UTC),
        revoked_at=None,
    )
    async with core.stores.transaction():
        await core.stores.codes.insert(row)
        await core.audit(
            operator_actor(operator),
            "code.created",
            row.id,
            tenant,
            profile=row.profile,
            seats=row.seats,
            readmit_node=row.readmit_node,
        )
    return schemas.CreatedCode(views.code(row, now), secret)


async def _check(core: Core, tenant: TenantId, body: schemas.CreateCode) -> None:
    check_text("profile", body.profile, NAME_CHARS_MAX, empty=False)
    names = body.entitlements
    if len(names) > ENTITLEMENTS_MAX or len(set(names)) != len(names):
        raise Invalid(f"entitlements: at most {ENTITLEMENTS_MAX}, each once")
    for name in names:
        check_text("entitlements", name, ENTITLEMENT_NAME_CHARS_MAX, empty=False)
    if not 1 <= body.seats <= SEATS_MAX:
        raise Invalid(f"seats: 1 to {SEATS_MAX}")
    if body.expires_at.tzinfo is None or not core.now() < body.expires_at <= core.now() + CODE_LIFE_MAX:
        raise Invalid("expires_at: a time with zone, in the future, at most ten years away")
    if body.lease is not None:
        try:
            statements.check_terms(body.lease)
        except statements.TermsError as error:
            raise Invalid(f"lease: {error}") from error
    if body.readmit_node is not None:
        node = await core.stores.nodes.find(body.readmit_node)
        if node is None or node.tenant != tenant:
            raise Invalid("readmit_node: no such node of this tenant")


async def page(core: Core, tenant: TenantId, cursor: str, limit: int) -> schemas.Page[schemas.Code]:
    """Raises NotFound, Invalid."""
    await tenants.find(core, tenant)
    rows = await core.stores.codes.page(tenant, views.read_cursor(cursor), views.read_limit(limit) + 1)
    now = core.now()
    return views.page([views.code(row, now) for row in rows], [row.id for row in rows], limit)


async def revoke(core: Core, operator: Operator, code: CodeId) -> schemas.Code:
    """No machine activates by it from now on; those that have stay. A repeat is harmless. Raises NotFound."""
    async with core.stores.transaction():
        row = await core.stores.codes.find(code)
        if row is None:
            raise NotFound("no such code")
        if row.revoked_at is None:
            await core.stores.codes.revoke(code, core.now())
            await core.audit(operator_actor(operator), "code.revoked", code, row.tenant)
            row = await core.stores.codes.find(code) or row
    return views.code(row, core.now())
