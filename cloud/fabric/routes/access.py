"""Routes: parameters that several routes share, ids out of paths, and the answer to a refusal."""

from typing import Annotated, Any

from litestar import Request, Response
from litestar.params import PathParameter, QueryParameter

from cloud.fabric.errors import FabricError, NotFound, refusal
from cloud.fabric.service.views import PAGE_ITEMS_MAX
from cloud.http.bounds import PRINTABLE
from cloud.http.cursors import SIGNED_CURSOR_CHARS_MAX
from cloud.http.problems import handle
from protocol.ids import (
    ActivationId,
    CodeId,
    IdError,
    NodeId,
    Prefix,
    RecoveryCodeId,
    RecoveryId,
    RenewalId,
    TenantId,
    TokenId,
    parse_id,
)
from protocol.openapi import id_pattern


def _of(what: str, prefix: Prefix) -> PathParameter:
    """A path parameter with the id of a thing. The pattern is documented; a text of another form is `not_found`."""
    return PathParameter(description=f"Id of the {what}.", schema_extra={"pattern": id_pattern(prefix)})


OfTenant = Annotated[str, _of("tenant", "ten")]
OfNode = Annotated[str, _of("node", "node")]
OfCode = Annotated[str, _of("activation code", "code")]
OfToken = Annotated[str, _of("token", "tok")]
OfActivation = Annotated[str, _of("activation", "act")]
OfRecovery = Annotated[str, _of("recovery case", "rcv")]
OfRecoveryCode = Annotated[str, _of("recovery code", "rcc")]
OfRenewal = Annotated[str, _of("renewal", "ren")]

Cursor = Annotated[
    str,
    QueryParameter(
        description="`next_cursor` of the page before. Empty for the first page.",
        max_length=SIGNED_CURSOR_CHARS_MAX,
        pattern=PRINTABLE,
    ),
]
Limit = Annotated[
    int,
    QueryParameter(description="Most items of one page.", ge=1, le=PAGE_ITEMS_MAX),
]


FILTER_CHARS_MAX = 256
"""Longest value of a filter. The longest values that a column has are ids and key ids, below 100 characters."""


def filter_by(description: str, name: str | None = None) -> QueryParameter:
    """A query parameter that filters a list by a text without control characters."""
    return QueryParameter(name=name, description=description, max_length=FILTER_CHARS_MAX, pattern=PRINTABLE)


InTenant = Annotated[str, filter_by("Id of a tenant. Empty for all tenants.")]


DryRun = Annotated[
    bool,
    QueryParameter(description="Only check. The answer shows the object as it would be, and nothing is changed."),
]


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
    """The id of a tenant. Raises NotFound for a text of another form: no object has it."""
    return TenantId(_id("ten", text))


def node_id(text: str) -> NodeId:
    """The id of a node. Raises NotFound for a text of another form."""
    return NodeId(_id("node", text))


def code_id(text: str) -> CodeId:
    """The id of an activation code. Raises NotFound for a text of another form."""
    return CodeId(_id("code", text))


def token_id(text: str) -> TokenId:
    """The id of a token. Raises NotFound for a text of another form."""
    return TokenId(_id("tok", text))


def activation_id(text: str) -> ActivationId:
    """The id of an activation. Raises NotFound for a text of another form."""
    return ActivationId(_id("act", text))


def recovery_id(text: str) -> RecoveryId:
    """The id of a recovery case. Raises NotFound for a text of another form."""
    return RecoveryId(_id("rcv", text))


def recovery_code_id(text: str) -> RecoveryCodeId:
    """The id of a recovery code. Raises NotFound for a text of another form."""
    return RecoveryCodeId(_id("rcc", text))


def renewal_id(text: str) -> RenewalId:
    """The id of a renewal. Raises NotFound for a text of another form."""
    return RenewalId(_id("ren", text))
