"""Use case: a node renews its device certificate with new TPM evidence, within one confirmed generation.

A node uses this exchange when its device certificate has expired, when the CA of that certificate is no longer trusted,
or when the node changes its key. A certificate that still opens sessions and keeps its key is renewed over a session,
at the issuer (EST). The certificate in the request only identifies the generation. The proof of identity is the chip's
answer to the challenge, with the endorsement key and attestation key of the activation.

Rules:

- Before the chip has answered, no data of an existing node is changed or disclosed. Every mismatch is answered alike.
- This exchange opens no generation. A closed generation gets its revocation.
- The generation's key changes in the transaction that stores the new certificate. Until then the old key is valid.
- A machine that holds a former key of the generation is judged with the proof
  (`cloud.fabric.licensing.key_returns`): its disk was put back, or it is a copy from before the rekey. Such renewals do
  not count against the limit for a day, so a copy cannot use up the renewals of the original.
"""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import msgspec
from cryptography import x509

from cloud.audit import SYSTEM
from cloud.fabric.attestation.evidence import NodeKey
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import (
    ActivationClosed,
    CertificateRefused,
    Conflict,
    HolderRefused,
    IssuerRefused,
    NotFound,
    Refused,
    TooManyChallenges,
)
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.former_keys import known, replaced
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.input_checks import check_nonce_form, check_text
from cloud.fabric.service.nodes.chip_challenge import (
    ChipChallenges,
    is_proved_by,
    is_right_answer,
    tries_left,
    wrong_answer,
)
from cloud.fabric.service.nodes.device_certificate import Device, device_of, read_device_certificate
from cloud.fabric.service.nodes.device_issuance import issuer_refusals_of
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.service.renewals.renewal_starts import RenewalStarts
from cloud.fabric.service.renewals.returned_keys import ReturnedKeys, Shown
from cloud.fabric.store.keys import node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.renewals import RenewalStore
from cloud.fabric.store.rows import GenerationRow, NodeRow, RenewalRow
from cloud.fabric.store.tenants import TenantStore
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.mtls.peer import PeerRefused, require_issuer
from cloud.tasks.source import source_of
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import NodeId, RenewalId, TenantId
from protocol.limits import CHALLENGE_LIFE, CHALLENGE_TRIES_MAX
from protocol.messages.renewal import ProveRenewal, RenewalChallenge, Renewed, StartRenewal

OPEN_PER_NODE_MAX = 3
"""Open challenges of one node for one key of its certificates. A machine needs one; two more are for interruptions."""
PROVED_PER_DAY_MAX = 4
"""Proved renewals of one node in a day, without returns of former keys. A healthy node needs one in several months."""
REFUSED_COUNTS_FOR = timedelta(minutes=2)
"""How long the refused renewal of a copy counts as open. An operator's decision reaches the copy within that time."""
FORGET_RENEWALS_AFTER = timedelta(days=7)
"""Age at which renewals are deleted. It is longer than the day for which they are counted. A node that repeats its
proof after that time gets no stored answer and starts again."""
ROWS_MAX = 100
"""Rows of one pass. Further rows are handled in the next pass."""
UNKNOWN_MACHINE = "the device certificate and the evidence do not match a known machine and generation"
"""The same answer for every mismatch, so that a caller cannot probe which machines exist."""
_DAY = timedelta(days=1)


class Claim(msgspec.Struct, frozen=True):
    """The contents of a device certificate, and what may be concluded from it.

    `due`: the certificate opens no session, or is in the last third of its life. `proven`: a published CA signed the
    certificate, which may have expired.
    """

    device: Device
    due: bool
    proven: bool


@dataclass(frozen=True, kw_only=True)
class Renewals:
    """Runs the renewal exchange."""

    trust_domain: str
    now: Now
    entropy: Entropy
    transaction: Transaction
    audit: AuditLog
    nodes: NodeStore
    renewals: RenewalStore
    tenants: TenantStore
    issuer: Issuer
    current_trust: CurrentTrust
    chip_challenges: ChipChallenges
    statement_stream: StatementStream
    starts: RenewalStarts
    returns: ReturnedKeys
    wake_background: WakeBackground

    async def start(self, body: StartRenewal, host: str = "") -> RenewalChallenge:
        """Make a challenge to the chip of the generation that the certificate names. `host` is the caller's address.

        1 the certificate can be read and is a device certificate of our trust domain; 2 the limits of `RenewalStarts`
        are not reached; 3 node, generation and attestation key belong together, and the generation was confirmed; 4 the
        tenant admits the chip of the evidence, as in an activation; 5 it is the chip of the node; 6 the node has not
        too many open challenges. Step 3 comes before step 4, so a caller that does not know the attestation key of the
        node cannot find out which chips the tenant admits.
        Raises CertificateRefused, TooManyChallenges, TooOften, EvidenceNotAccepted, TierNotAllowed, Invalid.
        """
        check_text("agent_version", body.agent_version)
        now = self.now()
        claim = self.claim(body.device_certificate, now)
        spiffe = claim.device.spiffe
        self.starts.count(spiffe.tenant, spiffe.node, source_of(host), now, proven=claim.proven)
        tenant = await self.tenants.find(spiffe.tenant)
        if tenant is None:
            raise unknown_machine()
        node, generation = await self._known(claim.device, body.evidence.ak_public)
        held_key = known(generation.former_keys, generation.node_public_key, claim.device.spki)
        challenge = await self.chip_challenges.make(tenant, body.evidence, now, node.ek_hash)
        if not hmac.compare_digest(node.ek_hash, challenge.ek_hash):
            raise unknown_machine()
        row = RenewalRow(
            id=RenewalId(new_id("ren", now, self.entropy)),
            node=spiffe.node,
            tenant=tenant.id,
            generation=claim.device.generation,
            state="challenged",
            tries=0,
            secret_hash=challenge.secret_hash,
            expired=claim.due,
            created_at=now,
            expires_at=now + CHALLENGE_LIFE,
            proof_hash="",
            csr=b"",
            node_public_key=b"",
            not_after=None,
            certificate_chain=(),
            held_key=held_key,
            agent_version=body.agent_version,
            ak_public=body.evidence.ak_public,
        )
        with fault_point("fabric.renewal.challenge"):
            async with self.transaction(node_key(row.node)):
                if await self.renewals.count_open(row.node, now, held_key) >= OPEN_PER_NODE_MAX:
                    raise TooManyChallenges("too many renewals of this machine are open")
                await self.renewals.insert(row)
                await self.audit.write(
                    ANONYMOUS, "renewal.challenged", row.node, row.tenant, renewal=row.id, generation=row.generation
                )
        return RenewalChallenge(
            row.id,
            challenge.credential_blob,
            challenge.encrypted_secret,
            row.expires_at,
            CHALLENGE_TRIES_MAX,
            challenge.ek_name,
        )

    def claim(self, der: bytes, now: datetime) -> Claim:
        """Read a device certificate (step 1).

        A certificate that has expired, or whose CA is no longer trusted, still identifies the generation.
        Raises CertificateRefused.
        """
        issuers = self.current_trust.trust.node_issuers
        try:
            certificate = x509.load_der_x509_certificate(der)
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except ValueError as error:
            raise CertificateRefused("the device certificate cannot be read") from error
        device = device_of(certificate, self.trust_domain)
        try:
            require_issuer(certificate, issuers)
        except PeerRefused:
            return Claim(device, due=True, proven=False)
        try:
            read_device_certificate(der, issuers, self.trust_domain, now)
        except CertificateRefused:
            return Claim(device, due=True, proven=True)
        return Claim(device, due=now >= begins + (ends - begins) * 2 / 3, proven=True)

    async def _known(self, device: Device, ak_public: bytes) -> tuple[NodeRow, GenerationRow]:
        """Step 3. A reconstructed generation has no AK yet; its chip is known. Raises CertificateRefused, always alike."""
        of = device.spiffe
        node, generation = await load(self.nodes, of.tenant, of.node, device.generation, unknown_machine)
        ak = (
            generation.ak_public or ak_public
        )  # unknown of a reconstructed node; its EK and the challenge prove the chip
        if not hmac.compare_digest(ak, ak_public) or generation.confirmed_at is None:
            raise unknown_machine()
        return node, generation

    async def prove(self, renewal: RenewalId, body: ProveRenewal, body_sha256: str, host: str = "") -> Renewed:
        """Check the answer to the challenge and issue the device certificate.

        `body_sha256` is the hash of the request's body, `host` the caller's address. A repeat with the same bytes
        continues an unfinished renewal, or gets the stored answer. Raises NotFound, Invalid, ChallengeExpired, ChallengeFailed, GenerationClosed,
        EvidenceNotAccepted, CsrRefused, Conflict, ActivationClosed, TooManyChallenges, HolderRefused, IssuerUnavailable.
        """
        row = await self.renewals.find(renewal)
        if row is None:
            raise _unknown_renewal()
        check_nonce_form(body.answer_nonce)
        if row.state == "challenged":
            await self._check_answer(row, body)
            generation = await self._open(row, body.answer_nonce)
            key = self._verified_key(row, generation, body)
            reserve = partial(self._reserve, row, body, key, body_sha256, source_of(host))
            row = await self.store_proof(row.node, row.tenant, reserve)
        if not is_proved_by(row, body_sha256):
            raise _ended()
        return await self.answer(row, body.answer_nonce)

    async def answer(self, row: RenewalRow, answer_nonce: str) -> Renewed:
        """The answer to a proof that was checked. An unfinished renewal is continued.

        Raises ActivationClosed, GenerationClosed, CsrRefused, IssuerUnavailable.
        """
        if row.state not in ("proved", "issued", "done"):
            raise _ended()
        generation = await self._open(row, answer_nonce)
        if row.state == "proved":
            row = await self._issue(row, answer_nonce)
            generation = await self._open(row, answer_nonce)
        if generation.node_public_key != row.node_public_key:
            raise ActivationClosed("a later renewal has changed the key")
        return Renewed(row.certificate_chain)

    async def proved_today(self, node: NodeId, now: datetime) -> int:
        """How many renewals of a node were proved in the last 24 hours."""
        return await self.renewals.count_proved(node, now - _DAY)

    async def _check_answer(self, row: RenewalRow, body: ProveRenewal) -> None:
        """Check the expiry and the secret. Counts a wrong secret; the last allowed one ends the renewal.

        Raises ChallengeExpired, ChallengeFailed, ActivationClosed.
        """
        if is_right_answer(row, body.secret, self.now()):
            return
        with fault_point("fabric.renewal.answer"):
            async with self.transaction(node_key(row.node)):
                tries = await self.renewals.count_wrong_answer(row.id)
                if tries is None:
                    raise ActivationClosed("this renewal has ended")
                await self.audit.write(
                    ANONYMOUS,
                    "renewal.answered",
                    row.node,
                    row.tenant,
                    "refused",
                    renewal=row.id,
                    tries_left=tries_left(tries),
                )
        raise wrong_answer(tries)

    async def _rows(self, row: RenewalRow) -> tuple[NodeRow, GenerationRow]:
        return await load(self.nodes, row.tenant, row.node, row.generation, _unknown_renewal)

    async def _open(self, row: RenewalRow, answer_nonce: str) -> GenerationRow:
        """The generation, if it is open. Raises GenerationClosed with the signed revocation."""
        node, generation = await self._rows(row)
        if is_closed(node, generation):
            raise self.statement_stream.closed(generation, answer_nonce, self.now())
        return generation

    def _verified_key(self, row: RenewalRow, generation: GenerationRow, body: ProveRenewal) -> NodeKey:
        """Check the evidence about the node key against the stored attestation key, and return the node key.

        Raises EvidenceNotAccepted, CsrRefused; Conflict if the key is unchanged and the certificate is not due.
        """
        key = self.chip_challenges.verified_key(
            row, generation.ak_public or row.ak_public, body.secret, body.key, body.csr
        )
        _check_due(row, generation, key)
        return key

    async def store_proof(
        self, node: NodeId, tenant: TenantId, prove: Callable[[], Awaitable[RenewalRow | HolderRefused]]
    ) -> RenewalRow:
        """Run `prove` in the transaction that stores the proof of a renewal. Returns the row that it returns.

        A refusal that it returns is raised after the commit: the evidence against the machine is stored.
        """
        with fault_point("fabric.renewal.prove"):
            async with self.transaction(node_key(node), reads=(tenant_key(tenant),)):
                proved = await prove()
        if isinstance(proved, HolderRefused):
            raise proved
        return proved

    async def _reserve(
        self, row: RenewalRow, body: ProveRenewal, key: NodeKey, body_sha256: str, address: str
    ) -> RenewalRow | HolderRefused:
        """Store the proof, if the generation is open and the limit for a day is not reached.

        Called in the transaction. Returns the row, or the refusal of a copy. If another request has changed the row's
        state first, the row is returned as it is.
        """
        fresh = await self.renewals.find(row.id)
        if fresh is None:
            raise _unknown_renewal()
        if fresh.state != "challenged":
            return fresh
        node, generation = await self._rows(fresh)
        if is_closed(node, generation):
            raise self.statement_stream.closed(generation, body.answer_nonce, self.now())
        _check_due(fresh, generation, key)  # another renewal may have changed the key since
        now = self.now()
        shown = Shown(sha256_hex(key.spki), body.presented or "", body.answer_nonce, address)
        refused, returned = await self.returns.judge(node, generation, fresh, shown)
        if refused is not None:
            await self.renewals.set_refused(fresh.id, now + REFUSED_COUNTS_FOR)
            return refused
        if not returned and await self.proved_today(node.id, now) >= PROVED_PER_DAY_MAX:
            raise TooManyChallenges("this machine has used up its renewals of the last 24 hours")
        proved = msgspec.structs.replace(
            fresh,
            state="proved",
            proof_hash=body_sha256,
            csr=body.csr,
            node_public_key=key.spki,
            not_after=statements.device_not_after(statements.terms_of(node.tier, node.lease), now),
            returned=returned,
        )
        if not await self.renewals.set_proved(proved):
            raise ActivationClosed("this renewal has ended")
        await self.audit.write(
            ANONYMOUS,
            "renewal.proved",
            node.id,
            node.tenant,
            renewal=row.id,
            generation=row.generation,
            key="same" if key.spki == generation.node_public_key else "changed",
        )
        return proved

    async def _issue(self, row: RenewalRow, answer_nonce: str) -> RenewalRow:
        """Have the certificate issued, and store it together with its key. Every part can be repeated.

        The issuer may take seconds. A generation that was closed meanwhile gets no certificate.
        """
        if row.not_after is None:
            raise ActivationClosed("this renewal has ended")
        with issuer_refusals_of("renewal"):
            certificate = await self.issuer.issue_device(
                row.id, row.tenant, row.node, row.generation, row.csr, row.not_after
            )
        with fault_point("fabric.renewal.store"):
            async with self.transaction(node_key(row.node)):
                # Read the key again: another renewal may have changed it while the issuer worked.
                node, generation = await self._rows(row)
                if is_closed(node, generation):
                    raise self.statement_stream.closed(generation, answer_nonce, self.now())
                rekeyed = row.node_public_key != generation.node_public_key
                if await self.renewals.set_issued(row.id, certificate.certificate_chain, rekeyed=rekeyed):
                    former, old = generation.former_keys, generation.node_public_key
                    if rekeyed:
                        former = replaced(former, old, row.node_public_key, self.now(), displaced=row.returned)
                    await self.renewals.set_key(row.node, row.generation, row.node_public_key, row.not_after, former)
                    await self.nodes.set_first_ak(row.node, row.generation, row.ak_public)
                    await self.audit.write(
                        ANONYMOUS,
                        "renewal.issued",
                        row.node,
                        row.tenant,
                        renewal=row.id,
                        generation=row.generation,
                        key="changed" if rekeyed else "same",
                    )
        self.wake_background()
        fresh = await self.renewals.find(row.id)
        if fresh is None or fresh.state not in ("issued", "done"):
            raise ActivationClosed("this renewal has ended meanwhile")
        return fresh

    async def supersede_keys(self) -> None:
        """Have the issuer revoke the certificates of replaced keys, for every renewal that needs it.

        Raises IssuerUnavailable at the first call that fails. A refusal for one node does not stop the others;
        IssuerRefused is raised at the end.
        """
        refused = None
        for row in await self.renewals.rekeyed(ROWS_MAX):
            try:
                await self.supersede(row)
            except IssuerRefused as error:
                refused = error
        if refused is not None:
            raise refused

    async def supersede(self, row: RenewalRow) -> None:
        """Have the issuer revoke the generation's certificates for earlier keys.

        Raises IssuerUnavailable, IssuerRefused.
        """
        _, generation = await self._rows(row)
        await self.issuer.supersede_keys(row.tenant, row.node, row.generation, sha256_hex(generation.node_public_key))
        with fault_point("fabric.keys.superseded"):
            async with self.transaction(node_key(row.node)):
                if await self.renewals.set_done(row.id):
                    await self.audit.write(
                        SYSTEM, "renewal.superseded", row.node, row.tenant, renewal=row.id, generation=row.generation
                    )

    async def forget_old(self) -> None:
        """Delete renewals that were begun more than FORGET_RENEWALS_AFTER ago. The audit keeps their outcome."""
        with fault_point("fabric.renewal.purge"):
            await self.renewals.purge(self.now() - FORGET_RENEWALS_AFTER)


def _check_due(row: RenewalRow, generation: GenerationRow, key: NodeKey) -> None:
    """Raises Conflict if the key is unchanged and the certificate is not due."""
    if not row.expired and key.spki == generation.node_public_key:
        raise Conflict("the device certificate is not due. Renew it over a session")


def unknown_machine() -> Refused:
    """The one refusal of every mismatch before the proof."""
    return CertificateRefused(UNKNOWN_MACHINE)


def _unknown_renewal() -> Refused:
    return NotFound("no such renewal")


def _ended() -> Refused:
    return ActivationClosed("this renewal has ended, or was proved with another request")
