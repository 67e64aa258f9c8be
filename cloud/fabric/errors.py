"""Refusals and faults inside Fabric, and the one table that maps them to problem codes.

    FabricError
    ├── Refused                    a refusal that the caller may know; `detail` goes to it
    │   ├── NotFound
    │   ├── Invalid                a value is not allowed
    │   ├── Conflict               the object is not in a state for this
    │   ├── CodeRefused            unknown, or for another machine: answered alike
    │   ├── CodeExpired
    │   ├── CodeRevoked
    │   ├── SeatsExhausted
    │   ├── TooManyChallenges      too many open on one code, or unconfirmed on one chip
    │   ├── EvidenceNotAccepted    EK, AK or node key
    │   ├── TierNotAllowed
    │   ├── ChallengeExpired
    │   ├── ChallengeFailed        wrong secret, for the first time or the last
    │   ├── ActivationClosed       ended, lapsed, or proved with another body
    │   ├── NodeRevoked            this chip needs a code made to readmit it
    │   ├── CsrRefused
    │   ├── ProofRefused           the session proof
    │   ├── CertificateRefused     the device certificate
    │   ├── TrustRefused           metadata or targets that were offered for publication
    │   ├── AdoptionIncomplete     a root or issuer is dropped that somebody still works by
    │   └── GenerationClosed       carries the signed revocation
    ├── IssuerUnavailable          Breakwater cannot be asked just now
    └── IssuerRefused              Breakwater has decided against it; `code` is its own

Outside they are problem documents; `refusal` is the only way there.
"""

from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.http.problems import Refusal
from protocol.problems import Code


class FabricError(Exception):
    """Root of this package's errors."""


class Refused(FabricError):
    """A refusal that the caller may know."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or type(self).__name__)
        self.detail = detail


class NotFound(Refused):
    """No such object."""


class Invalid(Refused):
    """A value is not allowed."""


class Conflict(Refused):
    """The object is not in a state for this."""


class CodeRefused(Refused):
    """The activation code is unknown, malformed, or made for another machine."""


class CodeExpired(Refused):
    """The activation code's time is over."""


class CodeRevoked(Refused):
    """An operator took the activation code back."""


class SeatsExhausted(Refused):
    """A new seat is needed and none is free."""


class TooManyChallenges(Refused):
    """Too many challenges of one code are open, or activations of one chip unconfirmed."""


class EvidenceNotAccepted(Refused):
    """The evidence of the chip or of its keys."""


class TierNotAllowed(Refused):
    """The tenant does not admit the tier that the evidence reaches."""


class ChallengeExpired(Refused):
    """The challenge's time is over."""


class ChallengeFailed(Refused):
    """The secret is not the one that was sealed for the chip."""


class ActivationClosed(Refused):
    """The activation has ended and cannot be carried on."""


class NodeRevoked(Refused):
    """The machine was revoked and the code was not made to readmit it."""


class CsrRefused(Refused):
    """The certificate request."""


class ProofRefused(Refused):
    """The session proof."""


class CertificateRefused(Refused):
    """The device certificate."""


class TrustRefused(Refused):
    """Metadata or targets that were offered for publication."""


class AdoptionIncomplete(Refused):
    """A root or issuer would be dropped that somebody still works by."""


class GenerationClosed(Refused):
    """The generation is closed; the signed documents say why."""

    def __init__(self, statement: str, freshness: str = "") -> None:
        super().__init__("the generation of this certificate is closed")
        self.statement = statement
        self.freshness = freshness


def evidence_error(error: EvidenceRefused) -> Refused:
    """The refusal that the verifier's word comes to; its text names the check and holds no endorsement key."""
    kinds: dict[str, type[Refused]] = {"tier_refused": TierNotAllowed, "csr_refused": CsrRefused}
    return kinds.get(error.code, EvidenceNotAccepted)(f"{error.reason} (step {error.step})")


class IssuerUnavailable(FabricError):
    """Breakwater gave no answer, or none to act on; what was asked may or may not have happened."""


class IssuerRefused(FabricError):
    """Breakwater has refused for good."""

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
    EvidenceNotAccepted: "evidence_refused",
    TierNotAllowed: "tier_refused",
    ChallengeExpired: "challenge_expired",
    ChallengeFailed: "challenge_failed",
    ActivationClosed: "activation_closed",
    NodeRevoked: "node_revoked",
    CsrRefused: "csr_refused",
    ProofRefused: "proof_refused",
    CertificateRefused: "certificate_refused",
    TrustRefused: "trust_refused",
    AdoptionIncomplete: "adoption_incomplete",
    GenerationClosed: "generation_closed",
    IssuerUnavailable: "unavailable",
    IssuerRefused: "unavailable",
}
"""Every class that can leave a service. A refusal by the issuer that no step expected is no word about the caller's
request, so it is answered as "not just now"."""


def refusal(error: FabricError) -> Refusal:
    """The problem document of an error. A class that is not in the table is a fault."""
    code = CODES.get(type(error), "internal")
    headers = {"Retry-After": "30"} if code == "rate_limited" else {}
    if isinstance(error, GenerationClosed):
        return Refusal(code, error.detail, statement=error.statement, freshness=error.freshness)
    return Refusal(code, error.detail if isinstance(error, Refused) else "", headers=headers)
