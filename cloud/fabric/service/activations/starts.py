"""Use case: start an activation and check the answer to its challenge. Shared by machines with a TPM and without one."""

from dataclasses import dataclass
from datetime import timedelta

import msgspec

from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import ActivationClosed, CodeRefused
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.nodes.chip_challenge import is_right_answer, tries_left, wrong_answer
from cloud.fabric.service.nodes.code_checks import Admitted, CodeChecks
from cloud.fabric.service.nodes.limits import STORED_PERIOD, ActivationLimits
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.denied import DeniedStore
from cloud.fabric.store.keys import code_key
from cloud.fabric.store.rows import ActivationRow
from cloud.fabric.store.tenants import TenantStore
from cloud.tasks.source import source_of
from protocol.codes import SecretFormatError, parse_secret, secret_hash
from protocol.faults import fault_point
from protocol.ids import ActivationId, NodeId
from protocol.limits import CHALLENGE_LIFE
from protocol.signed.statements import Tier

FORGET_CHALLENGES_AFTER = timedelta(days=1)
"""Time after its expiry at which an unproved challenge is deleted."""
FORGET_DECIDED_AFTER = timedelta(days=90)
"""Time after `approve_by` at which a denied or expired activation is deleted. Until then a denied machine is refused
with the same code, unless an operator lifts the denial. The default life of a code is 30 days."""
ADDRESS_CHARS_MAX = 64


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine claims at the start of its activation, and the challenge that it must answer.

    Attributes:
        tier: the tier that its evidence reaches.
        ek_hash: the hash that identifies the chip, or the node key without a TPM.
        ak_public: the key that must sign the answer.
        secret_hash: the hash of the challenge's secret, or of its nonce.
        ek_name: the TPM name of the endorsement key in hex; empty without a TPM.
        ek_issuer: the issuer in the endorsement certificate, as text; empty without a certificate.
    """

    tier: Tier
    ek_hash: str
    ak_public: bytes
    secret_hash: str
    ek_name: str = ""
    ek_issuer: str = ""


@dataclass(frozen=True, kw_only=True)
class ActivationStarts:
    """Starts activations, and checks answers to challenges."""

    now: Now
    entropy: Entropy
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    codes: CodeStore
    denied: DeniedStore
    tenants: TenantStore
    code_checks: CodeChecks
    limits: ActivationLimits

    async def open_code(self, text: str) -> Admitted:
        """The code with this text, if it may be used, with its tenant. Unknown and malformed codes get the same answer.

        The checksum in the text is checked first, so a mistyped code costs no query.
        Raises CodeRefused, CodeExpired, CodeRevoked.
        """
        admitted = await self.known_code(text)
        self.code_checks.check_usable(admitted.code)
        return admitted

    async def known_code(self, text: str) -> Admitted:
        """The code with this text, whether or not it may be used, with its tenant. Raises CodeRefused."""
        try:
            secret = parse_secret("cac", text)
        except SecretFormatError as error:
            raise CodeRefused from error
        code = await self.codes.find_by_hash(secret_hash(secret))
        if code is None:
            raise CodeRefused
        tenant = await self.tenants.find(code.tenant)
        if tenant is None:
            raise CodeRefused
        return Admitted(code, tenant)

    async def begin(self, admitted: Admitted, claim: Claim, agent_version: str, host: str) -> ActivationRow:
        """Count the challenge and store it. `host` is the caller's address. Raises TooOften, TierNotAllowed, TpmRequired."""
        code, tenant, now = admitted.code, admitted.tenant, self.now()
        self.code_checks.check_tier(claim.tier, code, tenant)
        if self.limits.wants_stored(code.id, now):
            stored = await self.activations.made_after(code.id, now - STORED_PERIOD, self.limits.stored_max)
            self.limits.count_stored(code.id, stored, now)
        self.limits.count(code.id, source_of(host), claim.ek_hash, now)
        row = ActivationRow(
            id=ActivationId(new_id("act", now, self.entropy)),
            tenant=tenant.id,
            code=code.id,
            state="challenged",
            tries=0,
            secret_hash=claim.secret_hash,
            ek_hash=claim.ek_hash,
            ak_public=claim.ak_public,
            tier=claim.tier,
            agent_version=agent_version,
            created_at=now,
            expires_at=now + CHALLENGE_LIFE,
            node=NodeId(""),
            generation=0,
            proof_hash="",
            csr=b"",
            not_after=None,
            confirm_by=None,
            certificate_chain=(),
            ek_name=claim.ek_name,
            ek_issuer=claim.ek_issuer,
            address=host[:ADDRESS_CHARS_MAX],
        )
        with fault_point("fabric.activation.challenge"):
            async with self.transaction(code_key(code.id)):
                self.code_checks.check_usable(await self.codes.find(code.id) or code)
                await self.activations.insert(row)
                await self.audit.write(
                    ANONYMOUS, "activation.challenged", row.id, tenant.id, code=code.id, tier=claim.tier
                )
        return row

    async def check_answer(self, row: ActivationRow, secret: bytes) -> None:
        """Check the expiry of a challenge and the secret in its answer. Counts a wrong secret; the last allowed one ends
        the activation. Raises ChallengeExpired, ChallengeFailed, ActivationClosed.
        """
        if is_right_answer(row, secret, self.now()):
            return
        with fault_point("fabric.activation.answer"):
            async with self.transaction(code_key(row.code)):
                tries = await self.activations.count_wrong_answer(row.id)
                if tries is None:
                    raise ActivationClosed("this activation has ended")
                await self.audit.write(
                    ANONYMOUS, "activation.answered", row.id, row.tenant, "refused", tries_left=tries_left(tries)
                )
        raise wrong_answer(tries)

    async def forget_old(self) -> None:
        """Delete unproved challenges FORGET_CHALLENGES_AFTER their expiry, and denied, lifted and expired activations."""
        with fault_point("fabric.activation.purge"):
            await self.activations.purge(self.now() - FORGET_CHALLENGES_AFTER)
            await self.activations.purge_decided(self.now() - FORGET_DECIDED_AFTER)
            await self.denied.purge()
