"""What every part of the service stands on: keys, clock, entropy, ports, and the few acts that all of them share.

Wired once in `app.py`; holds no state of a request. `Core` decides nothing.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from cryptography import x509

from cloud.fabric.attestation import ek_trust, evidence
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust
from cloud.fabric.attestation.evidence import NodeKey
from cloud.fabric.entropy import Entropy, Ids
from cloud.fabric.errors import Invalid
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.store import Stores
from cloud.fabric.store.adoption import Told
from cloud.fabric.store.nodes import Seen
from cloud.fabric.store.rows import AuditRow
from cloud.fabric.tuf.current_trust import Belief
from cloud.fabric.tuf.repository import OnlineSigners
from cloud.fabric.wake import WakeRoom
from cloud.http.guard import Operator
from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import ActivationId, RenewalId, TenantId
from protocol.limits import COMPONENTS_MAX, CONFIRM_WITHIN, NONCE_BYTES_MAX, NONCE_BYTES_MIN

AUDIT_DETAIL_CHARS_MAX = 200
TEXT_CHARS_MAX = 256
"""Reasons, notes and agent versions."""
COMPONENT_CHARS_MAX = 64
"""Of a fingerprint component's name, and of its HMAC-SHA-256 in hex."""
ANONYMOUS = "anonymous"
SYSTEM = "system"


class Verifier(Protocol):
    """The judge of TPM evidence. All raise EvidenceRefused."""

    def judge(self, evidence: EndorsementEvidence, trust: TenantTrust, now: datetime) -> Chip: ...

    def make_challenge(self, chip: Chip, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]: ...

    def verify_key(
        self, key: KeyEvidence, ak_public: bytes, secret: bytes, activation: ActivationId | RenewalId, csr: bytes
    ) -> NodeKey: ...


class TpmVerifier:
    """The real one."""

    def judge(self, evidence: EndorsementEvidence, trust: TenantTrust, now: datetime) -> Chip:
        return ek_trust.judge(evidence, trust, now)

    def make_challenge(self, chip: Chip, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]:
        return evidence.make_challenge(chip, ak_public, secret)

    def verify_key(
        self, key: KeyEvidence, ak_public: bytes, secret: bytes, activation: ActivationId | RenewalId, csr: bytes
    ) -> NodeKey:
        return evidence.verify_key(key, ak_public, secret, activation, csr)


def nothing() -> None:
    """Where nobody has to be told."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """Wiring. `public_url` is this Fabric's own URL, the one that session proofs must name; `kick` wakes the driver."""

    stores: Stores = field(repr=False)
    trust_domain: str
    public_url: str
    epoch: int
    nonce_key: bytes = field(repr=False)
    ek_key: bytes = field(repr=False)
    belief: Belief
    online: OnlineSigners = field(repr=False)
    now: Callable[[], datetime]
    entropy: Entropy
    ids: Ids
    signer: Signer
    issuer: Issuer
    verifier: Verifier = field(default_factory=TpmVerifier)
    wake: WakeRoom = field(default_factory=WakeRoom)
    kick: Callable[[], None] = nothing
    confirm_within: timedelta = CONFIRM_WITHIN
    seen: dict[str, Seen] = field(default_factory=dict)
    """What sessions showed since the driver last wrote it down; losing it is harmless."""
    told: dict[str, Told] = field(default_factory=dict)
    """By generation: the trust it works by, until it is written down a second later. Losing it is harmless."""
    services: Callable[[], Mapping[str, x509.Certificate]] = dict
    """The TLS certificates of the services, as far as they are known here, by name."""
    refusals: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    """Refused session proofs by generation: since when, and how many. It bounds the audit; losing it is harmless."""
    renewal_starts: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    """Renewals asked for, by certificate and in all: since when, and how many. It stands before the database; losing
    it is harmless."""

    @property
    def node_issuers(self) -> tuple[x509.Certificate, ...]:
        """The nodes' CAs by the published bundle."""
        return self.belief.trust.node_issuers

    def ek_hash(self, tenant: TenantId, ek_name: bytes) -> str:
        """How a chip is looked up: tenants cannot compare theirs, and the database holds no EK."""
        return hmac.new(self.ek_key, b"cascade-ek-1\n" + tenant.encode() + b"\n" + ek_name, hashlib.sha256).hexdigest()

    async def audit(
        self,
        actor: str,
        action: str,
        subject: str,
        tenant: str,
        outcome: Literal["done", "refused"] = "done",
        **detail: object,
    ) -> None:
        """One row, in the transaction of the deed. `detail`: ids, numbers and reasons, never secrets or EKs."""
        now = self.now()
        texts = {name: str(value)[:AUDIT_DETAIL_CHARS_MAX] for name, value in detail.items() if value not in ("", None)}
        row = AuditRow(self.ids.make("aud", now), now, actor, action, subject, tenant, outcome, texts)
        await self.stores.audit.insert(row)


def operator_actor(operator: Operator) -> str:
    """How an operator stands in the audit."""
    return f"operator:{operator.id}"


def check_nonce_form(nonce: str) -> None:
    """The asker's nonce is opaque, but bounded. Raises Invalid."""
    if not NONCE_BYTES_MIN <= len(nonce) <= NONCE_BYTES_MAX:
        raise Invalid(f"the nonce has {NONCE_BYTES_MIN} to {NONCE_BYTES_MAX} characters")


def check_fingerprint(components: dict[str, str]) -> None:
    """Names and values are opaque here, but bounded. Raises Invalid."""
    if len(components) > COMPONENTS_MAX or any(
        max(len(name), len(value)) > COMPONENT_CHARS_MAX for name, value in components.items()
    ):
        raise Invalid(f"fingerprint: at most {COMPONENTS_MAX} components of {COMPONENT_CHARS_MAX} characters")


def check_text(what: str, text: str, characters_max: int = TEXT_CHARS_MAX, *, empty: bool = True) -> str:
    """A text from outside: bounded and printable. Raises Invalid."""
    if len(text) > characters_max or not text.isprintable() or (not empty and not text.strip()):
        raise Invalid(f"{what}: {'up to' if empty else '1 to'} {characters_max} printable characters")
    return text
