"""From the issuer's refusals to problem documents: the one table of this service."""

from typing import Any

from litestar import Request, Response

from cloud.breakwater import errors
from cloud.problems import Refusal, answer
from protocol.problems import Code

_CODES: dict[type[Exception], Code] = {
    errors.CsrRefused: "csr_refused",
    errors.GenerationClosed: "generation_closed",
    errors.Conflict: "conflict",
    errors.NotAdmitted: "peer_refused",
    errors.ValueRefused: "invalid",
    errors.IssuanceLost: "unavailable",
}


def refuse(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to a refusal. The text of a refusal is meant for the caller."""
    code = _CODES[type(error)]
    headers = {"Retry-After": "1"} if code == "unavailable" else {}
    return answer(Refusal(code, str(error), headers=headers))
