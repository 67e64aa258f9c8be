"""Routes: requests of nodes without a network, for operators with a bearer token."""

from typing import Annotated, Any, get_args

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.fabric import schemas
from cloud.fabric.bodies.airgap import AirgapAnswer, AirgapExchange, AnswerAirgapRequest, ExchangeState
from cloud.fabric.errors import (
    ActivationClosed,
    AirgapExpired,
    AirgapInvalid,
    AirgapOutdated,
    AirgapUsed,
    ApprovalDenied,
    ApprovalExpired,
    CertificateRefused,
    CodeExpired,
    CodeRefused,
    CodeRevoked,
    Conflict,
    CsrRefused,
    EvidenceNotAccepted,
    FingerprintRefused,
    Invalid,
    IssuerUnavailable,
    NodeRevoked,
    NodeUnknown,
    NotFound,
    ProofRefused,
    QuoteRefused,
    RecoveryCodeRefused,
    RecoveryRefused,
    SeatsExhausted,
    TierNotAllowed,
    TooManyChallenges,
    TooOften,
    TpmRequired,
)
from cloud.fabric.routes.access import FILTER_CHARS_MAX, Cursor, InTenant, Limit, filter_by
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.airgap.answering import AirgapAnswers
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]
OfNode = Annotated[str, filter_by("Id of a node. Empty for all nodes.", name="node")]
InState = Annotated[
    str,
    QueryParameter(
        name="state",
        max_length=FILTER_CHARS_MAX,
        pattern=PRINTABLE,
        description="A state. Empty for every state.",
        schema_extra={"enum": ["", *get_args(ExchangeState)]},
    ),
]
_OF_REQUESTS = (Invalid, Conflict, AirgapInvalid, AirgapExpired, AirgapOutdated, AirgapUsed, IssuerUnavailable)
_OF_NODES = (NodeUnknown, ProofRefused, FingerprintRefused, QuoteRefused, CertificateRefused, CsrRefused)
_OF_ACTIVATIONS = (
    *(CodeRefused, CodeExpired, CodeRevoked, SeatsExhausted, TooManyChallenges, TooOften, EvidenceNotAccepted),
    *(TierNotAllowed, TpmRequired, NodeRevoked, ApprovalDenied, ApprovalExpired, ActivationClosed),
    *(RecoveryRefused, RecoveryCodeRefused),
)


@post(
    "/v1/airgap/answers",
    status_code=200,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(*_OF_REQUESTS, *_OF_NODES, *_OF_ACTIVATIONS)),
)
async def answer_airgap_request(
    data: JSONBody[AnswerAirgapRequest], request: Asked, airgap_answers: Wired[AirgapAnswers]
) -> AirgapAnswer:
    """Answer the request of a node without a network.

    An activation takes its seat now, and the answer is sealed to the machine's chip. If an operator must approve the
    activation, or decide about a recovery, the answer is empty; send the same request again after that. A repeat gets
    the same answer while its statement is the node's current one.
    """
    return await airgap_answers.answer(current_operator(request), data)


@get(
    "/v1/airgap/exchanges", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound))
)
async def list_airgap_exchanges(
    request: Asked,
    airgap_answers: Wired[AirgapAnswers],
    tenant: InTenant = "",
    node: OfNode = "",
    in_state: InState = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[AirgapExchange]:
    """List answered requests of nodes without a network, the oldest request first.

    In the state `answered` the receipt is outstanding.
    """
    return signed_page(request, await airgap_answers.page(tenant, node, in_state, own_cursor(request, cursor), limit))


HANDLERS = (answer_airgap_request, list_airgap_exchanges)
