"""What the routes of this service share: ids out of paths, and the answer to a refusal."""

from typing import Any

from litestar import Request, Response

from cloud.fabric.errors import FabricError, NotFound, refusal
from cloud.http.problems import handle
from protocol.ids import ActivationId, CodeId, IdError, NodeId, Prefix, RenewalId, TenantId, TokenId, parse_id


def refuse(request: Request[Any, Any, Any], error: FabricError) -> Response[bytes]:
    """Litestar's exception handler for this package's errors."""
    known = refusal(error)
    return handle(request, error if known.code == "internal" else known)


def _id(prefix: Prefix, text: str) -> str:
    try:
        return parse_id(prefix, text)
    except IdError as error:
        raise NotFound("no such object") from error


def tenant_id(text: str) -> TenantId:
    """Raises NotFound for what is no id: there is no such object."""
    return TenantId(_id("ten", text))


def node_id(text: str) -> NodeId:
    return NodeId(_id("node", text))


def code_id(text: str) -> CodeId:
    return CodeId(_id("code", text))


def token_id(text: str) -> TokenId:
    return TokenId(_id("tok", text))


def activation_id(text: str) -> ActivationId:
    return ActivationId(_id("act", text))


def renewal_id(text: str) -> RenewalId:
    return RenewalId(_id("ren", text))
