"""Routes: recovery cases, recovery codes, and the tenants' policies for recoveries, for operators."""

from typing import Annotated, Any, get_args

from litestar import Request, get, post, put
from litestar.params import JSONBody, QueryParameter

from cloud.fabric import schemas
from cloud.fabric.bodies.recovery import RecoveryCase, RecoveryPolicy
from cloud.fabric.bodies.recovery_codes import IssuedRecoveryCodes, IssueRecoveryCodes, RecoveryCode, SetRecoveryPolicy
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.routes.access import (
    FILTER_CHARS_MAX,
    Cursor,
    DryRun,
    InTenant,
    Limit,
    OfRecovery,
    OfRecoveryCode,
    OfTenant,
    filter_by,
    recovery_code_id,
    recovery_id,
    tenant_id,
)
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.operators.recovery_cases import UNDECIDED, RecoveryDecisions
from cloud.fabric.service.operators.recovery_codes import RecoveryCodeIssues
from cloud.fabric.service.operators.recovery_policies import RecoveryPolicies
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.conditions import if_match_of, tagged
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options
from protocol.messages.recovery import CaseState

Asked = Request[Any, Any, Any]
OfNodeId = Annotated[str, filter_by("Id of a node. Empty for all nodes.")]
CodesInState = Annotated[
    str,
    QueryParameter(
        name="state",
        max_length=FILTER_CHARS_MAX,
        pattern=PRINTABLE,
        description="`delayed`: only codes that are accepted later, because their node had another code before. Empty for "
        "every state.",
        schema_extra={"enum": ["", "delayed"]},
    ),
]


CasesInState = Annotated[
    str,
    QueryParameter(
        name="state",
        max_length=FILTER_CHARS_MAX,
        pattern=PRINTABLE,
        description="A state, or `undecided` for the cases that a person or a recovery code can still decide. Empty for every "
        "state.",
        schema_extra={"enum": ["", UNDECIDED, *get_args(CaseState)]},
    ),
]
_DECIDES = operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid, Conflict))


@get("/v1/recovery/cases", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound)))
async def list_recovery_cases(
    request: Asked,
    recovery_decisions: Wired[RecoveryDecisions],
    tenant: InTenant = "",
    node: OfNodeId = "",
    in_state: CasesInState = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[RecoveryCase]:
    """List recovery cases, the oldest first."""
    return signed_page(
        request, await recovery_decisions.page(tenant, node, in_state, own_cursor(request, cursor), limit)
    )


@get(
    "/v1/recovery/cases/{case:str}",
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=READ, refuses=(NotFound,)),
)
async def show_recovery_case(case: OfRecovery, recovery_decisions: Wired[RecoveryDecisions]) -> RecoveryCase:
    """Show a recovery case with the evidence of its machine."""
    return await recovery_decisions.show(recovery_id(case))


@post("/v1/recovery/cases/{case:str}/approve", status_code=200, after_request=tagged, opt=_DECIDES)
async def approve_recovery(
    case: OfRecovery, data: JSONBody[schemas.Decide], request: Asked, recovery_decisions: Wired[RecoveryDecisions]
) -> RecoveryCase:
    """Approve a recovery case: the machine becomes the node again, in the node's seat.

    A machine that waits goes on when it asks again. A machine that runs on a grace lease gets an ordinary lease. A refused
    machine may ask again. A repeat changes nothing.
    """
    return await recovery_decisions.decide(current_operator(request), recovery_id(case), "approve", data.reason)


@post("/v1/recovery/cases/{case:str}/deny", status_code=200, after_request=tagged, opt=_DECIDES)
async def deny_recovery(
    case: OfRecovery, data: JSONBody[schemas.Decide], request: Asked, recovery_decisions: Wired[RecoveryDecisions]
) -> RecoveryCase:
    """Deny a recovery case, with a reason for the machine.

    If the machine runs on a grace lease, its generation is revoked. A repeat changes nothing.
    """
    return await recovery_decisions.decide(current_operator(request), recovery_id(case), "deny", data.reason)


@get("/v1/recovery/codes", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound)))
async def list_recovery_codes(
    request: Asked,
    recovery_code_issues: Wired[RecoveryCodeIssues],
    tenant: InTenant = "",
    node: OfNodeId = "",
    in_state: CodesInState = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[RecoveryCode]:
    """List recovery codes, the oldest first, without their texts."""
    return signed_page(
        request, await recovery_code_issues.page(tenant, node, in_state, own_cursor(request, cursor), limit)
    )


@post("/v1/recovery/codes", opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid, Conflict)))
async def issue_recovery_codes(
    data: JSONBody[IssueRecoveryCodes], request: Asked, recovery_code_issues: Wired[RecoveryCodeIssues]
) -> IssuedRecoveryCodes:
    """Issue recovery codes for a node, for an undecided recovery case, or for any node of a tenant.

    The answer is the only place that shows the texts. If the node (or the tenant) had another code in the period of its
    policy, the new codes are accepted after the delay of the policy. A repeat issues further codes.
    """
    return await recovery_code_issues.issue(current_operator(request), data)


@post(
    "/v1/recovery/codes/{code:str}/revoke",
    status_code=200,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Conflict)),
)
async def revoke_recovery_code(
    code: OfRecoveryCode, request: Asked, recovery_code_issues: Wired[RecoveryCodeIssues]
) -> RecoveryCode:
    """Revoke a recovery code.

    No machine can use it any more. A repeat changes nothing.
    """
    return await recovery_code_issues.revoke(current_operator(request), recovery_code_id(code))


@get(
    "/v1/tenants/{tenant:str}/recovery-policy",
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=READ, refuses=(NotFound,)),
)
async def show_recovery_policy(tenant: OfTenant, recovery_policies: Wired[RecoveryPolicies]) -> RecoveryPolicy:
    """Show what a tenant lets happen in a recovery without a person."""
    return await recovery_policies.show(tenant_id(tenant))


@put(
    "/v1/tenants/{tenant:str}/recovery-policy",
    status_code=200,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid)),
)
async def set_recovery_policy(
    tenant: OfTenant,
    data: JSONBody[SetRecoveryPolicy],
    request: Asked,
    recovery_policies: Wired[RecoveryPolicies],
    dry_run: DryRun = False,
) -> RecoveryPolicy:
    """Set values of a tenant's policy for recoveries.

    Values that are left out stay as they are. Cases and leases that are there keep their dates.
    """
    return await recovery_policies.set(
        current_operator(request), tenant_id(tenant), data, if_match_of(request), dry_run=dry_run
    )


HANDLERS = (
    list_recovery_cases,
    show_recovery_case,
    approve_recovery,
    deny_recovery,
    list_recovery_codes,
    issue_recovery_codes,
    revoke_recovery_code,
    show_recovery_policy,
    set_recovery_policy,
)
