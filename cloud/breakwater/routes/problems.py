"""Mapping: errors of the issuer to problem documents. This is the only such table of the service."""

import logging
from typing import Any

from litestar import Request, Response

from cloud.breakwater import errors
from cloud.http.problems import Refusal, handle, refusal_of
from protocol.problems import Code

log = logging.getLogger("cascade.breakwater")

CODES: dict[type[Exception], Code] = {
    errors.CsrRefused: "csr_refused",
    errors.GenerationClosed: "generation_closed",
    errors.Conflict: "conflict",
    errors.NotAdmitted: "peer_refused",
    errors.ValueRefused: "invalid",
    errors.EnrolmentRefused: "enrolment_refused",
    errors.TriedTooOften: "rate_limited",
    errors.RenewedTooOften: "rate_limited",
    errors.SessionsTooOften: "rate_limited",
    errors.IssuanceLost: "unavailable",
    errors.StillRunning: "unavailable",
    errors.AuthorityRetired: "unavailable",
    errors.SignerUnavailable: "unavailable",
    errors.SignerError: "unavailable",
}


def refusal(error: Exception) -> Refusal:
    """The refusal that answers an exception of this service or any other. The caller sees its text."""
    code = CODES.get(type(error))
    if code is None:
        return refusal_of(error)
    if isinstance(error, errors.SignerError):
        # The log names the key and the reason. The caller can ask another replica.
        return Refusal(code, "a CA cannot be used just now", headers=_SOON)
    if isinstance(error, errors.TriedTooOften | errors.RenewedTooOften | errors.SessionsTooOften):
        return Refusal(code, str(error), headers={"Retry-After": str(int(error.wait.total_seconds()) + 1)})
    return Refusal(code, str(error), headers=_SOON if code == "unavailable" else {})


_SOON = {"Retry-After": "1"}


def refuse(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for this package's errors."""
    known = refusal(error)
    if isinstance(error, errors.SignerError):
        log.error("a CA cannot be used", extra={"path": request.url.path, "error": str(error)})
    return handle(request, error if known.code == "internal" else known)
