"""RFC 9457 problem documents with stable codes: the one list of what a cloud service can refuse, and what to do next.

A code is never renamed or reused. Which of them a client may act on is said in `conclusive`: only those say
something lasting of the request; every other answer counts as "not reachable just now". No problem document ever
changes a licence state: signed statements do.
"""

from typing import Literal

import msgspec

TYPE_PREFIX = "urn:cascade:problem:"
CONTENT_TYPE = "application/problem+json"


class ProblemKind(msgspec.Struct, frozen=True):
    """What is fixed for a code: HTTP status, title, next step."""

    code: str
    status: int
    title: str
    next: str
    conclusive: bool = True


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A refusal or a failure (RFC 9457). Clients decide by `code`."""

    type: str
    """`urn:cascade:problem:` and the code."""
    title: str
    """What the code means, for people."""
    status: int
    """HTTP status."""
    code: str
    """Code, for programs. Codes are never renamed or reused; an operation may get new ones."""
    detail: str = ""
    """Cause in this case, for people."""
    next: str = ""
    """Next step, for people."""
    statement: str = ""
    """Signed statement that explains the refusal, as a JWS, if there is one."""
    freshness: str = ""
    """Freshness of that statement over the node's nonce, as a JWS, if there is one."""


def document(kind: ProblemKind, detail: str = "", statement: str = "", freshness: str = "") -> ProblemDocument:
    return ProblemDocument(
        type=TYPE_PREFIX + kind.code,
        title=kind.title,
        status=kind.status,
        code=kind.code,
        detail=detail,
        next=kind.next,
        statement=statement,
        freshness=freshness,
    )


_KINDS = (
    # Form of the request.
    ProblemKind("malformed", 400, "The request cannot be read", "Correct what `detail` names and send it again."),
    ProblemKind("not_found", 404, "No such object", "Check the id and the tenant it belongs to."),
    ProblemKind("method_not_allowed", 405, "No such method here", "See the API description for this path."),
    ProblemKind("too_large", 413, "The body is too large", "Send less; the limit is in the documentation."),
    ProblemKind("unsupported_media_type", 415, "Wrong content type", "Send application/json."),
    ProblemKind("conflict", 409, "The object is not in a state for this", "Read it again and decide anew."),
    ProblemKind("invalid", 422, "A value is not allowed", "Correct what `detail` names and send it again."),
    # Who asks.
    ProblemKind("peer_required", 401, "A client certificate is needed here", "Connect with a session certificate."),
    ProblemKind("peer_refused", 403, "This caller is not admitted here", "Use the identity this route is for."),
    ProblemKind("operator_required", 401, "An operator's token is needed here", "Send a valid token; `cascade token`."),
    ProblemKind(
        "enrolment_refused", 401, "The enrolment secret is not accepted", "Get a new one; `cascade pki issue`."
    ),
    ProblemKind("generation_closed", 403, "This generation of the node is closed", "Read the signed statement."),
    # Activation.
    ProblemKind(
        "code_refused", 403, "The activation code is not accepted", "Check the code; ask the operator for a new one."
    ),
    ProblemKind("code_expired", 403, "The activation code has expired", "Ask the operator for a new code."),
    ProblemKind("code_revoked", 403, "The activation code was revoked", "Ask the operator for a new code."),
    ProblemKind("seats_exhausted", 403, "No seat is free on this code", "Release a node or get a code with seats."),
    ProblemKind("evidence_refused", 403, "The hardware evidence is not accepted", "See `detail`; it names the check."),
    ProblemKind("tier_refused", 403, "The tenant does not allow this assurance tier", "Trust the EK root, or the EK."),
    ProblemKind("challenge_expired", 403, "The challenge is over", "Start the activation again."),
    ProblemKind("challenge_failed", 403, "The challenge was not answered", "Start the activation again."),
    ProblemKind("activation_closed", 409, "This activation has ended", "Start the activation again."),
    ProblemKind("node_revoked", 403, "This machine was revoked", "Ask the operator for a code made to readmit it."),
    ProblemKind("csr_refused", 403, "The certificate request is not accepted", "See `detail`; it names the check."),
    # Sessions.
    ProblemKind("proof_refused", 403, "The session proof is not accepted", "Get a new nonce and prove again."),
    ProblemKind("certificate_refused", 403, "The device certificate is not accepted", "Activate the node again."),
    # Published trust.
    ProblemKind("trust_refused", 422, "The published trust cannot become this", "See `detail`; it names the rule."),
    ProblemKind(
        "adoption_incomplete",
        409,
        "Not everybody works by the new trust yet",
        "Wait (`cascade trust adoption`), or override with a reason: who is left behind is cut off until it has read "
        "the new trust.",
    ),
    # Passing.
    ProblemKind("rate_limited", 429, "Too many requests", "Wait as `Retry-After` says.", conclusive=False),
    ProblemKind("internal", 500, "The service failed", "Try again later; nothing was promised.", conclusive=False),
    ProblemKind("unavailable", 503, "Not able to answer just now", "Try again later.", conclusive=False),
)

KINDS: dict[str, ProblemKind] = {kind.code: kind for kind in _KINDS}

Code = Literal[
    "malformed",
    "not_found",
    "method_not_allowed",
    "too_large",
    "unsupported_media_type",
    "conflict",
    "invalid",
    "peer_required",
    "peer_refused",
    "operator_required",
    "enrolment_refused",
    "generation_closed",
    "code_refused",
    "code_expired",
    "code_revoked",
    "seats_exhausted",
    "evidence_refused",
    "tier_refused",
    "challenge_expired",
    "challenge_failed",
    "activation_closed",
    "node_revoked",
    "csr_refused",
    "proof_refused",
    "certificate_refused",
    "trust_refused",
    "adoption_incomplete",
    "rate_limited",
    "internal",
    "unavailable",
]
