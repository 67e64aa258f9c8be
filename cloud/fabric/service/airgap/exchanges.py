"""Use case: make the answer to a request of a node without a network, and store it in one transaction.

The transaction signs the statement, makes the answer, records the receipt that the request carries, and ends the earlier
exchange of the node. A repeat of the request gets the stored answer while its statement is the node's current one. After
a change of the standing the same request gets another answer, so the site needs no other visit.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from cloud.fabric.attestation.ek_trust import Chip
from cloud.fabric.attestation.placeholders import without_placeholders
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import AirgapOutdated, Conflict
from cloud.fabric.licensing.request_order import Moment
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.airgap.requests import check_latest, check_unused, tpm_clock
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed, type_name
from cloud.fabric.service.ports import Now, Presented
from cloud.fabric.store.airgap import AirgapStore
from cloud.fabric.store.exchange_rows import AirgapExchangeRow
from cloud.fabric.store.keys import node_key, request_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow
from cloud.fabric.store.tenants import TenantStore
from cloud.http.guard import Operator
from protocol.airgap.answer import AnswerBody, AnswerFile, Sealed, body_of, claims_for
from protocol.airgap.request import OpenedRequest, Receipt, Request
from protocol.airgap.sealing import IV_BYTES, SECRET_BYTES, seal_body
from protocol.encoding import json_encode, sha256_hex
from protocol.faults import fault_point
from protocol.ids import NodeId, TenantId
from protocol.messages.sessions import StatementAnswer

ANSWER_BYTES_MAX = 640 * 1024
"""Longest answer file. As a text in JSON it stays below the 1 MB that clients of the cloud read. An answer without the
published trust has 5 kB, one with it 20 to 60 kB."""
ANSWERS_MAX = 32
"""Answers to one request whose receipt is recognised. Each change of the standing makes another answer."""
FORGET_AFTER = timedelta(days=400)
"""Time after its answer at which a finished exchange is deleted."""


class Seal(msgspec.Struct, frozen=True):
    """The checked chip and its attestation key (TPMT_PUBLIC), to which an answer is sealed."""

    chip: Chip
    ak_public: bytes


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is made of.

    Attributes:
        tenant, node, generation: the generation that the answer is for.
        trust: files of the published trust, by path.
        signs: whether a new statement is signed. An open generation that was confirmed just now has one.
        of_holder: the statement of a suspected copy that gets no other; None for every other node.
        chain: a new device certificate and the certificate of its CA, in DER; empty without one.
        activation: the activation that the request made; empty for a refresh.
        seal: the chip that alone can open the answer; None for a refresh.
        salt: the key of the HMACs in the tenant's fingerprints; empty for a refresh.
        renewal: the renewal token for the next contact; empty without one.
    """

    tenant: TenantId
    node: NodeId
    generation: int
    trust: dict[str, str]
    signs: bool = True
    of_holder: StatementAnswer | None = None
    chain: tuple[bytes, ...] = ()
    activation: str = ""
    seal: Seal | None = None
    salt: bytes = b""
    renewal: str = ""


@dataclass(frozen=True, kw_only=True)
class Exchanges:
    """Makes and stores answers."""

    trust_domain: str
    now: Now
    entropy: Entropy
    acting: Acting
    audit: AuditLog
    airgap: AirgapStore
    nodes: NodeStore
    tenants: TenantStore
    chip_challenges: ChipChallenges
    statement_stream: StatementStream
    presented: Presented

    async def stored(self, opened: OpenedRequest) -> AirgapExchangeRow | None:
        """The exchange of this request, if its answer can still be imported and has the node's current statement.

        Raises AirgapInvalid, AirgapUsed, AirgapOutdated.
        """
        known = await self.airgap.find(opened.request.request)
        check_unused(opened, known)
        generation = await self.nodes.find_generation(known.node, known.generation) if known is not None else None
        return known if known is not None and _still_holds(known, generation, self.now()) else None

    async def check_latest(self, opened: OpenedRequest, node: NodeId) -> None:
        """Check that no later request of the node was answered. Raises AirgapOutdated."""
        newest = await self.airgap.newest(node)
        if newest is not None and newest.id != opened.request.request:
            at = f"the request {newest.id}, which was answered at {newest.answered_at:%Y-%m-%d %H:%M} UTC"
            # A clock that was far ahead would make every request after its correction an earlier one.
            made_at = min(newest.made_at, newest.answered_at)
            check_latest(opened, Moment(made_at, newest.clock), at)

    async def store(
        self, operator: Operator, opened: OpenedRequest, content: Content, life: timedelta
    ) -> AirgapExchangeRow:
        """Sign the statement if it is due, make the answer, and store it. `life` is how long it can be imported.

        Raises NodeUnknown, AirgapOutdated, AirgapInvalid, AirgapUsed, Conflict, TokenRefused.
        """
        request = opened.request
        keys = node_key(content.node), request_key(request.request)
        with fault_point("fabric.airgap.answer"):
            async with self.acting.transaction(operator, *keys, reads=(tenant_key(content.tenant),)):
                node, generation = await load(self.nodes, content.tenant, content.node, content.generation)
                now = self.now()
                known = await self.airgap.find(request.request)
                check_unused(opened, known)
                if known is not None and _still_holds(known, generation, now):
                    return known  # another process has answered the same request meanwhile
                await self.check_latest(opened, node.id)
                if content.activation and is_closed(node, generation):
                    raise AirgapOutdated("the generation of this request was closed meanwhile")
                node, generation = await self._signed(node, generation, opened, content, now)
                answer = content.of_holder or self.statement_stream.answer(generation, request.nonce, now)
                file = self._file(opened, content, answer, now, life)
                row = _row(opened, content, known, now=now, valid_until=now + life, answered_by=operator.id)
                row = self._with_answer(row, answer, file)
                if content.chain and not content.activation:
                    await self.nodes.set_certificate_end(node.id, generation.number, _ends(content.chain))
                await self._received(operator, node, request.receipt, now)
                await self.airgap.supersede(node.id, row.id)
                await (self.airgap.insert(row) if known is None else self.airgap.update(row))
                await self.audit.write(
                    operator_actor(operator),
                    "airgap.answered",
                    node.id,
                    node.tenant,
                    request=row.id,
                    kind=row.kind,
                    generation=row.generation,
                    statement=row.statement_type,
                    seq=row.seq,
                    certificate="renewed" if content.chain and not content.activation else "",
                    valid_until=row.valid_until.isoformat(timespec="seconds"),
                    repeated="yes" if known is not None else "",
                )
        return row

    async def _signed(
        self, node: NodeRow, generation: GenerationRow, opened: OpenedRequest, content: Content, now: datetime
    ) -> tuple[NodeRow, GenerationRow]:
        """The rows with the next statement of an open generation. A site without a network gets its full length.

        A node that waits after a restore of the cloud keeps the stored statement. So does a machine whose grace lease has
        ended: only a decision about its recovery case brings another lease.
        """
        if is_closed(node, generation) or content.of_holder is not None:
            return node, generation
        enrolled = await self._enrolled(node, generation, opened.request)
        signed = enrolled
        in_grace = generation.grace_until is None or now < generation.grace_until
        if content.signs and in_grace and not self.presented.waits(node):
            presented = self.statement_stream.presented_seq(opened.request.presented, node, generation)
            signed, generation = await self.statement_stream.write_current(enrolled, generation, now, presented)
        if signed is not node:
            await self.nodes.update(signed, "changed", since=node)
        return signed, generation

    async def _enrolled(self, node: NodeRow, generation: GenerationRow, request: Request) -> NodeRow:
        """The node with an enrolled fingerprint. The first request of a machine has none, because it lacks the salt."""
        if generation.fingerprint or not request.fingerprint:
            return node
        tenant = await self.tenants.find(node.tenant)
        if tenant is None:
            return node
        fingerprint = without_placeholders(request.fingerprint, tenant.fingerprint_salt)
        await self.nodes.set_fingerprint(node.id, generation.number, fingerprint)
        return node if node.enrolled else msgspec.structs.replace(node, enrolled=fingerprint)

    async def _received(self, operator: Operator, node: NodeRow, receipt: Receipt | None, now: datetime) -> None:
        """Record a receipt. A receipt that names no answer of this cloud to this node changes nothing."""
        known = await self.airgap.find_of(node.id, receipt.request) if receipt is not None else None
        if receipt is None or known is None or known.state == "received":
            return
        if receipt.answer_sha256 not in known.answers_sha256:
            return
        received = msgspec.structs.replace(
            known, state="received", answer="", received_at=now, imported_at=receipt.imported_at
        )
        await self.airgap.update(received)
        await self.audit.write(
            operator_actor(operator),
            "airgap.received",
            node.id,
            node.tenant,
            request=known.id,
            generation=known.generation,
            imported_at=receipt.imported_at.isoformat(timespec="seconds"),
        )

    def _file(
        self, opened: OpenedRequest, content: Content, current: StatementAnswer, now: datetime, life: timedelta
    ) -> AnswerFile:
        """The answer, sealed if the content has a seal. Raises Conflict if it is too large."""
        body = body_of(
            AnswerBody(
                tenant=content.tenant,
                node=content.node,
                generation=content.generation,
                current=current,
                certificate_chain=content.chain,
                fingerprint_salt=content.salt,
                renewal=content.renewal,
            )
        )
        claims = claims_for(opened, body, trust_domain=self.trust_domain, at=now, life=life)
        file = AnswerFile(
            "cascade-airgap-answer", self.statement_stream.signer.airgap_answer(claims), trust=content.trust
        )
        if content.seal is None:
            file = msgspec.structs.replace(file, body=body.decode())
        else:
            file = msgspec.structs.replace(file, sealed=self._sealed(content.seal, body, opened.sha256))
        if len(json_encode(file)) > ANSWER_BYTES_MAX:
            raise Conflict(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
        return file

    def _with_answer(self, row: AirgapExchangeRow, current: StatementAnswer, file: AnswerFile) -> AirgapExchangeRow:
        statement = self.statement_stream.signer.presented(current.statement)
        return msgspec.structs.replace(
            row,
            seq=statement.seq if statement is not None else 0,
            statement_type=type_name(statement) if statement is not None else "",
            statement_sha256=sha256_hex(current.statement.encode()),
            answer=json_encode(file).decode(),
            answers_sha256=(*row.answers_sha256, sha256_hex(file.signature.encode()))[-ANSWERS_MAX:],
        )

    def _sealed(self, seal: Seal, body: bytes, request_sha256: bytes) -> Sealed:
        """Encrypt a body under a new secret that only the chip with this attestation key releases."""
        secret, iv = self.entropy(SECRET_BYTES), self.entropy(IV_BYTES)
        blob, encrypted = self.chip_challenges.credential(seal.chip, seal.ak_public, secret)
        return Sealed(blob, encrypted, seal.chip.ek_name, iv, seal_body(body, secret, request_sha256, iv))

    async def forget_old(self) -> None:
        """Delete finished exchanges FORGET_AFTER their answer, and answers that cannot be imported any more."""
        now = self.now()
        with fault_point("fabric.airgap.purge"):
            await self.airgap.purge(now, now - FORGET_AFTER)


def _still_holds(known: AirgapExchangeRow, generation: GenerationRow | None, now: datetime) -> bool:
    """Whether a stored answer can be imported at `now`, and has the current statement of its generation."""
    if generation is None or not known.answer or known.valid_until <= now:
        return False
    return sha256_hex(generation.statement.encode()) == known.statement_sha256


def _ends(chain: tuple[bytes, ...]) -> datetime:
    """The end of the first certificate of a chain (DER)."""
    return x509.load_der_x509_certificate(chain[0]).not_valid_after_utc


def _row(
    opened: OpenedRequest,
    content: Content,
    known: AirgapExchangeRow | None,
    *,
    now: datetime,
    valid_until: datetime,
    answered_by: str,
) -> AirgapExchangeRow:
    """The exchange without its answer. A repeat keeps the hashes of the answers before."""
    request = opened.request
    return AirgapExchangeRow(
        id=request.request,
        tenant=content.tenant,
        node=content.node,
        generation=content.generation,
        kind=request.kind,
        state="answered",
        request_sha256=opened.sha256_hex,
        activation=content.activation,
        made_at=request.made_at,
        clock=tpm_clock(request),
        answered_at=now,
        valid_until=valid_until,
        answered_by=answered_by,
        seq=0,
        statement_type="",
        statement_sha256="",
        answer="",
        answers_sha256=known.answers_sha256 if known is not None else (),
    )
