"""Routes: trust in hardware beyond single entries, for operators with a bearer token."""

from typing import Any

from litestar import Request, post, put
from litestar.params import JSONBody

from cloud.fabric import schemas
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.routes.access import OfNode, OfTenant, node_id, tenant_id
from cloud.fabric.routes.buckets import WRITE
from cloud.fabric.service.operators.pcr_policies import PcrPolicies
from cloud.http.app import Wired
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]


@put(
    "/v1/tenants/{tenant:str}/trust/pcr-policy",
    status_code=200,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid)),
)
async def set_pcr_policy(
    tenant: OfTenant, data: JSONBody[schemas.SetPcrPolicy], request: Asked, pcr_policies: Wired[PcrPolicies]
) -> schemas.TenantTrust:
    """Set the policy for the PCR quotes of a profile's machines.

    It counts from the next activation or session of a machine on. A repeat changes nothing.
    """
    return await pcr_policies.set_policy(current_operator(request), tenant_id(tenant), data)


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


HANDLERS = (set_pcr_policy, accept_pcrs)
