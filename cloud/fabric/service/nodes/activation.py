"""Use case: a machine activates. It gets a challenge, proves its chip and key, and receives a device certificate.

`confirm` is the last step of the exchange. Rules: Before the chip has answered the challenge, no data of an existing
node is changed or disclosed. Every step ends with a stored state. After a crash between two steps, a repeat of the same
proof continues the activation, or the activation lapses. Each step that commits checks again that code and tenant admit
the machine.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.fabric.attestation.evidence import NodeKey
from cloud.fabric.attestation.pcr_quotes import PcrReport
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import (
    ActivationClosed,
    CodeRefused,
    CsrRefused,
    NotFound,
    SeatsExhausted,
    TooManyChallenges,
    TooOften,
)
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.standing import check_admission
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.input_checks import check_fingerprint, check_held_generation, check_text
from cloud.fabric.service.nodes.chip_challenge import (
    ChipChallenges,
    is_proved_by,
    is_right_answer,
    tries_left,
    wrong_answer,
)
from cloud.fabric.service.nodes.code_checks import REFUSALS, CodeChecks
from cloud.fabric.service.nodes.device_issuance import issuer_refusals_of
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.limits import STORED_PERIOD, ActivationLimits
from cloud.fabric.service.nodes.pcr_quotes import PcrQuotes
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.keys import chip_key, code_key, node_key, tenant_key
from cloud.fabric.store.nodes import GENERATIONS_SHOWN_MAX, NodeStore
from cloud.fabric.store.rows import ActivationRow, CodeRow, GenerationRow, NodeRow, generation_id
from cloud.fabric.store.tenants import TenantStore
from cloud.tasks.source import source_of
from protocol.codes import SecretFormatError, parse_secret, secret_hash
from protocol.faults import fault_point
from protocol.ids import ActivationId, CodeId, NodeId
from protocol.limits import CHALLENGE_LIFE, CHALLENGE_TRIES_MAX
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation

PENDING_PER_NODE_MAX = 16
"""Unconfirmed activations of one chip. The limit stops a caller with a code from making generations without end."""
ACTIVATIONS_PERIOD = timedelta(hours=1)
"""A chip activates at most `GENERATIONS_SHOWN_MAX` (20) times in this time. Each activation leaves rows for ever, here
and at the issuer. A machine that is installed again and again needs a few an hour."""
FORGET_CHALLENGES_AFTER = timedelta(days=1)
"""Time after its expiry at which an unproved challenge is deleted."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Runs the activation exchange up to the device certificate.

    `epoch` is the installation's epoch. An activation that is not confirmed within `confirm_within` lapses.
    """

    epoch: int
    confirm_within: timedelta
    now: Now
    entropy: Entropy
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    codes: CodeStore
    nodes: NodeStore
    tenants: TenantStore
    code_checks: CodeChecks
    issuer: Issuer
    chip_challenges: ChipChallenges
    pcr_quotes: PcrQuotes
    lapses: Lapses
    limits: ActivationLimits

    async def start(self, body: StartActivation, host: str = "") -> Challenge:
        """Check the code and the evidence, and make a challenge to the chip. `host` is the caller's address.

        Raises Invalid, CodeRefused, CodeExpired, CodeRevoked, TooOften, EvidenceNotAccepted, TierNotAllowed.
        """
        check_text("agent_version", body.agent_version)
        code = await self._open_code(body.code)
        tenant = await self.tenants.find(code.tenant)
        if tenant is None:
            raise CodeRefused
        now = self.now()
        challenge = await self.chip_challenges.make(tenant, body.evidence, now)
        if self.limits.wants_stored(code.id, now):
            stored = await self.activations.made_after(code.id, now - STORED_PERIOD, self.limits.stored_max)
            self.limits.count_stored(code.id, stored, now)
        self.limits.count(code.id, source_of(host), challenge.ek_hash, now)
        row = ActivationRow(
            id=ActivationId(new_id("act", now, self.entropy)),
            tenant=tenant.id,
            code=code.id,
            state="challenged",
            tries=0,
            secret_hash=challenge.secret_hash,
            ek_hash=challenge.ek_hash,
            ak_public=body.evidence.ak_public,
            tier=challenge.tier,
            agent_version=body.agent_version,
            created_at=now,
            expires_at=now + CHALLENGE_LIFE,
            node=NodeId(""),
            generation=0,
            proof_hash="",
            csr=b"",
            not_after=None,
            confirm_by=None,
            certificate_chain=(),
            ek_name=challenge.ek_name.hex(),
        )
        with fault_point("fabric.activation.challenge"):
            async with self.transaction(code_key(code.id)):
                self.code_checks.check_usable(await self.codes.find(code.id) or code)
                await self.activations.insert(row)
                await self.audit.write(
                    ANONYMOUS, "activation.challenged", row.id, tenant.id, code=code.id, tier=challenge.tier
                )
        return Challenge(
            row.id,
            challenge.credential_blob,
            challenge.encrypted_secret,
            tenant.fingerprint_salt,
            row.expires_at,
            CHALLENGE_TRIES_MAX,
            challenge.ek_name,
        )

    async def _open_code(self, text: str) -> CodeRow:
        """The row of a code that may be used. Unknown and malformed codes get the same answer.

        The checksum in the text is checked first, so a mistyped code costs no query.
        Raises CodeRefused, CodeExpired, CodeRevoked.
        """
        try:
            secret = parse_secret("cac", text)
        except SecretFormatError as error:
            raise CodeRefused from error
        code = await self.codes.find_by_hash(secret_hash(secret))
        if code is None:
            raise CodeRefused
        self.code_checks.check_usable(code)
        return code

    async def prove(self, activation: ActivationId, body: ProveActivation, body_sha256: str) -> Activated:
        """Check the answer to the challenge, take a seat, make a generation, and issue the device certificate.

        `body_sha256` is the hash of the request's body. A repeat with the same bytes continues an unfinished
        activation, or gets the stored answer. Raises NotFound, Invalid, ChallengeExpired, ChallengeFailed,
        ActivationClosed, EvidenceNotAccepted, CsrRefused, QuoteRefused, CodeRefused, CodeExpired, CodeRevoked,
        SeatsExhausted, TierNotAllowed, NodeRevoked, TooManyChallenges, TooOften, IssuerUnavailable.
        """
        row = await self.activations.find(activation)
        if row is None:
            raise NotFound("no such activation")
        if row.state == "challenged":
            await self._check_answer(row, body)
            key = self.chip_challenges.verified_key(row, row.ak_public, body.secret, body.key, body.csr)
            pcrs = await self.pcr_quotes.at_activation(row, body)
            row = await self._reserve(row, body, key, pcrs, body_sha256)
        if row.state not in ("proved", "issued", "confirmed") or not is_proved_by(row, body_sha256):
            raise ActivationClosed("this activation has ended, or was proved with another request")
        if row.state == "proved":
            row = await self._issue(row)
        return _answer(row)

    async def _check_answer(self, row: ActivationRow, body: ProveActivation) -> None:
        """Check the form of the values, the expiry and the secret. Counts a wrong secret; the last allowed one ends the
        activation. Raises Invalid, ChallengeExpired, ChallengeFailed, ActivationClosed."""
        check_fingerprint(body.fingerprint)
        if body.held_generation is not msgspec.UNSET:
            check_held_generation(body.held_generation)
        if is_right_answer(row, body.secret, self.now()):
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

    async def _reserve(
        self, row: ActivationRow, body: ProveActivation, key: NodeKey, pcrs: PcrReport, body_sha256: str
    ) -> ActivationRow:
        """Store the proof in one transaction, with the node, its seat and its next generation.

        Returns the row. If another request has changed its state first, the row is returned as it is.
        """
        while True:
            known = await self.nodes.find_by_ek(row.ek_hash)
            node = NodeId(new_id("node", self.now(), self.entropy)) if known is None else known.id
            reserved = await self._reserve_for(node, row, body, key, pcrs, body_sha256)
            if reserved is not None:
                return reserved

    async def _reserve_for(
        self,
        node_id: NodeId,
        row: ActivationRow,
        body: ProveActivation,
        key: NodeKey,
        pcrs: PcrReport,
        body_sha256: str,
    ) -> ActivationRow | None:
        """Store the proof for the node `node_id`, whose key the transaction holds.

        Returns None if another request has made a node for this chip in the meantime.
        """
        keys = code_key(row.code), chip_key(row.ek_hash), node_key(node_id)
        with fault_point("fabric.activation.prove"):
            async with self.transaction(*keys, reads=(tenant_key(row.tenant),)):
                fresh = await self.activations.find(row.id)
                if fresh is None:
                    raise NotFound("no such activation")
                if fresh.state != "challenged":
                    return fresh
                code = await self.code_checks.admitted(fresh)
                node, is_new = await self._node_for(fresh, code, node_id)
                if node.id != node_id:
                    return None
                if await self.activations.count_live(node.id) >= PENDING_PER_NODE_MAX:
                    raise TooManyChallenges("too many activations of this machine are not confirmed yet")
                await self._require_seldom(node)
                if not node.seat_held:
                    if not await self.codes.take_seat(code.id):
                        raise SeatsExhausted(f"all {code.seats} seats of this code are taken")
                    node = msgspec.structs.replace(node, seat_held=True, code=code.id)
                # A database from an older backup has lower numbers than the machine. The machine never goes back.
                number = max(node.last_generation, body.held_generation or 0) + 1
                node = msgspec.structs.replace(node, last_generation=number)
                await (self.nodes.insert(node) if is_new else self.nodes.update(node))
                await self.nodes.insert_generation(self._offered(fresh, body, key, pcrs, node.id, number))
                now = self.now()
                terms = statements.terms_of(fresh.tier, code.lease)
                proved = msgspec.structs.replace(
                    fresh,
                    state="proved",
                    node=node.id,
                    generation=number,
                    proof_hash=body_sha256,
                    csr=body.csr,
                    not_after=statements.device_not_after(terms, now),
                    confirm_by=now + self.confirm_within,
                )
                if not await self.activations.set_proved(proved):
                    raise ActivationClosed("this activation has ended")
                await self.audit.write(
                    ANONYMOUS,
                    "activation.proved",
                    node.id,
                    node.tenant,
                    activation=row.id,
                    code=code.id,
                    generation=number,
                )
        return proved

    async def _require_seldom(self, node: NodeRow) -> None:
        """Check that the chip has not activated too often. The rows are counted. Raises TooOften."""
        newest = await self.nodes.generations(node.id)
        period = ACTIVATIONS_PERIOD.total_seconds()
        if len(newest) >= GENERATIONS_SHOWN_MAX and newest[-1].created_at > self.now() - ACTIVATIONS_PERIOD:
            raise TooOften("this machine has activated too often", period / GENERATIONS_SHOWN_MAX)

    async def _node_for(self, row: ActivationRow, code: CodeRow, new: NodeId) -> tuple[NodeRow, bool]:
        """The node of this chip, or a new node row with the id `new`; True if it is new.

        Raises CodeRefused, NodeRevoked.
        """
        node = await self.nodes.find_by_ek(row.ek_hash)
        made_for_it = code.readmit_node is not None and node is not None and code.readmit_node == node.id
        if code.readmit_node is not None and not made_for_it:
            raise CodeRefused
        if node is not None:
            check_admission(
                node.standing, node.standing_at, made_for_this_node=made_for_it, code_made_at=code.created_at
            )
            return node, False
        now = self.now()
        return NodeRow(
            id=new,
            tenant=row.tenant,
            ek_hash=row.ek_hash,
            standing="active",
            standing_reason="",
            standing_at=now,
            current_generation=0,
            last_generation=0,
            closed_up_to=0,
            closed_at_issuer=0,
            closing=False,
            epoch=self.epoch,
            seq=0,
            code=CodeId(code.id),
            seat_held=False,
            tier=row.tier,
            profile=code.profile,
            entitlements=code.entitlements,
            lease=code.lease,
            lease_until=None,
            wake_cursor=1,
            created_at=now,
            confirmed_at=None,
            intervals=code.intervals,
        ), True

    def _offered(
        self, row: ActivationRow, body: ProveActivation, key: NodeKey, pcrs: PcrReport, node: NodeId, number: int
    ) -> GenerationRow:
        return GenerationRow(
            id=generation_id(node, number),
            node=node,
            number=number,
            state="offered",
            node_public_key=key.spki,
            ak_public=row.ak_public,
            fingerprint=body.fingerprint,
            agent_version=row.agent_version,
            created_at=self.now(),
            confirmed_at=None,
            certificate_not_after=None,
            statement="",
            statement_type="",
            seq=0,
            issued_at=None,
            refresh_after=None,
            terminate_at=None,
            told_at=None,
            pcr_accepted=pcrs.values,
            pcr_values=pcrs.values,
            pcr_fault=pcrs.fault,
            pcr_changed_at=self.now() if pcrs != PcrReport() else None,
            ek_name=row.ek_name,
        )

    async def _issue(self, row: ActivationRow) -> ActivationRow:
        """Open the generation at Breakwater, have the certificate issued, and store it. Every part can be repeated.

        If the code or the tenant does not admit the machine any more, the activation lapses at once.
        """
        if row.not_after is None:
            raise ActivationClosed("this activation has ended")
        try:
            with issuer_refusals_of("activation"):
                await self.issuer.open_generation(row.tenant, row.node, row.generation)
                certificate = await self.issuer.issue_device(
                    row.id, row.tenant, row.node, row.generation, row.csr, row.not_after
                )
            await self._store(row, certificate.certificate_chain, row.not_after)
        except (CsrRefused, *REFUSALS):
            await self.lapses.begin(row)
            raise
        fresh = await self.activations.find(row.id)
        if fresh is None or fresh.state not in ("issued", "confirmed"):
            raise ActivationClosed("this activation has ended meanwhile")
        return fresh

    async def _store(self, row: ActivationRow, chain: tuple[bytes, ...], not_after: datetime) -> None:
        """Store the device certificate (`chain`, DER), unless the activation has ended. Raises as `admitted`."""
        reads = code_key(row.code), tenant_key(row.tenant)
        with fault_point("fabric.activation.store"):
            async with self.transaction(node_key(row.node), reads=reads):
                await self.code_checks.admitted(row)
                if await self.activations.set_issued(row.id, chain):
                    await self.nodes.set_certificate_end(row.node, row.generation, not_after)
                    await self.audit.write(
                        ANONYMOUS,
                        "activation.issued",
                        row.node,
                        row.tenant,
                        activation=row.id,
                        generation=row.generation,
                    )

    async def forget_old(self) -> None:
        """Delete unproved challenges that expired more than FORGET_CHALLENGES_AFTER ago."""
        with fault_point("fabric.activation.purge"):
            await self.activations.purge(self.now() - FORGET_CHALLENGES_AFTER)


def _answer(row: ActivationRow) -> Activated:
    if row.confirm_by is None:
        raise ActivationClosed("this activation has ended")
    return Activated(row.tenant, row.node, row.generation, row.certificate_chain, row.confirm_by)
