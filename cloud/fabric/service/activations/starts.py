"""Use case: start an activation and check the answer to its challenge. Shared by machines with a TPM and without one."""

from dataclasses import dataclass
from datetime import timedelta

import msgspec

from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import ActivationClosed, CodeRefused
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.nodes.chip_challenge import is_right_answer, tries_left, wrong_answer
from cloud.fabric.service.nodes.limits import STORED_PERIOD, ActivationLimits, RecoveryLimits
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.service.recovery.claims import RecoveryClaims
from cloud.fabric.service.rights.admitted import Rights, by_code
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.denied import DeniedStore
from cloud.fabric.store.keys import entry_key
from cloud.fabric.store.rows import ActivationRow, CodeRow, NodeRow, RecoveryClaimed, TenantRow
from cloud.fabric.store.tenants import TenantStore
from cloud.tasks.source import source_of
from protocol.codes import SecretFormatError, parse_secret, secret_hash
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import ActivationId, CodeId, NodeId
from protocol.limits import CHALLENGE_LIFE
from protocol.messages.recovery import RecoveryClaim
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


class Right(msgspec.Struct, frozen=True, kw_only=True):
    """The right of a start. `code` is the activation code; None in a recovery, which has `claimed`.

    `node` is the node that a recovery names; None if only the chip can name it.
    """

    tenant: TenantRow
    code: CodeRow | None
    node: NodeRow | None = None
    claimed: RecoveryClaimed | None = None

    @property
    def code_id(self) -> CodeId:
        """The id of the activation code; empty in a recovery."""
        return self.code.id if self.code is not None else CodeId("")


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
    rights: Rights
    claims: RecoveryClaims
    limits: ActivationLimits
    recovery_limits: RecoveryLimits

    async def right(self, code: str, claim: RecoveryClaim | msgspec.UnsetType, host: str, public_key: bytes) -> Right:
        """The right of a start: that of an activation code, or with a claim that of the node that it names.

        `code` is the text of an activation code; with a claim that of a recovery code, or empty. `host` is the caller's
        address, `public_key` the machine's public EK or node key. Raises CodeRefused, CodeExpired, CodeRevoked, Invalid,
        RecoveryRefused, RecoveryCodeRefused, TooOften.
        """
        if claim is msgspec.UNSET:
            return await self._by_code(code)
        return await self.claimed(claim, host, public_key, code=code)

    async def claimed(
        self, claim: RecoveryClaim, host: str, public_key: bytes, *, code: str = "", proof_key: str = ""
    ) -> Right:
        """The right of the node that a claim names. `proof_key` proves a recovery code in the place of its text.

        Raises Invalid, RecoveryRefused, RecoveryCodeRefused, TooOften.
        """
        source = source_of(host)
        self.recovery_limits.count(source, self.now())
        named = await self.claims.read(claim, code, source=source, chip=sha256_hex(public_key), proof_key=proof_key)
        return Right(tenant=named.tenant, code=None, node=named.node, claimed=named.claimed)

    async def _by_code(self, text: str) -> Right:
        """The code with this text, if it may be used, with its tenant. Unknown and malformed codes get the same answer.

        The checksum in the text is checked first, so a mistyped code costs no query.
        Raises CodeRefused, CodeExpired, CodeRevoked.
        """
        try:
            secret = parse_secret("cac", text)
        except SecretFormatError as error:
            raise CodeRefused from error
        right = await self._with_tenant(await self.codes.find_by_hash(secret_hash(secret)))
        self.check_usable(right)
        return right

    def check_usable(self, right: Right) -> None:
        """Check that the activation code may be used now. Raises CodeRevoked, CodeExpired."""
        if right.code is not None:
            self.rights.check_usable(right.code)

    async def proved_code(self, proof_key: str) -> Right:
        """The code with this public key, whether or not it may be used, with its tenant. Raises CodeRefused."""
        return await self._with_tenant(await self.codes.find_by_proof_key(proof_key))

    async def _with_tenant(self, code: CodeRow | None) -> Right:
        """The code with its tenant. Raises CodeRefused for an unknown one."""
        if code is None:
            raise CodeRefused
        tenant = await self.tenants.find(code.tenant)
        if tenant is None:
            raise CodeRefused
        return Right(tenant=tenant, code=code)

    async def begin(self, right: Right, claim: Claim, agent_version: str, host: str) -> ActivationRow:
        """Count the challenge and store it. `host` is the caller's address. Raises TooOften, TierNotAllowed, TpmRequired.

        The challenges of recoveries are counted by their tenant, as those of a code by the code.
        """
        tenant, now = right.tenant, self.now()
        code = right.code_id
        await self._check_tier(claim.tier, right)
        subject = code or tenant.id
        if self.limits.wants_stored(subject, now):
            stored = await self.activations.made_after(code, tenant.id, now - STORED_PERIOD, self.limits.stored_max)
            self.limits.count_stored(subject, stored, now)
        self.limits.count(subject, source_of(host), claim.ek_hash, now)
        row = ActivationRow(
            id=ActivationId(new_id("act", now, self.entropy)),
            tenant=tenant.id,
            code=code,
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
            claim=right.claimed,
        )
        with fault_point("fabric.activation.challenge"):
            async with self.transaction(entry_key(code, tenant.id)):
                if right.code is not None:
                    self.rights.check_usable(await self.codes.find(code) or right.code)
                await self.activations.insert(row)
                await self.audit.write(
                    ANONYMOUS,
                    "activation.challenged",
                    row.id,
                    tenant.id,
                    code=code,
                    tier=claim.tier,
                    recovers=right.claimed.node if right.claimed is not None else "",
                )
        return row

    async def _check_tier(self, tier: Tier, right: Right) -> None:
        """Check that right and tenant admit the tier. A recovery without a named node is checked after the proof.

        Raises TierNotAllowed, TpmRequired.
        """
        if right.code is not None:
            self.rights.check_tier(tier, by_code(right.code, right.tenant))
        elif right.node is not None:
            self.rights.check_tier(tier, await self.rights.terms_of_node(right.node, tier, right.tenant))

    async def check_answer(self, row: ActivationRow, secret: bytes) -> None:
        """Check the expiry of a challenge and the secret in its answer. Counts a wrong secret; the last allowed one ends
        the activation. Raises ChallengeExpired, ChallengeFailed, ActivationClosed.
        """
        if is_right_answer(row, secret, self.now()):
            return
        with fault_point("fabric.activation.answer"):
            async with self.transaction(entry_key(row.code, row.tenant)):
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
