"""Values: problem documents (RFC 9457) with stable codes. The list of every refusal of the cloud, with its next step.

A code is never renamed or reused. A client may act on a `conclusive` code, which says something lasting about the
request. It treats every other code as "the cloud cannot be reached at the moment". A problem document never changes the
state of a licence; only the signed statement in it can.
"""

from datetime import datetime
from typing import Literal

import msgspec

TYPE_PREFIX = "urn:cascade:problem:"
CONTENT_TYPE = "application/problem+json"


class ProblemKind(msgspec.Struct, frozen=True):
    """The fixed values of a code: HTTP status, title, next step, and whether the code is conclusive."""

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
    allowed_at: datetime | None = None
    """Time from which a repeat may succeed, if a rule sets one."""
    instance: str = ""
    """`urn:uuid:` and the id of the refused request, which is also in `X-Request-Id`, in the log and in the audit."""


def document(
    kind: ProblemKind,
    detail: str = "",
    statement: str = "",
    freshness: str = "",
    allowed_at: datetime | None = None,
    instance: str = "",
) -> ProblemDocument:
    """The problem document of a code."""
    return ProblemDocument(
        type=TYPE_PREFIX + kind.code,
        title=kind.title,
        status=kind.status,
        code=kind.code,
        detail=detail,
        next=kind.next,
        statement=statement,
        freshness=freshness,
        allowed_at=allowed_at,
        instance=instance,
    )


_KINDS = (
    # Form of the request.
    ProblemKind("malformed", 400, "The request cannot be read", "Correct the named part and send the request again."),
    ProblemKind("not_found", 404, "No such object", "Check the id and the tenant it belongs to."),
    ProblemKind("method_not_allowed", 405, "This path has no such method", "See the API description of this path."),
    ProblemKind("too_large", 413, "The body is too large", "Send less; the limit is in the documentation."),
    ProblemKind("unsupported_media_type", 415, "Wrong content type", "Send the named media type."),
    ProblemKind("conflict", 409, "The object's state does not allow this", "Read the object again, then decide."),
    ProblemKind(
        "changed_since_read",
        412,
        "The object has changed since it was read",
        "Read the object again. If the change is still right, send it with the new ETag; with `cascade`, run the "
        "command again.",
    ),
    ProblemKind(
        "if_match_required",
        428,
        "This change must name the state that it changes",
        "Read the object, and send its ETag in If-Match.",
    ),
    ProblemKind("invalid", 422, "A value is not allowed", "Correct the named value and send the request again."),
    # Events.
    ProblemKind(
        "cursor_foreign",
        400,
        "The cursor is not one of this list or feed",
        "Use a cursor that the same list has answered to the same filters and token, or begin without a cursor. A reader "
        "of a feed begins with the snapshot.",
    ),
    ProblemKind(
        "cursor_gone", 410, "The feed cannot go on from this cursor", "Read the snapshot, and follow from its cursor."
    ),
    # The caller.
    ProblemKind("peer_required", 401, "A client certificate is needed here", "Connect with a session certificate."),
    ProblemKind("peer_refused", 403, "This caller is not admitted here", "Use an identity that this route admits."),
    ProblemKind(
        "operator_required",
        401,
        "An operator's token is needed here",
        "Send a valid token; `cascade token create` makes one.",
    ),
    ProblemKind(
        "enrolment_refused",
        401,
        "The enrolment secret is not accepted",
        "Get a new secret; `cascade pki issue` makes one.",
    ),
    ProblemKind("generation_closed", 403, "This generation of the node is closed", "Read the signed statement."),
    # Activation.
    ProblemKind(
        "code_refused", 403, "The activation code is not accepted", "Check the code; ask the operator for a new one."
    ),
    ProblemKind("code_expired", 403, "The activation code has expired", "Ask the operator for a new code."),
    ProblemKind("code_revoked", 403, "The activation code was revoked", "Ask the operator for a new code."),
    ProblemKind(
        "seats_exhausted",
        403,
        "No seat of this code is free",
        "Ask the operator to release a node, or for a code with free seats.",
    ),
    ProblemKind(
        "evidence_refused",
        403,
        "The hardware evidence is not accepted",
        "The refusal names the step of the check. The table of steps in docs/agent.md says what helps.",
    ),
    ProblemKind(
        "tier_refused",
        403,
        "The tenant does not allow this assurance tier",
        "Ask the operator to trust the chip's EK root or its EK, or to allow the tier.",
    ),
    ProblemKind(
        "tpm_required",
        403,
        "The tenant requires a quote of the TPM for this profile, and this machine has no TPM",
        "Use a machine with a TPM, or ask the operator for a code with another profile.",
    ),
    ProblemKind("challenge_expired", 403, "The challenge has expired", "Start the activation again."),
    ProblemKind("challenge_failed", 403, "The answer to the challenge is wrong", "Start the activation again."),
    ProblemKind("activation_closed", 409, "This activation has ended", "Start the activation again."),
    ProblemKind("node_revoked", 403, "This machine was revoked", "Ask the operator for a code that readmits it."),
    ProblemKind(
        "approval_denied",
        403,
        "An operator denied this activation",
        "Ask the operator: `cascade activation lift` ends the denial, or the machine needs another activation code.",
    ),
    ProblemKind(
        "approval_expired",
        403,
        "This activation was not approved in time",
        "Start the activation again, and ask the operator to approve it.",
    ),
    ProblemKind(
        "fingerprint_refused",
        403,
        "The machine does not match its enrolled fingerprint",
        "Undo the change of hardware, or activate the machine again; an operator must then approve it.",
    ),
    ProblemKind(
        "recovery_refused",
        403,
        "This machine cannot recover the node",
        "The refusal names the reason, and the time at which a repeat may succeed if there is one. An operator decides "
        "with `cascade recovery`, or makes an activation code.",
    ),
    ProblemKind(
        "recovery_code_refused",
        403,
        "The recovery code is not accepted",
        (
            "Check the code: it works once, and for one node or tenant. Ask the operator for another code, or to approve "
            "the recovery case."
        ),
    ),
    ProblemKind(
        "csr_refused", 403, "The certificate request is not accepted", "Correct the part that the named check refuses."
    ),
    # Sessions.
    ProblemKind("proof_refused", 403, "The session proof is not accepted", "Get a new nonce and make a new proof."),
    ProblemKind(
        "clone_suspected",
        403,
        "Another machine uses the key of this node",
        "Read the signed statement. Ask the operator which machine is kept, or to approve a restored machine: "
        "`cascade node settle`.",
    ),
    ProblemKind("session_outdated", 403, "The session is not accepted any more", "Open another session."),
    ProblemKind("certificate_refused", 403, "The device certificate is not accepted", "Activate the node again."),
    ProblemKind(
        "node_unknown",
        403,
        "This cloud does not know the node",
        "Activate the machine again. Any open activation code of its tenant will do.",
    ),
    ProblemKind(
        "quote_refused",
        403,
        "The tenant requires a valid quote of known PCR values, and this quote is not accepted",
        "`cascade node show NODE` shows the values, `cascade node accept-pcrs NODE` accepts changed ones. "
        "`cascade tenant pcr-policy TENANT report` ends the requirement.",
    ),
    # Nodes without a network.
    ProblemKind(
        "airgap_request_invalid",
        422,
        "The request of the node without a network is not accepted",
        "Carry the file again, or make another request with `cascadia request --new`.",
    ),
    ProblemKind(
        "airgap_request_expired", 409, "The request is too old", "Make another one with `cascadia request --new`."
    ),
    ProblemKind(
        "airgap_request_outdated",
        409,
        "The node has made a later request, or has contacted the cloud since",
        "Answer the node's latest request. `cascadia request` writes it, and `cascadia request --new` makes another one.",
    ),
    ProblemKind(
        "airgap_request_used",
        409,
        "The answer to this request was imported",
        "Make another request with `cascadia request`.",
    ),
    # Published trust.
    ProblemKind("trust_refused", 422, "The new trust cannot be published", "Correct what the named rule refuses."),
    ProblemKind(
        "adoption_incomplete",
        409,
        "Not every node and service uses the new trust yet",
        "Wait until `cascade trust adoption` shows that all use it, or override with a reason. Nodes that have not "
        "read the new trust are then cut off until they read it.",
    ),
    # Temporary.
    ProblemKind("rate_limited", 429, "Too many requests", "Wait for the time in `Retry-After`.", conclusive=False),
    ProblemKind("internal", 500, "The service failed", "Try again later.", conclusive=False),
    ProblemKind("unavailable", 503, "The service cannot answer at the moment", "Try again later.", conclusive=False),
)

KINDS: dict[str, ProblemKind] = {kind.code: kind for kind in _KINDS}

Code = Literal[
    "malformed",
    "not_found",
    "method_not_allowed",
    "too_large",
    "unsupported_media_type",
    "conflict",
    "changed_since_read",
    "if_match_required",
    "invalid",
    "cursor_foreign",
    "cursor_gone",
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
    "tpm_required",
    "challenge_expired",
    "challenge_failed",
    "activation_closed",
    "node_revoked",
    "approval_denied",
    "approval_expired",
    "fingerprint_refused",
    "recovery_refused",
    "recovery_code_refused",
    "csr_refused",
    "proof_refused",
    "certificate_refused",
    "node_unknown",
    "clone_suspected",
    "session_outdated",
    "quote_refused",
    "airgap_request_invalid",
    "airgap_request_expired",
    "airgap_request_outdated",
    "airgap_request_used",
    "trust_refused",
    "adoption_incomplete",
    "rate_limited",
    "internal",
    "unavailable",
]
