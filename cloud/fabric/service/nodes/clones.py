"""Use case: judge who holds a node's key, and act on a suspected clone and on a restored machine.

`cloud.fabric.licensing.holders` has the judgement. Most sessions change the holders in the ordinary way; `SeenSessions`
stores that change together with the other values of the session, by compare-and-set. A session that shows a restored
machine, a second holder or a refused one takes a transaction of its own, before its answer.

A suspicion ends no licence. By the policy `newest-in-grace` the newest holder gets leases that name the suspicion, and
the older one gets a final lease with the end that it was promised before. By `suspend-both` a person has decided that
both stop: Fabric signs a suspension. An operator settles it (`cloud.fabric.service.operators.clone_cases`).

A restored machine is repaired without a person as often as the tenant's policy says. A further one waits for an
operator. It gets the node's last lease once more, with the flag and the same dates. No policy suspends it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import msgspec

from cloud.fabric.bodies.clones import CloneCause
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.errors import HolderRefused, IssuerUnavailable, ProofRefused
from cloud.fabric.licensing import holders as judging
from cloud.fabric.licensing import repairs
from cloud.fabric.licensing.key_returns import KeyReturn, judge_return
from cloud.fabric.licensing.known_holders import Arrival, Holder, Holders, SessionJudgement, holder_id, with_holder
from cloud.fabric.licensing.presented import waits
from cloud.fabric.licensing.renewal_tokens import CHAIN_BYTES, TokenInvalid, make_token, read_token
from cloud.fabric.licensing.session_evidence import SessionEvidence
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.keys import node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow, TenantRow
from cloud.fabric.store.tenants import TenantStore
from cloud.fabric.wake import WakeRoom
from protocol.encoding import json_encode, sha256_hex
from protocol.evidence import ClockInfo
from protocol.faults import fault_point
from protocol.ids import NodeSpiffeId
from protocol.limits import RENEWAL_TOKEN_CHARS_MAX
from protocol.messages.sessions import ProofClaims

DIGEST_CHARS = 16
CLOCK_MAX, COUNT_MAX = 2**64 - 1, 2**32 - 1
"""The largest values of `TPMS_CLOCK_INFO` (TCG TPM 2.0 Library, part 2, section 10.11.1)."""
TRIES = 5
"""How often a change is tried again because another replica has changed the holders meanwhile."""
SUSPENDED_BY_POLICY = "a clone of this machine is suspected"
"""The reason of a suspension by the policy `suspend-both`. An operator's settling ends such a suspension."""
OLDER_REASON = "a clone of this machine is suspected, and this is the older copy"
RESTORED_REASON = "this machine was restored from a backup more often than allowed without an operator's approval"
SHUT_REASON = "another copy of this machine was kept; this copy needs a TPM of its own and an activation code"
ORDINARY = frozenset({"normal", "repeated", "token-lost", "late", "ahead"})
"""The outcomes that need no transaction of their own."""

_holders = msgspec.json.Decoder(Holders)


def read_holders(text: str) -> Holders | None:
    """The holders in a generation's row; None before its first session."""
    return _holders.decode(text) if text else None


class Presented(msgspec.Struct, frozen=True):
    """A session to judge: node, generation, arrival, and the statement that the node presents (empty for none)."""

    node: NodeRow
    generation: GenerationRow
    arrival: Arrival
    statement: str


class Kept(msgspec.Struct, frozen=True):
    """Holders after a session that is not stored yet, made of the row with this version."""

    holders: str
    version: int


class Recorded(msgspec.Struct, frozen=True):
    """A session or a key's return that was judged and stored, with the rows as they are then."""

    judgement: SessionJudgement
    node: NodeRow
    generation: GenerationRow


class _Judging(NamedTuple):
    """How to judge: `judge` gets the holders, and whether an automatic repair is left.

    `statement` is the statement that the machine presents, empty for none. `former_key` is the hash of the former key
    with which a machine renews; empty for a session.
    """

    judge: Callable[[Holders | None, bool], SessionJudgement]
    statement: str
    former_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Clones:
    """Judges the holders of nodes' keys. `token_key` is the MAC key of renewal tokens."""

    trust_domain: str
    token_key: bytes = field(repr=False)
    now: Now
    transaction: Transaction
    audit: AuditLog
    nodes: NodeStore
    tenants: TenantStore
    statement_stream: StatementStream
    wake_room: WakeRoom

    def arrival(
        self,
        generation: GenerationRow,
        claims: ProofClaims,
        *,
        proof: str,
        asked_at: datetime,
        address: str,
    ) -> Arrival:
        """The session that a proof opens. A token that this cloud did not make counts as none. Raises ProofRefused."""
        token = None
        if isinstance(claims.renewal, str) and claims.renewal:
            if len(claims.renewal) > RENEWAL_TOKEN_CHARS_MAX:
                raise ProofRefused("the renewal token is too long")
            try:
                token = read_token(self.token_key, claims.node, claims.generation, claims.renewal)
            except TokenInvalid:
                token = None
        evidence = SessionEvidence(
            at=self.now(),
            asked_at=asked_at,
            clock=_checked(claims.clock) if isinstance(claims.clock, ClockInfo) else None,
            key=sha256_hex(generation.node_public_key)[:DIGEST_CHARS],
            fingerprint=fingerprint_digest(claims.fingerprint),
            address=address,
            agent_version=claims.agent_version,
        )
        return Arrival(sha256_hex(proof.encode())[: 2 * CHAIN_BYTES], evidence, token)

    def judge(self, generation: GenerationRow, arrival: Arrival, kept: Kept | None) -> SessionJudgement:
        """Judge a session by the row, or by `kept` if an earlier session's holders are not stored yet."""
        return judging.judge(read_holders(kept.holders if kept is not None else generation.holders), arrival)

    def token(self, generation: GenerationRow, judgement: SessionJudgement, proof: str) -> str:
        """The renewal token for the answer; empty if the node keeps the token that it has."""
        if not judgement.gets_token:
            return ""
        current = judgement.holders.current
        made = make_token(
            self.token_key,
            generation.node,
            generation.number,
            chain=current.chain,
            number=judging.next_number(judgement.holders),
            parent=current.base,
            proof=proof,
        )
        return made.text

    async def record(self, presented: Presented, kept: Kept | None = None) -> Recorded:
        """Judge a session and store what follows, in one transaction. A repeat changes nothing more.

        `kept` are holders of an earlier session of this process that are not stored yet. Raises NodeUnknown,
        IssuerUnavailable.
        """
        node = presented.node

        def judge(known: Holders | None, may_repair: bool) -> SessionJudgement:
            return judging.judge(known, msgspec.structs.replace(presented.arrival, may_repair=may_repair))

        with fault_point("fabric.holders.commit"):
            async with self.transaction(node_key(node.id), reads=(tenant_key(node.tenant),)):
                recorded = await self._recorded(
                    node, presented.generation.number, _Judging(judge, presented.statement), kept
                )
        if recorded.judgement.outcome == "suspected":
            self.wake_room.wake(node.id)
        return recorded

    async def record_return(
        self, node: NodeRow, generation: int, back: KeyReturn, statement: str, kept: Kept | None = None
    ) -> Recorded:
        """Judge a machine that renews with a former key, and store what follows. Call it in the renewal's transaction.

        `statement` is the statement that the machine presents, empty for none. `kept` is as in `record`. Raises
        NodeUnknown, IssuerUnavailable.
        """

        def judge(known: Holders | None, may_repair: bool) -> SessionJudgement:
            return judge_return(known, msgspec.structs.replace(back, may_repair=back.may_repair and may_repair))

        return await self._recorded(node, generation, _Judging(judge, statement, back.former.key), kept)

    async def suspect(self, node: NodeRow, generation: int, cause: CloneCause, other: SessionEvidence) -> bool:
        """Raise the flag for a reason outside of the tokens. `other` is the evidence of the machine beside the current.

        A flag that is there already keeps its cause. Nothing happens before the first session of the generation; then
        the result is False.
        """
        holder = Holder(holder_id(other), "older", other.at, other)
        async with self.transaction(node_key(node.id), reads=(tenant_key(node.tenant),)):
            for _ in range(TRIES):
                fresh, row = await load(self.nodes, node.tenant, node.id, generation)
                known = read_holders(row.holders)
                if known is None or is_closed(fresh, row):
                    return False
                now = self.now()
                if known.cause and known.find(holder.id) is not None:
                    return True
                flagged = judging.suspect(known, cause, holder, now)
                if await self.nodes.set_holders(row, text_of(flagged), row.sessions_from):
                    break
            else:
                raise _busy()
            if flagged.cause != known.cause:
                tenant = await self.tenants.find(fresh.tenant)
                await self._write_flag(_flagged(fresh, tenant, flagged, now), row, flagged, now)
        self.wake_room.wake(node.id)
        return True

    async def compare_superseded(self, node: NodeRow, superseded: GenerationRow, arrival: Arrival) -> None:
        """Note that a superseded generation asks from a TPM behind that of the present generation.

        Both generations are of one chip. An old disk in the same machine is not behind. A TPM whose counts an update of
        its firmware has reset is behind, so the note raises no flag: the next session of the present generation does, if
        its TPM goes on from where it was. After an operator has settled, the superseded copy is known and not noted.
        """
        if superseded.number >= node.current_generation or node.clone_cause:
            return
        for _ in range(TRIES):
            present = await self.nodes.find_generation(node.id, node.current_generation)
            known = read_holders(present.holders) if present is not None else None
            if present is None or known is None:
                return
            noted = judging.note_behind(known, arrival.evidence)
            if noted is known or await self.nodes.set_holders(present, text_of(noted), present.sessions_from):
                return

    def refusal(self, recorded: Recorded, answer_nonce: str) -> HolderRefused:
        """The refusal of a holder that gets no session or no certificate, with its signed statement.

        The node's own statement is for the present key. A machine with a former key gets only a statement of its own,
        or the node's suspension.
        """
        holder = recorded.judgement.holders.find(recorded.judgement.holder)
        own, row = holder.statement if holder is not None else "", recorded.generation
        returned = holder is not None and holder.awaited and row.statement_type == "lease"
        row = msgspec.structs.replace(row, statement=own or ("" if returned else row.statement))
        answer = self.statement_stream.answer(row, answer_nonce, self.now())
        if recorded.judgement.holders.cause == "restored":
            return HolderRefused(answer.statement, answer.freshness, RESTORED_REASON)
        return HolderRefused(answer.statement, answer.freshness)

    # Inside of the transaction

    async def _recorded(self, before: NodeRow, number: int, how: _Judging, kept: Kept | None) -> Recorded:
        for _ in range(TRIES):
            node, row = await load(self.nodes, before.tenant, before.id, number)
            pending = kept is not None and kept.version == row.holders_version
            known = read_holders(kept.holders if kept is not None and pending else row.holders)
            tenant, now = await self.tenants.find(node.tenant), self.now()
            policy = tenant.recovery if tenant is not None else RecoveryPolicy()
            judgement = how.judge(known, repairs.is_allowed(node.repairs, policy, now))
            if is_closed(node, row):
                return Recorded(judgement, node, row)
            signed = _changed(node, tenant, known, judgement, now)
            signed, judgement = self._with_statement(signed, row, judgement, how, now)
            since = now.replace(microsecond=0) if _ends_sessions(judgement, how) else row.sessions_from
            if await self.nodes.set_holders(row, text_of(judgement.holders), since):
                break
        else:
            raise _busy()
        if judgement.outcome in ("suspected", "unapproved"):
            signed, row = await self._write_flag(signed, row, judgement.holders, now)
        elif signed is not node:
            await self.nodes.update(signed, "changed", since=node)
        if judgement.outcome == "restored":
            used = f"{repairs.used(signed.repairs, policy, now)} of {policy.repair_quota}"
            await self._audit(signed, "node.restored", row, judgement.holders, repairs=used)
        return Recorded(judgement, signed, row)

    def _with_statement(
        self, node: NodeRow, row: GenerationRow, judgement: SessionJudgement, how: _Judging, now: datetime
    ) -> tuple[NodeRow, SessionJudgement]:
        """The judgement with the statement of a refused holder. It is signed once, and again if the holder has a later.

        A suspended node has one statement for all holders. A renewal without a presented lease gets no final one: the
        lease that the machine holds is not known. Returns the changed node.
        """
        holder = judgement.holders.find(judgement.holder)
        if judgement.gets_token or judgement.outcome == "late" or holder is None or node.standing == "suspended":
            return node, judgement
        seq = self.statement_stream.presented_seq(how.statement, node, row)
        if holder.statement and (how.statement == holder.statement or seq <= node.seq):
            return node, judgement
        stream, key = self.statement_stream, how.former_key
        if holder.state == "shut":
            node, token = stream.suspension_for_copy(node, row, now, how.statement, SHUT_REASON)
        elif judgement.holders.cause == "restored":
            node, token = stream.held_for_restored(node, row, now, how.statement, key)
        elif key and not how.statement:
            return node, judgement
        else:
            node, token = stream.final_for_copy(node, row, now, how.statement, OLDER_REASON, key)
        changed = msgspec.structs.replace(holder, statement=token)
        return node, msgspec.structs.replace(judgement, holders=with_holder(judgement.holders, changed))

    async def _write_flag(
        self, node: NodeRow, row: GenerationRow, holders: Holders, now: datetime
    ) -> tuple[NodeRow, GenerationRow]:
        """Sign the node's statement with the flag, and store node and audit entry. Returns the changed rows.

        A node that waits after a restore of the cloud gets no lease, or a copy would end the wait.
        """
        waiting = waits(node.presented_epoch, self.statement_stream.epoch, node.hold)
        if row.state == "confirmed" and (node.standing == "suspended" or not waiting):
            node, row = await self.statement_stream.write_current(node, row, now)
        await self.nodes.update(node, "clone_suspected", wakes=True)
        action = "node.restore_unapproved" if holders.cause == "restored" else "node.clone_suspected"
        await self._audit(node, action, row, holders, cause=holders.cause)
        return node, row

    async def _audit(
        self, node: NodeRow, action: str, row: GenerationRow, holders: Holders, cause: str = "", repairs: str = ""
    ) -> None:
        await self.audit.write(
            str(NodeSpiffeId(self.trust_domain, node.tenant, node.id)),
            action,
            node.id,
            node.tenant,
            generation=row.number,
            seq=node.seq,
            current=described(holders.current),
            other=described(holders.all[1]) if len(holders.all) > 1 else "",
            cause=cause,
            standing=node.standing,
            repairs=repairs,
        )


def _flagged(node: NodeRow, tenant: TenantRow | None, holders: Holders, now: datetime) -> NodeRow:
    """The node with the flag. By the policy `suspend-both` it is suspended, unless its standing is another already."""
    node = msgspec.structs.replace(node, clone_cause=holders.cause, clone_at=now)
    if tenant is None or tenant.clone_policy != "suspend-both" or node.standing != "active":
        return node
    return msgspec.structs.replace(node, standing="suspended", standing_reason=SUSPENDED_BY_POLICY, standing_at=now)


def _changed(
    node: NodeRow, tenant: TenantRow | None, known: Holders | None, judgement: SessionJudgement, now: datetime
) -> NodeRow:
    """The node after the judgement: with a flag, or with one more automatic repair.

    A restored machine that took no other holder's place had its TPM put back and its disk not. It needs no repair.
    """
    if judgement.outcome == "suspected":
        return _flagged(node, tenant, judgement.holders, now)
    if judgement.outcome == "unapproved":
        return msgspec.structs.replace(node, clone_cause=judgement.holders.cause, clone_at=now)
    if judgement.outcome == "restored" and known is not None and judgement.holders.current.id != known.current.id:
        return msgspec.structs.replace(node, repairs=repairs.with_repair(node.repairs, now))
    return node


def _ends_sessions(judgement: SessionJudgement, how: _Judging) -> bool:
    """Whether sessions that were opened before fetch no statement any more: the machine that opened one may be another."""
    return judgement.outcome == "suspected" or (bool(how.former_key) and judgement.gets_token)


def described(holder: Holder) -> str:
    """A holder's evidence on one line, for the audit."""
    last, clock = holder.last, holder.last.clock
    tpm = (
        f"TPM resets {clock.reset_count}, restarts {clock.restart_count}, clock {clock.clock} ms"
        if clock
        else "no clock"
    )
    return f"{holder.id} at {last.at.isoformat()} from {last.address or '-'}; {tpm}; fingerprint {last.fingerprint}"


def fingerprint_digest(fingerprint: dict[str, str]) -> str:
    """16 hex digits that identify a reported fingerprint."""
    return sha256_hex(json_encode(sorted(fingerprint.items())))[:DIGEST_CHARS]


def _checked(clock: ClockInfo) -> ClockInfo:
    """Check the bounds of a reported clock. Raises ProofRefused."""
    counts = clock.reset_count, clock.restart_count
    if not (0 <= clock.clock <= CLOCK_MAX and all(0 <= count <= COUNT_MAX for count in counts)):
        raise ProofRefused("the TPM's clock in the proof is out of bounds")
    return clock


def text_of(holders: Holders) -> str:
    """The holders as JSON, for the row."""
    return msgspec.json.encode(holders).decode()


def _busy() -> IssuerUnavailable:
    return IssuerUnavailable("the node's holders change too quickly")
