"""Values: the catalogue of problems. What each code means, beside the title and the next step in `protocol.problems`.

`python -m tools.problem_pages` makes the page of each code in `docs/problems` of these texts. No service and no agent
imports them.
"""

from collections.abc import Mapping

import msgspec

from protocol.problems import Code


class Text(msgspec.Struct, frozen=True):
    """What the page of a code says besides its kind, its operations and their callers."""

    meaning: str
    """When a service answers with the code."""
    elsewhere: str = ""
    """Which part answers with the code besides the operations of the API documents."""


_LISTENER = "Every listener, before it knows the path of the request"

TEXTS: Mapping[Code, Text] = {
    # Form of the request.
    "malformed": Text(
        "The body or a header cannot be parsed, or the bytes are not HTTP/1.1. Nothing was done.",
        elsewhere=f"{_LISTENER}, when the bytes are not HTTP/1.1.",
    ),
    "not_found": Text(
        "The service has no object with this id or name, or no such path.",
    ),
    "method_not_allowed": Text(
        "The path exists, and the request has a method that the path does not have. The header `Allow` of the answer "
        "has the methods of the path.",
        elsewhere="Every listener, for every path. So no operation of an API document has it.",
    ),
    "too_large": Text(
        "The body, or the head of the request, has more bytes than the service reads. The detail has the limit.",
        elsewhere=f"{_LISTENER}, when the head is too large.",
    ),
    "unsupported_media_type": Text("The operation does not read a body with this `Content-Type`."),
    "conflict": Text(
        "The request is correct, and the object is in a state that rules it out. The detail names the state: an "
        "activation that was decided already, for example.",
    ),
    "changed_since_read": Text(
        "The ETag in `If-Match` is not that of the object any more: the object was changed after the caller read it. "
        "The detail names the last change, its operator and its time. Nothing was changed.",
    ),
    "if_match_required": Text(
        "A PUT has no `If-Match`, or has `*`. Without the tag it could overwrite a change that the caller has not seen.",
    ),
    "invalid": Text(
        "The request can be read, and a value breaks a rule: a field, or a parameter of the query that the operation "
        "does not have or that was sent twice. The detail names the place.",
    ),
    # Events.
    "cursor_foreign": Text(
        "The cursor is damaged, or belongs to another list, to other filters, to another operator's token, or to the "
        "feed of another service.",
    ),
    "cursor_gone": Text(
        "The cursor is from before a restore of the service, or the events after it were purged, or it is ahead of the "
        "feed. The feed cannot tell what the reader has missed.",
    ),
    # The caller.
    "peer_required": Text("The operation needs a client certificate, and the connection has none."),
    "peer_refused": Text(
        "The client certificate is not accepted, or is that of a caller that the operation does not admit. The detail "
        "names the check that failed.",
    ),
    "operator_required": Text(
        "The request has no bearer token, or its token is unknown, expired or revoked. A token that ends during the "
        "request gets the same answer, and nothing was changed.",
    ),
    "enrolment_refused": Text(
        "A service enrols with a name and a one-time secret, and they are missing, unknown, used or expired.",
    ),
    "generation_closed": Text(
        "The certificate belongs to a generation of the node that was revoked, released or replaced. The answer has the "
        "signed statement if there is one; only the statement changes the licence.",
    ),
    # Activation.
    "code_refused": Text(
        "The activation code is unknown, has a typing error, or was made for another machine. The answer is the same in "
        "each case, so it tells nothing about codes to somebody who guesses.",
    ),
    "code_expired": Text("The time in which the activation code may be used has passed."),
    "code_revoked": Text("An operator has ended the activation code."),
    "seats_exhausted": Text(
        "The machine needs a seat of the activation code, and other nodes have all of them. The seat of a released node "
        "is free at once, that of a revoked node when its last lease has ended.",
    ),
    "evidence_refused": Text(
        "What the machine sent about its chip, its keys or its fingerprint fails a check. The detail has the reason and "
        "the number of the step.",
    ),
    "tier_refused": Text(
        "The evidence is valid, and proves a lower assurance tier than the tenant or the code demands.",
    ),
    "tpm_required": Text(
        "The tenant demands a PCR quote from machines with the profile of this code. A machine without a TPM cannot "
        "make one.",
    ),
    "challenge_expired": Text(
        "The machine answered the challenge of its activation or renewal after the challenge had ended.",
    ),
    "challenge_failed": Text(
        "The answer to the challenge of an activation or renewal is wrong. The chip or key of the request gives another one.",
    ),
    "activation_closed": Text(
        "The activation or the renewal has ended, or was already proved with another request.",
    ),
    "node_revoked": Text(
        "An operator has revoked the node of this machine. The code of the activation does not readmit it, or is older "
        "than the revocation.",
    ),
    "approval_denied": Text(
        "The code or the tenant demands an operator's approval, and an operator has denied this machine with this code. "
        "The detail has the reason of the operator.",
    ),
    "approval_expired": Text(
        "No operator approved the activation in time, or the approved machine did not return in time.",
    ),
    "fingerprint_refused": Text(
        "The machine has no TPM, so its serial numbers identify it, and they differ too much from those of its "
        "activation. The detail names the kinds that differ.",
    ),
    "recovery_refused": Text(
        "The machine asks to become its own node again, and the rules of the tenant do not allow it, or do not allow it "
        "now. The detail has the reason, and `allowed_at` the time of a repeat if a rule sets one.",
    ),
    "recovery_code_refused": Text(
        "The recovery code is unknown, used, expired, not usable yet, or made for another node or tenant.",
    ),
    "csr_refused": Text(
        "The certificate request (CSR) fails a check: its form, its signature, its key or its names. The detail names "
        "the check.",
    ),
    # Sessions.
    "proof_refused": Text(
        "The proof of a session or a renewal is not signed by the key of the node's generation, or was made for another "
        "node or request.",
    ),
    "clone_suspected": Text(
        "Two machines use the key of one node, or one machine runs on an old copy of its state that an operator must "
        "approve. The answer has a signed statement for this holder if there is one.",
    ),
    "session_outdated": Text(
        "The session was opened before a clone of the node was suspected, or before an operator settled that.",
    ),
    "certificate_refused": Text(
        "The device certificate cannot be read, is out of its dates, is in a CRL, or has another key than this "
        "generation of the node.",
    ),
    "node_unknown": Text(
        "The device certificate is one of this cloud, and the database has no such node or generation: the node was "
        "made after the backup from which the database was restored.",
    ),
    "quote_refused": Text(
        "The tenant demands a PCR quote, and the quote of the machine is missing, does not verify, or has values that "
        "are not accepted for the node.",
    ),
    # Nodes without a network.
    "airgap_request_invalid": Text(
        "The file that a person carried from the machine is damaged, does not verify, or is for another installation.",
    ),
    "airgap_request_expired": Text(
        "A person has carried the file too late: Fabric accepts a request for a limited time.",
    ),
    "airgap_request_outdated": Text(
        "Fabric answers only the latest request of a node, and none from before the last contact of the node or from a "
        "closed generation.",
    ),
    "airgap_request_used": Text(
        "The receipt of the node says that it has imported the answer to this request.",
    ),
    # Published trust.
    "trust_refused": Text(
        "The TUF metadata or the targets that an operator offers fail a check. The detail names the rule. The published "
        "trust stays as it is.",
    ),
    "adoption_incomplete": Text(
        "The publication would drop a root or an issuer that a node or a service still uses.",
    ),
    # Temporary.
    "rate_limited": Text(
        "A limit is used up: of the caller, the machine or its activation code, or of all callers together. The licence "
        "of a node stays. `RateLimit` and `RateLimit-Policy` show a limit of the caller's own.",
    ),
    "internal": Text(
        "The service has a fault. The caller sees no cause; the log of the service has it under the `X-Request-Id` of the "
        "answer.",
        elsewhere="Every listener, when the service ends a request without an answer.",
    ),
    "unavailable": Text(
        "The service is not ready, or does not reach its database, Breakwater or a signing key. The change may or may "
        "not have been made. `Retry-After` of the answer has the time to wait, if it is known.",
    ),
}
"""The text of each code. A test finds a code without one."""
