"""Errors: refusals and faults of Fabric as a tree, and the table that maps each class to a problem code.

    FabricError
    ├── Refused                    a refusal with a `detail` that the caller gets to see
    │   ├── NotFound
    │   ├── Invalid                a value is not allowed
    │   ├── Conflict               the state of the object does not allow the request
    │   ├── CodeRefused            unknown code, or a code for another machine: both get the same answer
    │   ├── CodeExpired
    │   ├── CodeRevoked
    │   ├── SeatsExhausted
    │   ├── TooManyChallenges      too many open challenges, unconfirmed activations or renewals
    │   ├── TooOften               the limit of a node, chip, code or source; `wait` is the time to wait
    │   ├── EvidenceNotAccepted    EK, AK or node key
    │   ├── TierNotAllowed
    │   ├── TpmRequired            the tenant requires a quote of the TPM for this profile, and the machine has no TPM
    │   ├── ChallengeExpired
    │   ├── ChallengeFailed        wrong secret; further tries may be left
    │   ├── ActivationClosed       the activation or renewal ended, or was proved with another body
    │   ├── NodeRevoked            this chip needs a code that readmits it
    │   ├── ApprovalDenied         an operator denied the activation of this machine with this code
    │   ├── ApprovalExpired        no operator decided in time, or the approved machine did not return in time
    │   ├── FingerprintRefused     a software node does not match its enrolled fingerprint
    │   ├── RecoveryRefused        the machine cannot recover the node; `allowed_at` is the time of a repeat, or None
    │   │   └── RecoveryCodeRefused    unknown, used, expired, not usable yet, or for another node
    │   ├── CsrRefused
    │   ├── ProofRefused           the session proof
    │   ├── CertificateRefused     the device certificate
    │   ├── NodeUnknown            the device certificate is ours, and the database has no such node or generation
    │   ├── QuoteRefused           the tenant requires a PCR quote, and it is missing, invalid or of changed values
    │   ├── ChangedSinceRead       the object is not what the operator has read
    │   ├── TokenRefused           the operator's token was revoked or expired during the request
    │   ├── TrustRefused           metadata or targets that were offered for publication
    │   ├── AdoptionIncomplete     a node or service still uses a root or issuer that would be dropped
    │   ├── GenerationClosed       carries the signed revocation
    │   ├── HolderRefused          carries the signed statement of a suspected copy
    │   ├── SessionOutdated        the node opens another session
    │   ├── AirgapInvalid          a request of a node without a network that does not verify
    │   ├── AirgapExpired          such a request is too old
    │   ├── AirgapOutdated         a later request of the node was answered, or the node has contacted the cloud since
    │   └── AirgapUsed             the node has imported the answer to this request
    ├── IssuerUnavailable          Breakwater did not answer, or its answer decides nothing
    └── IssuerRefused              Breakwater refused and will refuse again; `code` is Breakwater's

`refusal` makes the problem document of an error. No other code does.
"""

import math
from datetime import datetime

from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.http.problems import Refusal
from protocol.problems import Code


class FabricError(Exception):
    """Root of this package's errors."""


class Refused(FabricError):
    """A refusal that is answered with its `detail`; without one, `detail` is empty."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or type(self).__name__)
        self.detail = detail


class NotFound(Refused):
    """No such object."""


class Invalid(Refused):
    """A value is not allowed."""


class Conflict(Refused):
    """The state of the object does not allow the request."""


class CodeRefused(Refused):
    """The activation code is unknown, malformed, or made for another machine."""


class CodeExpired(Refused):
    """The activation code has expired."""


class CodeRevoked(Refused):
    """An operator revoked the activation code."""


class SeatsExhausted(Refused):
    """The machine needs a seat of the code, and all seats are taken."""


class TooManyChallenges(Refused):
    """Too many open challenges of one code or node, unconfirmed activations of one chip, or renewals."""


class TooOften(Refused):
    """A node, chip, code or source has done something too often. After `wait` seconds it may try again."""

    def __init__(self, detail: str, wait: float) -> None:
        super().__init__(detail)
        self.wait = wait


class EvidenceNotAccepted(Refused):
    """The evidence about the chip or its keys fails a check."""


class TierNotAllowed(Refused):
    """The tenant does not admit the tier that the evidence proves."""


class TpmRequired(Refused):
    """The tenant requires a PCR quote for the profile of the code. A machine without a TPM cannot make one."""


class ChallengeExpired(Refused):
    """The challenge has expired."""


class ChallengeFailed(Refused):
    """The answer is not the secret that was encrypted to the chip."""


class ActivationClosed(Refused):
    """The activation or renewal has ended, or was proved with another request."""


class NodeRevoked(Refused):
    """The machine was revoked, and the code does not readmit it."""


class ApprovalDenied(Refused):
    """An operator denied the activation of this machine with this code."""


class ApprovalExpired(Refused):
    """No operator approved the activation in time, or the approved machine did not return in time."""


class FingerprintRefused(Refused):
    """The machine of a software node does not match the enrolled fingerprint."""


class RecoveryRefused(Refused):
    """The machine cannot recover the node. A repeat may succeed from `allowed_at` on; None if no rule sets a time."""

    def __init__(self, detail: str, allowed_at: datetime | None = None) -> None:
        super().__init__(detail)
        self.allowed_at = allowed_at


class RecoveryCodeRefused(RecoveryRefused):
    """The recovery code is unknown, used, revoked, expired, not usable yet, or made for another node.

    `code` and `tenant` are those of a code that exists, for the audit; `node` is the node that asked with it.
    """

    def __init__(
        self, detail: str, allowed_at: datetime | None = None, *, code: str = "", tenant: str = "", node: str = ""
    ) -> None:
        super().__init__(detail, allowed_at)
        self.code = code
        self.tenant = tenant
        self.node = node


class CsrRefused(Refused):
    """The certificate request (CSR) is not acceptable."""


class ProofRefused(Refused):
    """The session proof fails a check."""


class CertificateRefused(Refused):
    """The device certificate fails a check."""


class NodeUnknown(Refused):
    """The device certificate names a node or generation that is not in this Fabric's database.

    The cause is a database that was restored from a backup made before the activation.
    """


class QuoteRefused(Refused):
    """The tenant requires a PCR quote. This one is missing, fails a check, or has values that no operator accepted."""


class ChangedSinceRead(Refused):
    """The object is not what the operator has read. `detail` names the last change."""


class TokenRefused(Refused):
    """The operator's token was revoked or has expired since the request arrived. Nothing was changed."""


class TrustRefused(Refused):
    """Metadata or targets that an operator offered for publication fail a check."""


class AdoptionIncomplete(Refused):
    """A node or service still uses a root or issuer that the publication would drop."""


class GenerationClosed(Refused):
    """The generation is closed. `statement` is the signed revocation; `freshness` may be empty."""

    def __init__(self, statement: str, freshness: str = "") -> None:
        super().__init__("the generation of this certificate is closed")
        self.statement = statement
        self.freshness = freshness


class HolderRefused(Refused):
    """Another holder of the node goes on, or an operator must approve this one. `statement` is signed for this holder.

    `statement` and `freshness` may be empty.
    """

    def __init__(self, statement: str, freshness: str, detail: str = "another machine uses this node") -> None:
        super().__init__(detail)
        self.statement = statement
        self.freshness = freshness


class SessionOutdated(Refused):
    """The session was opened before a clone of the node was suspected, or before an operator settled that."""


class AirgapInvalid(Refused):
    """The request of a node without a network does not verify, or is of another installation."""


class AirgapExpired(Refused):
    """The request of a node without a network is too old."""


class AirgapOutdated(Refused):
    """A later request of the node was answered, or the node has contacted the cloud since it made this request."""


class AirgapUsed(Refused):
    """The node's receipt says that it has imported the answer to this request."""


def evidence_error(error: EvidenceRefused) -> Refused:
    """Turn the verifier's error into a refusal. The text names the failed step and contains no endorsement key."""
    kinds: dict[str, type[Refused]] = {"tier_refused": TierNotAllowed, "csr_refused": CsrRefused}
    return kinds.get(error.code, EvidenceNotAccepted)(f"{error.reason} (step {error.step})")


class IssuerUnavailable(FabricError):
    """Breakwater gave no answer, or an answer that decides nothing. The command may or may not have taken effect."""


class IssuerRefused(FabricError):
    """Breakwater refused, and a repeat would be refused again. `code` and `detail` are those of its answer."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


CODES: dict[type[FabricError], Code] = {
    NotFound: "not_found",
    Invalid: "invalid",
    Conflict: "conflict",
    CodeRefused: "code_refused",
    CodeExpired: "code_expired",
    CodeRevoked: "code_revoked",
    SeatsExhausted: "seats_exhausted",
    TooManyChallenges: "rate_limited",
    TooOften: "rate_limited",
    EvidenceNotAccepted: "evidence_refused",
    TierNotAllowed: "tier_refused",
    TpmRequired: "tpm_required",
    ChallengeExpired: "challenge_expired",
    ChallengeFailed: "challenge_failed",
    ActivationClosed: "activation_closed",
    NodeRevoked: "node_revoked",
    ApprovalDenied: "approval_denied",
    ApprovalExpired: "approval_expired",
    FingerprintRefused: "fingerprint_refused",
    RecoveryRefused: "recovery_refused",
    RecoveryCodeRefused: "recovery_code_refused",
    CsrRefused: "csr_refused",
    ProofRefused: "proof_refused",
    CertificateRefused: "certificate_refused",
    NodeUnknown: "node_unknown",
    QuoteRefused: "quote_refused",
    ChangedSinceRead: "changed_since_read",
    TokenRefused: "operator_required",
    TrustRefused: "trust_refused",
    AdoptionIncomplete: "adoption_incomplete",
    GenerationClosed: "generation_closed",
    HolderRefused: "clone_suspected",
    SessionOutdated: "session_outdated",
    AirgapInvalid: "airgap_request_invalid",
    AirgapExpired: "airgap_request_expired",
    AirgapOutdated: "airgap_request_outdated",
    AirgapUsed: "airgap_request_used",
    IssuerUnavailable: "unavailable",
    IssuerRefused: "unavailable",
}
"""Every class that a use case can raise to its caller. A refusal by the issuer that no use case has translated says
nothing about the caller's request. The caller gets `unavailable` and may try again."""


_HEADERS = {"rate_limited": {"Retry-After": "30"}, "operator_required": {"WWW-Authenticate": "Bearer"}}


def refusal(error: FabricError) -> Refusal:
    """The problem document of an error. A class that is not in `CODES` is a fault of ours: `internal`."""
    code = CODES.get(type(error), "internal")
    headers = _HEADERS.get(code, {})
    if isinstance(error, TooOften):
        headers = {"Retry-After": str(max(1, math.ceil(error.wait)))}
    if isinstance(error, GenerationClosed | HolderRefused):
        return Refusal(code, error.detail, statement=error.statement, freshness=error.freshness)
    if isinstance(error, RecoveryRefused):
        return Refusal(code, error.detail, allowed_at=error.allowed_at)
    return Refusal(code, error.detail if isinstance(error, Refused) else "", headers=headers)
