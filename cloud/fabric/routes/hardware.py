"""Routes: the hardware that tenants trust, and their policies for machines, for operators with a bearer token."""

from typing import Annotated, Any

from litestar import Request, get, post, put
from litestar.params import JSONBody, PathParameter

from cloud.fabric import schemas
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.routes.access import Cursor, DryRun, Limit, OfNode, OfTenant, node_id, tenant_id
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.operators.pcr_policies import PcrPolicies
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.service.operators.trusted_hardware import TrustedHardware
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.conditions import if_match_of, tagged
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]
OfCertificate = Annotated[
    str,
    PathParameter(
        description="SHA-256 of a certificate in DER, in hex.", schema_extra={"pattern": "^[0-9A-Fa-f]{64}$"}
    ),
]


_CHANGES = operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid))


@get(
    "/v1/tenants/{tenant:str}/trust",
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=READ, refuses=(NotFound,)),
)
async def show_tenant_trust(tenant: OfTenant, tenants: Wired[Tenants]) -> schemas.TenantTrust:
    """Show the hardware that a tenant trusts."""
    return await tenants.trust(tenant_id(tenant))


@post(
    "/v1/tenants/{tenant:str}/trust/ek-roots",
    status_code=200,
    opt=_CHANGES,
)
async def add_ek_roots(
    tenant: OfTenant, data: JSONBody[schemas.AddEkRoots], request: Asked, tenants: Wired[Tenants]
) -> schemas.TenantTrust:
    """Trust CAs of TPM makers.

    A repeat changes nothing. The answer has all hardware that the tenant trusts.
    """
    return await tenants.add_ek_roots(current_operator(request), tenant_id(tenant), data)


@post(
    "/v1/tenants/{tenant:str}/trust/ek-allowed",
    status_code=200,
    after_request=tagged,
    opt=_CHANGES,
)
async def allow_ek(
    tenant: OfTenant, data: JSONBody[schemas.AllowEk], request: Asked, tenants: Wired[Tenants]
) -> schemas.TenantTrust:
    """Count one TPM chip as attested without a certificate.

    A repeat changes nothing. The answer has all hardware that the tenant trusts.
    """
    return await tenants.allow_ek(current_operator(request), tenant_id(tenant), data)


@put(
    "/v1/tenants/{tenant:str}/trust/tiers",
    status_code=200,
    after_request=tagged,
    opt=_CHANGES,
)
async def set_tiers(
    tenant: OfTenant, data: JSONBody[schemas.SetTiers], request: Asked, tenants: Wired[Tenants], dry_run: DryRun = False
) -> schemas.TenantTrust:
    """Set the assurance tiers that a tenant admits.

    Leases of nodes that are activated already stay in force.
    """
    return await tenants.set_tiers(
        current_operator(request), tenant_id(tenant), data, if_match_of(request), dry_run=dry_run
    )


@put(
    "/v1/tenants/{tenant:str}/trust/approval",
    status_code=200,
    after_request=tagged,
    opt=_CHANGES,
)
async def set_approval_tiers(
    tenant: OfTenant,
    data: JSONBody[schemas.SetApprovalTiers],
    request: Asked,
    tenants: Wired[Tenants],
    dry_run: DryRun = False,
) -> schemas.TenantTrust:
    """Set the tiers whose activations an operator must approve.

    Activations that wait already go on waiting.
    """
    return await tenants.set_approval_tiers(
        current_operator(request), tenant_id(tenant), data, if_match_of(request), dry_run=dry_run
    )


@put(
    "/v1/tenants/{tenant:str}/trust/lease",
    status_code=200,
    after_request=tagged,
    opt=_CHANGES,
)
async def set_lease_terms(
    tenant: OfTenant,
    data: JSONBody[schemas.SetLeaseTerms],
    request: Asked,
    tenants: Wired[Tenants],
    dry_run: DryRun = False,
) -> schemas.TenantTrust:
    """Set the dates of the leases of a tier.

    They apply to activations from now on, unless the activation code sets dates.
    """
    return await tenants.set_lease_terms(
        current_operator(request), tenant_id(tenant), data, if_match_of(request), dry_run=dry_run
    )


@put(
    "/v1/tenants/{tenant:str}/trust/pcr-policy",
    status_code=200,
    after_request=tagged,
    opt=_CHANGES,
)
async def set_pcr_policy(
    tenant: OfTenant,
    data: JSONBody[schemas.SetPcrPolicy],
    request: Asked,
    pcr_policies: Wired[PcrPolicies],
    dry_run: DryRun = False,
) -> schemas.TenantTrust:
    """Set the policy for the PCR quotes of a profile's machines.

    It counts from the next activation or session of a machine on. A repeat changes nothing.
    """
    return await pcr_policies.set_policy(
        current_operator(request), tenant_id(tenant), data, if_match_of(request), dry_run=dry_run
    )


@post(
    "/v1/nodes/{node:str}/accept-pcrs",
    status_code=200,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Conflict)),
)
async def accept_pcrs(
    node: OfNode, data: JSONBody[schemas.AcceptPcrs], request: Asked, pcr_policies: Wired[PcrPolicies]
) -> schemas.NodeDetail:
    """Accept the PCR values of a node's newest quote.

    Later quotes are compared with them. A repeat changes nothing.
    """
    return await pcr_policies.accept(current_operator(request), node_id(node), data)


@post(
    "/v1/tenants/{tenant:str}/trust/ek-allowed/import",
    status_code=200,
    opt=_CHANGES,
)
async def allow_eks(
    tenant: OfTenant, data: JSONBody[schemas.AllowEks], request: Asked, trusted_hardware: Wired[TrustedHardware]
) -> schemas.AllowedEks:
    """Count TPM chips as attested by their endorsement keys.

    A value that identifies no key does not keep the others out. A repeat changes nothing.
    """
    return await trusted_hardware.allow_eks(current_operator(request), tenant_id(tenant), data)


@get(
    "/v1/tenants/{tenant:str}/trust/ek-allowed",
    opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", NotFound, Invalid)),
)
async def list_allowed_eks(
    request: Asked,
    tenant: OfTenant,
    trusted_hardware: Wired[TrustedHardware],
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.AllowedEk]:
    """List the TPM chips that count as attested without a maker's root."""
    return signed_page(request, await trusted_hardware.allowed(tenant_id(tenant), own_cursor(request, cursor), limit))


@post(
    "/v1/tenants/{tenant:str}/trust/ek-allowed/remove",
    status_code=200,
    after_request=tagged,
    opt=_CHANGES,
)
async def remove_allowed_ek(
    tenant: OfTenant, data: JSONBody[schemas.RemoveEk], request: Asked, trusted_hardware: Wired[TrustedHardware]
) -> schemas.TenantTrust:
    """Remove a TPM chip from those that count as attested without a maker's root.

    A node with this chip keeps its leases until it activates again, or renews with new evidence. A repeat changes nothing.
    """
    return await trusted_hardware.remove_ek(current_operator(request), tenant_id(tenant), data)


@post(
    "/v1/tenants/{tenant:str}/trust/ek-roots/{sha256:str}/remove",
    status_code=200,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound,)),
)
async def remove_ek_root(
    tenant: OfTenant, sha256: OfCertificate, request: Asked, trusted_hardware: Wired[TrustedHardware]
) -> schemas.TenantTrust:
    """Remove a CA of a TPM maker.

    Nodes whose chips are below it keep their leases until they activate again, or renew with new evidence. A repeat
    changes nothing.
    """
    return await trusted_hardware.remove_root(current_operator(request), tenant_id(tenant), sha256)


HANDLERS = (
    show_tenant_trust,
    add_ek_roots,
    allow_ek,
    set_tiers,
    set_approval_tiers,
    set_lease_terms,
    set_pcr_policy,
    accept_pcrs,
    allow_eks,
    list_allowed_eks,
    remove_allowed_ek,
    remove_ek_root,
)
