"""Use case: admit a proved machine. It becomes a node, takes a seat, and gets a generation and a device certificate.

The second part of every activation, with a TPM and without one. The caller has checked the proof, and says how the
machine is recognised as a known node. If a person must approve, the activation waits first (`approval`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

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
from cloud.fabric.schemas import Matched
from cloud.fabric.service.activations.approval import Approvals
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.nodes.chip_challenge import is_proved_by
from cloud.fabric.service.nodes.code_checks import RECOGNISED_IN_PART, REFUSALS, Admitted, CodeChecks
from cloud.fabric.service.nodes.device_issuance import issuer_refusals_of
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.fabric.store.keys import chip_key, code_key, node_key, tenant_key
from cloud.fabric.store.nodes import GENERATIONS_SHOWN_MAX, NodeStore
from cloud.fabric.store.rows import ActivationRow, CodeRow, GenerationRow, NodeRow, generation_id
from protocol.faults import fault_point
from protocol.ids import CodeId, NodeId
from protocol.messages.activation import Activated, AwaitedApproval

PENDING_PER_NODE_MAX = 16
"""Unconfirmed activations of one chip. The limit stops a caller with a code from making generations without end."""
ACTIVATIONS_PERIOD = timedelta(hours=1)
"""A chip activates at most `GENERATIONS_SHOWN_MAX` (20) times in this time. Each activation leaves rows for ever, here
and at the issuer. A machine that is installed again and again needs a few an hour."""


class Recognised(msgspec.Struct, frozen=True):
    """The node that a machine is recognised as; None for a new machine. `matched` says by what it is recognised."""

    node: NodeRow | None
    matched: Matched


class Proved(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a checked proof.

    Attributes:
        spki: the node key (SubjectPublicKeyInfo, DER).
        csr: the certificate request (DER) by this key.
        fingerprint: name of a component to its HMAC in hex.
        held_generation: the highest generation in the state directory, 0 for none.
        body_sha256: the hash of the request's body.
        key: the transaction key under which machines of this kind are recognised.
        recognise: returns the node that the machine is recognised as. Called before the transaction.
        again: returns the same result inside the transaction, with the node's present row; None if it has changed.
        pcrs: the report of the PCR quote; empty without a TPM.
        enrolled: values by which a software node is found again; empty for a machine with a TPM.
    """

    spki: bytes
    csr: bytes
    fingerprint: dict[str, str]
    held_generation: int
    body_sha256: str
    key: str
    recognise: Callable[[], Awaitable[Recognised]]
    again: Callable[[Recognised], Awaitable[Recognised | None]]
    pcrs: PcrReport = PcrReport()
    enrolled: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Admissions:
    """Admits proved machines, up to the device certificate.

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
    enrolled: EnrolledStore
    code_checks: CodeChecks
    issuer: Issuer
    lapses: Lapses
    approvals: Approvals

    async def admit(self, row: ActivationRow, proved: Proved) -> Activated | AwaitedApproval:
        """Continue an activation whose proof was checked now: take a seat, make a generation, issue the certificate.

        Raises as `answer`, and SeatsExhausted, NodeRevoked, TooManyChallenges, TooOften.
        """
        return await self.answer(await self._reserve(row, proved), proved.body_sha256)

    async def answer(self, row: ActivationRow, body_sha256: str) -> Activated | AwaitedApproval:
        """The answer to the proof that the row has. An unfinished activation is continued.

        Raises ActivationClosed, also if the body with the hash `body_sha256` did not prove the activation;
        ApprovalDenied, ApprovalExpired, CodeRefused, CodeExpired, CodeRevoked, TierNotAllowed, TpmRequired, CsrRefused,
        IssuerUnavailable.
        """
        if not is_proved_by(row, body_sha256):
            raise _ended()
        if row.state == "pending":
            waiting = self.approvals.answer(row)
            await self.code_checks.admitted(row)
            return waiting
        if row.state in ("denied", "lifted", "expired"):
            return self.approvals.answer(row)
        if row.state == "proved":
            row = await self._issue(row)
        if row.state not in ("issued", "confirmed") or row.confirm_by is None:
            raise _ended()
        return Activated(row.tenant, row.node, row.generation, row.certificate_chain, row.confirm_by)

    async def _reserve(self, row: ActivationRow, proved: Proved) -> ActivationRow:
        """Store the proof in one transaction, with the node, its seat and its next generation; or make it wait.

        Returns the row. If another request has changed its state first, the row is returned as it is.
        """
        while True:
            found = await proved.recognise()
            if row.state == "challenged" and _must_wait(await self.code_checks.admitted(row), row, found):
                await self.approvals.check_room(row.tenant)
            node = NodeId(new_id("node", self.now(), self.entropy)) if found.node is None else found.node.id
            reserved = await self._reserve_for(node, row, proved, found)
            if reserved is not None:
                return reserved

    async def _reserve_for(
        self, node_id: NodeId, row: ActivationRow, proved: Proved, before: Recognised
    ) -> ActivationRow | None:
        """Store the proof for the node `node_id`, whose key the transaction holds.

        Returns None if the machine is no longer recognised as `before`, because of another request.
        """
        keys = dict.fromkeys((code_key(row.code), proved.key, chip_key(row.ek_hash), node_key(node_id)))
        with fault_point("fabric.activation.prove"):
            async with self.transaction(*keys, reads=(tenant_key(row.tenant),)):
                fresh = await self.activations.find(row.id)
                if fresh is None:
                    raise NotFound("no such activation")
                if fresh.state not in ("challenged", "approved"):
                    return fresh
                admitted = await self.code_checks.admitted(fresh)
                found = await proved.again(before)
                if found is None:
                    return None
                node = self._node_for(fresh, admitted.code, found, node_id, proved)
                fresh = msgspec.structs.replace(
                    fresh,
                    proof_hash=proved.body_sha256,
                    csr=proved.csr,
                    fingerprint=proved.fingerprint,
                    matched=found.matched,
                )
                if fresh.state == "challenged":
                    await self.approvals.check_not_denied(fresh, proved.enrolled)
                    if _must_wait(admitted, fresh, found):
                        fresh = await self.approvals.ask(fresh, admitted.code, found.node)
                        if fresh.state == "pending":
                            return fresh
                return await self._take(fresh, admitted, node, proved, is_new=found.node is None)

    async def _take(
        self, row: ActivationRow, admitted: Admitted, node: NodeRow, proved: Proved, *, is_new: bool
    ) -> ActivationRow:
        """Take the seat and make the generation, in the caller's transaction. Returns the proved row."""
        if await self.activations.count_live(node.id) >= PENDING_PER_NODE_MAX:
            raise TooManyChallenges("too many activations of this machine are not confirmed yet")
        await self._require_seldom(node)
        node = await self._with_seat(row, admitted.code, node)
        # A database from an older backup has lower numbers than the machine. The machine never goes back.
        number = max(node.last_generation, proved.held_generation) + 1
        node = msgspec.structs.replace(node, last_generation=number)
        await (self.nodes.insert(node) if is_new else self.nodes.update(node))
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
            generation=number,
            matched=row.matched,
        )
        return stored

    async def _with_seat(self, row: ActivationRow, code: CodeRow, node: NodeRow) -> NodeRow:
        """The node with a seat: its own seat, the seat that an approval holds, or a free seat. Raises SeatsExhausted."""
        if node.seat_held:
            if row.seat_reserved:  # another activation of this machine took a seat after the approval
                await self.codes.free_seat(code.id)
            return node
        if not row.seat_reserved and not await self.codes.take_seat(code.id):
            raise SeatsExhausted(f"all {code.seats} seats of this code are taken")
        return msgspec.structs.replace(node, seat_held=True, code=code.id)

    async def _require_seldom(self, node: NodeRow) -> None:
        """Check that the chip has not activated too often. The rows are counted. Raises TooOften."""
        newest = await self.nodes.generations(node.id)
        period = ACTIVATIONS_PERIOD.total_seconds()
        if len(newest) >= GENERATIONS_SHOWN_MAX and newest[-1].created_at > self.now() - ACTIVATIONS_PERIOD:
            raise TooOften("this machine has activated too often", period / GENERATIONS_SHOWN_MAX)

    def _node_for(self, row: ActivationRow, code: CodeRow, found: Recognised, new: NodeId, proved: Proved) -> NodeRow:
        """The node that the machine is recognised as, or a new node row with the id `new`.

        Raises CodeRefused, NodeRevoked.
        """
        node = found.node
        made_for_it = code.readmit_node is not None and node is not None and code.readmit_node == node.id
        if code.readmit_node is not None and not made_for_it:
            raise CodeRefused
        if node is not None:
            check_admission(
                node.standing, node.standing_at, made_for_this_node=made_for_it, code_made_at=code.created_at
            )
            return node
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
            enrolled=proved.fingerprint,
            presented_epoch=self.epoch,
        )

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


def _must_wait(admitted: Admitted, row: ActivationRow, found: Recognised) -> bool:
    """Whether a person must approve: code or tenant say so, or key or fingerprint alone say which node it is.

    A code that readmits this node is already a person's decision about it.
    """
    in_part = found.matched in RECOGNISED_IN_PART and admitted.code.readmit_node is None
    return in_part or admitted.needs_approval(row.tier)


def _ended() -> ActivationClosed:
    return ActivationClosed("this activation has ended, or was proved with another request")
