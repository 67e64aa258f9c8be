"""Use case: judge a renewal by a machine that holds a former key of its generation.

`cloud.fabric.licensing.key_returns` has the judgement, `Clones` stores it: a restored machine is counted and audited, and
two machines raise the flag. The renewal's transaction has both.
"""

from dataclasses import dataclass

import msgspec

from cloud.fabric.errors import HolderRefused
from cloud.fabric.licensing.former_keys import returning
from cloud.fabric.licensing.key_returns import KeyReturn
from cloud.fabric.licensing.renewal_tokens import CHAIN_BYTES
from cloud.fabric.licensing.session_evidence import SessionEvidence
from cloud.fabric.service.nodes.clones import DIGEST_CHARS, Clones
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.ports import Now
from cloud.fabric.store.rows import GenerationRow, NodeRow, RenewalRow
from protocol.encoding import sha256_hex


class Shown(msgspec.Struct, frozen=True):
    """What the proof of a renewal shows.

    Attributes:
        key: the SHA-256 of the proved key's SubjectPublicKeyInfo, in hex.
        presented: the statement that the machine presents, empty for none.
        answer_nonce: the nonce of the freshness in a refusal.
        address: the address that the request came from.
        fingerprint: 16 hex digits that identify the reported fingerprint; empty if none was reported.
        by_chip: whether a TPM proves the machine. Without one no restored machine is repaired without a person.
    """

    key: str
    presented: str
    answer_nonce: str
    address: str
    fingerprint: str = ""
    by_chip: bool = True


@dataclass(frozen=True, kw_only=True)
class ReturnedKeys:
    """Judges renewals with former keys."""

    now: Now
    clones: Clones
    seen: SeenSessions

    async def judge(
        self, node: NodeRow, generation: GenerationRow, row: RenewalRow, shown: Shown
    ) -> tuple[HolderRefused | None, bool]:
        """Judge the renewal `row`, and store what follows. Call it in the transaction that stores the proof.

        Returns the refusal of a machine that gets no certificate, or None; and whether the machine holds a former key.
        Raises NodeUnknown, IssuerUnavailable.
        """
        current = sha256_hex(generation.node_public_key)
        former = returning(generation.former_keys, current, shown.key, row.held_key)
        if former is None:
            return None, False
        now = self.now()
        evidence = SessionEvidence(
            at=now,
            asked_at=now,
            # An attestation has the TPM's counts in an obscured form, so they cannot be compared with those of sessions.
            clock=None,
            key=former.key[:DIGEST_CHARS],
            fingerprint=shown.fingerprint,
            address=shown.address,
            agent_version=row.agent_version,
        )
        identifier = sha256_hex(row.id.encode())[: 2 * CHAIN_BYTES]
        proved = shown.key[:DIGEST_CHARS]
        back = KeyReturn(identifier, former, evidence, proved, by_chip=shown.by_chip, may_repair=shown.by_chip)
        kept = self.seen.take_holders(generation.id)
        recorded = await self.clones.record_return(node, generation.number, back, shown.presented, kept)
        if recorded.judgement.gets_token:
            return None, True
        return self.clones.refusal(recorded, shown.answer_nonce), True
