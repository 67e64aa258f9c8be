"""Use case: admit a proved machine. It becomes a node, takes a seat, and gets a generation and a device certificate.

The second part of every activation, with a TPM and without one. The caller has checked the proof, and says how the
machine is recognised as a known node. If a person must approve, the activation waits first (`approval`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.fabric.attestation.pcr_quotes import PcrReport
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import ActivationClosed, CsrRefused, NotFound, TooManyChallenges, TooOften
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing import statements
from cloud.fabric.service.activations.entrances import CodeEntrance, Entered, Entrance, RecoveryEntrance
from cloud.fabric.service.activations.proved import Proved, Recognised
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.nodes.chip_challenge import is_proved_by
from cloud.fabric.service.nodes.device_issuance import issuer_refusals_of
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.replaced import ReplacedMachines
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.service.rights.admitted import REFUSALS, Admitted, Rights
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.fabric.store.keys import chip_key, node_key
from cloud.fabric.store.nodes import GENERATIONS_SHOWN_MAX, NodeStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow, generation_id
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.messages.activation import Activated, AwaitedApproval

PENDING_PER_NODE_MAX = 16
"""Unconfirmed activations of one chip. The limit stops a caller with a code from making generations without end."""
ACTIVATIONS_PERIOD = timedelta(hours=1)
"""A chip activates at most `GENERATIONS_SHOWN_MAX` (20) times in this time. Each activation leaves rows for ever, here
and at the issuer. A machine that is installed again and again needs a few an hour."""


@dataclass(frozen=True, kw_only=True)
class Admissions:
    """Admits proved machines, up to the device certificate.

    `by_code` lets machines in by an activation code, `by_case` gives nodes back. An activation that is not confirmed
    within `confirm_within` lapses.
    """

    confirm_within: timedelta
    now: Now
    entropy: Entropy
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    nodes: NodeStore
    enrolled: EnrolledStore
    rights: Rights
    by_code: CodeEntrance
    by_case: RecoveryEntrance
    issuer: Issuer
    lapses: Lapses
    replaced: ReplacedMachines

    async def admit(self, row: ActivationRow, proved: Proved) -> Activated | AwaitedApproval:
        """Continue an activation whose proof was checked now: take a seat, make a generation, issue the certificate.

        Raises as `answer`, and SeatsExhausted, NodeRevoked, RecoveryCodeRefused, TooManyChallenges, TooOften.
        """
        return await self.answer(await self._reserve(row, proved), proved.body_sha256)

    async def answer(self, row: ActivationRow, body_sha256: str) -> Activated | AwaitedApproval:
        """The answer to the proof that the row has. An unfinished activation is continued.

        Raises ActivationClosed, also if the body with the hash `body_sha256` did not prove the activation;
        ApprovalDenied, ApprovalExpired, CodeRefused, CodeExpired, CodeRevoked, RecoveryRefused, TierNotAllowed,
        TpmRequired, CsrRefused, IssuerUnavailable.
        """
        if not is_proved_by(row, body_sha256):
            raise _ended()
        if row.state in ("pending", "denied", "lifted", "expired"):
            waiting = await self._entrance(row).waiting(row)
            await self.rights.admitted(row)
            if row.matched == "replaced":  # no person has made the code for this machine, or it would not wait
                await self.replaced.activated(row)
            return waiting
        if row.state == "proved":
            row = await self._issue(row)
        if row.state not in ("issued", "confirmed") or row.confirm_by is None:
            raise _ended()
        return Activated(row.tenant, row.node, row.generation, row.certificate_chain, row.confirm_by)

    def _entrance(self, row: ActivationRow) -> Entrance:
        return self.by_code if row.claim is None else self.by_case

    async def _reserve(self, row: ActivationRow, proved: Proved) -> ActivationRow:
        """Store the proof in one transaction, with the node, its seat and its next generation; or make it wait.

        Returns the row. If another request has changed its state first, the row is returned as it is.
        """
        entrance = self._entrance(row)
        while True:
            found = await proved.recognise()
            await entrance.prepare(row, await self.rights.admitted(row), found, proved)
            node = NodeId(new_id("node", self.now(), self.entropy)) if found.node is None else found.node.id
            async with entrance.attempt(row):
                reserved = await self._reserve_for(node, row, proved, found, entrance)
            if reserved is not None:
                return reserved

    async def _reserve_for(
        self, node_id: NodeId, row: ActivationRow, proved: Proved, before: Recognised, entrance: Entrance
    ) -> ActivationRow | None:
        """Store the proof for the node `node_id`, whose key the transaction holds.

        Returns None if the machine is no longer recognised as `before`, because of another request.
        """
        keys = dict.fromkeys((*entrance.keys(row), proved.key, chip_key(row.ek_hash), node_key(node_id)))
        reads = [key for key in await self.rights.reads(row) if key not in keys]
        with fault_point("fabric.activation.prove"):
            async with self.transaction(*keys, reads=tuple(reads)):
                fresh = await self.activations.find(row.id)
                if fresh is None:
                    raise NotFound("no such activation")
                if fresh.state not in ("challenged", "approved"):
                    return fresh
                admitted = await self.rights.admitted(fresh)
                found = await proved.again(before)
                if found is None:
                    return None
                fresh = msgspec.structs.replace(
                    fresh,
                    proof_hash=proved.body_sha256,
                    csr=proved.csr,
                    fingerprint=proved.fingerprint,
                    matched=found.matched,
                )
                entered = await entrance.enter(fresh, admitted, found, node_id, proved)
                return entered if isinstance(entered, ActivationRow) else await self._take(entered, admitted, proved)

    async def _take(self, entered: Entered, admitted: Admitted, proved: Proved) -> ActivationRow:
        """Make the generation of a node that has its seat, in the caller's transaction. Returns the proved row."""
        row, node = entered.row, entered.node
        if await self.activations.count_live(node.id) >= PENDING_PER_NODE_MAX:
            raise TooManyChallenges("too many activations of this machine are not confirmed yet")
        await self._require_seldom(node)
        # A database from an older backup has lower numbers than the machine. The machine never goes back.
        number = max(node.last_generation, proved.held_generation) + 1
        node = msgspec.structs.replace(node, last_generation=number)
        write = self.nodes.insert if entered.is_new else self.nodes.update
        await write(node, "activated")
        if proved.enrolled and not node.current_generation:  # a lapse has deleted the values of an earlier activation
            await self.enrolled.replace(node.tenant, node.id, proved.enrolled)
        await self.nodes.insert_generation(self._offered(row, proved, node.id, number))
        now = self.now()
        terms = statements.terms_of(row.tier, admitted.terms(row.tier))
        stored = msgspec.structs.replace(
            row,
            state="proved",
            node=node.id,
            generation=number,
            not_after=statements.device_not_after(terms, now),
            confirm_by=now + self.confirm_within,
        )
        if not await self.activations.set_proved(stored):
            raise ActivationClosed("this activation has ended")
        await self.audit.write(
            ANONYMOUS,
            "activation.proved",
            node.id,
            node.tenant,
            activation=row.id,
            code=row.code,
            recovery=row.recovery,
            generation=number,
            matched=row.matched,
        )
        return stored

    async def _require_seldom(self, node: NodeRow) -> None:
        """Check that the chip has not activated too often. The rows are counted. Raises TooOften."""
        newest = await self.nodes.generations(node.id)
        period = ACTIVATIONS_PERIOD.total_seconds()
        if len(newest) >= GENERATIONS_SHOWN_MAX and newest[-1].created_at > self.now() - ACTIVATIONS_PERIOD:
            raise TooOften("this machine has activated too often", period / GENERATIONS_SHOWN_MAX)

    def _offered(self, row: ActivationRow, proved: Proved, node: NodeId, number: int) -> GenerationRow:
        return GenerationRow(
            id=generation_id(node, number),
            node=node,
            number=number,
            state="offered",
            node_public_key=proved.spki,
            ak_public=row.ak_public,
            fingerprint=proved.fingerprint,
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
            pcr_accepted=proved.pcrs.values,
            pcr_values=proved.pcrs.values,
            pcr_fault=proved.pcrs.fault,
            pcr_changed_at=self.now() if proved.pcrs != PcrReport() else None,
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
        reads = await self.rights.reads(row)
        with fault_point("fabric.activation.store"):
            async with self.transaction(node_key(row.node), reads=reads):
                await self.rights.admitted(row)
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


def _ended() -> ActivationClosed:
    return ActivationClosed("this activation has ended, or was proved with another request")
