"""Use case: a machine with a TPM activates. It gets a challenge, proves its chip and key, and is admitted.

`admission` is the second part of the exchange, and `confirm` the last step. Rules: Before the chip has answered the
challenge, no data of an existing node is changed or disclosed. Every step ends with a stored state. After a crash between
two steps, a repeat of the same proof continues the activation, or the activation lapses. Each step that commits checks
again that code and tenant admit the machine.
"""

from dataclasses import dataclass

import msgspec

from cloud.fabric.attestation.pcr_quotes import PcrReport
from cloud.fabric.attestation.placeholders import without_placeholders
from cloud.fabric.errors import NotFound
from cloud.fabric.service.activations.admission import Admissions
from cloud.fabric.service.activations.proved import Proved, Recognised
from cloud.fabric.service.activations.recognition import Recognition
from cloud.fabric.service.activations.starts import ActivationStarts, Claim
from cloud.fabric.service.input_checks import check_fingerprint, check_held_generation, check_text
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges, is_proved_by
from cloud.fabric.service.nodes.pcr_quotes import PcrQuotes
from cloud.fabric.service.ports import Now
from cloud.fabric.service.rights.admitted import Admitted
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.keys import chip_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow, CodeRow
from protocol.ids import ActivationId
from protocol.limits import CHALLENGE_TRIES_MAX
from protocol.messages.activation import Activated, AwaitedApproval, Challenge, ProveActivation, StartActivation


class ChipProof(msgspec.Struct, frozen=True, kw_only=True):
    """The checked parts of a proof by a chip. `fingerprint` is as reported, `request_sha256` the hash of the request.

    `spki`, `csr`, `held_generation` and `pcrs` are as in `Proved`.
    """

    spki: bytes
    csr: bytes
    fingerprint: dict[str, str]
    held_generation: int
    request_sha256: str
    pcrs: PcrReport


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Runs the activation exchange of machines with a TPM, up to the device certificate."""

    now: Now
    activations: ActivationStore
    nodes: NodeStore
    chip_challenges: ChipChallenges
    pcr_quotes: PcrQuotes
    starts: ActivationStarts
    recognition: Recognition
    admissions: Admissions

    async def start(self, body: StartActivation, host: str = "") -> Challenge:
        """Check the code or the claim, and the evidence, and make a challenge to the chip. `host` is the caller's address.

        Raises Invalid, CodeRefused, CodeExpired, CodeRevoked, RecoveryRefused, RecoveryCodeRefused, TooOften,
        EvidenceNotAccepted, TierNotAllowed.
        """
        check_text("agent_version", body.agent_version)
        right = await self.starts.right(body.code, body.recovery, host, body.evidence.ek_public)
        known = right.node.ek_hash if right.node is not None else ""
        challenge = await self.chip_challenges.make(right.tenant, body.evidence, self.now(), known)
        claim = Claim(
            tier=challenge.tier,
            ek_hash=challenge.ek_hash,
            ak_public=body.evidence.ak_public,
            secret_hash=challenge.secret_hash,
            ek_name=challenge.ek_name.hex(),
            ek_issuer=challenge.ek_issuer,
        )
        row = await self.starts.begin(right, claim, body.agent_version, host)
        return Challenge(
            row.id,
            challenge.credential_blob,
            challenge.encrypted_secret,
            right.tenant.fingerprint_salt,
            row.expires_at,
            CHALLENGE_TRIES_MAX,
            challenge.ek_name,
        )

    async def prove(
        self, activation: ActivationId, body: ProveActivation, body_sha256: str
    ) -> Activated | AwaitedApproval:
        """Check the answer to the challenge, and admit the machine. A person may have to approve first.

        `body_sha256` is the hash of the request's body. A repeat with the same bytes continues an unfinished
        activation, or gets the stored answer. Raises NotFound, Invalid, ChallengeExpired, ChallengeFailed,
        EvidenceNotAccepted, QuoteRefused, and as `Admissions.admit`.
        """
        row = await self.activations.find(activation)
        if row is None or row.tier == "software":
            raise NotFound("no such activation")
        if row.state == "challenged":
            check_fingerprint(body.fingerprint)
            if body.held_generation is not msgspec.UNSET:
                check_held_generation(body.held_generation)
            await self.starts.check_answer(row, body.secret)
        elif row.state != "approved" or not is_proved_by(row, body_sha256):
            return await self.admissions.answer(row, body_sha256)
        return await self.admissions.admit(row, await self._proved(row, body, body_sha256))

    async def _proved(self, row: ActivationRow, body: ProveActivation, body_sha256: str) -> Proved:
        """Check the key evidence, the CSR and the PCR quote.

        Raises EvidenceNotAccepted, CsrRefused, QuoteRefused, and as `Rights.admitted`.
        """
        key = self.chip_challenges.verified_key(row, row.ak_public, body.secret, body.key, body.csr)
        admitted = await self.admissions.rights.admitted(row)
        proof = ChipProof(
            spki=key.spki,
            csr=body.csr,
            fingerprint=body.fingerprint,
            held_generation=body.held_generation or 0,
            request_sha256=body_sha256,
            pcrs=self.pcr_quotes.at_activation(row, admitted, body),
        )
        return self.proved_by_chip(row, admitted, proof)

    def proved_by_chip(self, row: ActivationRow, admitted: Admitted, proof: ChipProof) -> Proved:
        """What `Admissions` needs of a checked proof. The chip recognises the machine, or else the code does."""
        fingerprint = without_placeholders(proof.fingerprint, admitted.tenant.fingerprint_salt)

        async def recognised(code: CodeRow | None) -> Recognised:
            if row.claim is not None:
                return await self.recognition.by_claim(row, await self.admissions.rights.node_of(row), fingerprint)
            return await self.recognition.by_chip(row, code, fingerprint)

        async def recognise() -> Recognised:
            return await recognised(admitted.code)

        async def again(before: Recognised) -> Recognised | None:
            # The transaction holds the key of the node that the code has named, if it named one.
            found = await recognised(None if before.node is None else admitted.code)
            same = (found.node and found.node.id) == (before.node and before.node.id)
            return found if same else None

        return Proved(
            spki=proof.spki,
            csr=proof.csr,
            fingerprint=fingerprint,
            held_generation=proof.held_generation,
            body_sha256=proof.request_sha256,
            key=chip_key(row.ek_hash),
            recognise=recognise,
            again=again,
            pcrs=proof.pcrs,
        )

    async def forget_old(self) -> None:
        """Delete old challenges, and old denied, lifted and expired activations, of every tier."""
        await self.starts.forget_old()
