"""Routes: activations as operators see them, decisions about those that wait for an approval, and the end of denials."""

from typing import Annotated, Any, get_args

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.fabric import schemas
from cloud.fabric.errors import Conflict, Invalid, NotFound, SeatsExhausted
from cloud.fabric.routes.access import (
    FILTER_CHARS_MAX,
    Cursor,
    InTenant,
    Limit,
    OfActivation,
    activation_id,
    filter_by,
)
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.operators.activations import ActivationDecisions
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.conditions import tagged
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]
WithCode = Annotated[str, filter_by("Id of an activation code. Empty for all codes.")]
InState = Annotated[
    str,
    QueryParameter(
        name="state",
        max_length=FILTER_CHARS_MAX,
        pattern=PRINTABLE,
        description="A state. Empty for every state.",
        schema_extra={"enum": ["", *get_args(schemas.ActivationState)]},
    ),
]
_DECIDES = operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid, Conflict, SeatsExhausted))
_LIFTS = operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid, Conflict))


@get("/v1/activations", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound)))
async def list_activations(
    request: Asked,
    activation_decisions: Wired[ActivationDecisions],
    tenant: InTenant = "",
    code: WithCode = "",
    in_state: InState = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.Activation]:
    """List activations, the oldest first.

    Those in the state `pending` wait for an operator.
    """
    return signed_page(
        request, await activation_decisions.page(tenant, code, in_state, own_cursor(request, cursor), limit)
    )


@get(
    "/v1/activations/{activation:str}",
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=READ, refuses=(NotFound,)),
)
async def show_activation(
    activation: OfActivation, activation_decisions: Wired[ActivationDecisions]
) -> schemas.Activation:
    """Show an activation with the evidence of its machine."""
    return await activation_decisions.show(activation_id(activation))


@post("/v1/activations/{activation:str}/approve", status_code=200, after_request=tagged, opt=_DECIDES)
async def approve_activation(
    activation: OfActivation,
    data: JSONBody[schemas.Decide],
    request: Asked,
    activation_decisions: Wired[ActivationDecisions],
) -> schemas.Activation:
    """Approve a waiting activation.

    A seat of its code is taken now. The machine continues when it asks again. A repeat changes nothing.
    """
    return await activation_decisions.decide(
        current_operator(request), activation_id(activation), "approved", data.reason
    )


@post("/v1/activations/{activation:str}/deny", status_code=200, after_request=tagged, opt=_DECIDES)
async def deny_activation(
    activation: OfActivation,
    data: JSONBody[schemas.Decide],
    request: Asked,
    activation_decisions: Wired[ActivationDecisions],
) -> schemas.Activation:
    """Deny a waiting activation.

    The machine is refused with the reason, and so is a later activation of this machine with the same code. A machine
    without a TPM is known by its fingerprint. A repeat changes nothing.
    """
    return await activation_decisions.decide(
        current_operator(request), activation_id(activation), "denied", data.reason
    )


@post("/v1/activations/{activation:str}/lift", status_code=200, after_request=tagged, opt=_LIFTS)
async def lift_denial(
    activation: OfActivation,
    data: JSONBody[schemas.Decide],
    request: Asked,
    activation_decisions: Wired[ActivationDecisions],
) -> schemas.Activation:
    """Lift a denial.

    The machine may ask again with the same code. A repeat changes nothing.
    """
    return await activation_decisions.lift(current_operator(request), activation_id(activation), data.reason)


HANDLERS = (list_activations, show_activation, approve_activation, deny_activation, lift_denial)
