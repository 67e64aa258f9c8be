"""Use case: renewal with fresh evidence, by challenge, proof and device certificate within one confirmed generation.

For a node whose device certificate has expired or is by a CA that has left the trust, and for one that changes its
key (section 6 of the design). Not for a certificate that still opens sessions under the same key: that is renewed
over a session, at the issuer. The certificate shown only says who is meant; what admits is the chip that answers the
challenge, by the endorsement and attestation key that the generation was activated with.

Rules: nothing about an existing node is changed or answered before the chip has released the secret, and whatever does
not fit is answered alike until then. No generation is opened here; a closed one gets its revocation and nothing else.
The generation's key changes in the transaction that stores the new certificate: until then the old one counts.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from cloud.audit import SYSTEM
from cloud.fabric.attestation.evidence import NodeKey
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import (
    ActivationClosed,
    CertificateRefused,
    Conflict,
    IssuerRefused,
    NotFound,
    Refused,
    TooManyChallenges,
)
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing import statements
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
from cloud.fabric.service.nodes.renewal_starts import RenewalStarts
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.renewals import RenewalStore
from cloud.fabric.store.rows import GenerationRow, NodeRow, RenewalRow
from cloud.fabric.store.tenants import TenantStore
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import RenewalId
from protocol.limits import CHALLENGE_LIFE, CHALLENGE_TRIES_MAX
from protocol.messages.renewal import ProveRenewal, RenewalChallenge, Renewed, StartRenewal

OPEN_PER_NODE_MAX = 3
"""Challenges of one node at a time: a machine needs one, and two are left for what was cut off."""
PROVED_PER_DAY_MAX = 4
"""Renewals of one node that a day may bring to the issuer; a healthy one needs one in months."""
FORGET_RENEWALS_AFTER = timedelta(days=7)
"""Longer than the day for which they are counted; a node that asks for its stored answer later starts again."""
ROWS_MAX = 100
UNKNOWN_MACHINE = "the device certificate and the evidence are not of a machine and generation here"
"""The one answer to whatever does not fit."""
_DAY = timedelta(days=1)


class _Claim(msgspec.Struct, frozen=True):
    """Whom a device certificate names. `due`: it opens no session, or is in the last third of its life.

    `proven` names the certificate if a published CA signed it, within its dates or not; else it is empty.
    """

    device: Device
    due: bool
    proven: str


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
    wake_background: WakeBackground

    async def start(self, body: StartRenewal) -> RenewalChallenge:
        """A challenge to the chip of the generation that the certificate names.

        1 the certificate reads and is a device certificate of our trust domain; 2 not too many ask; 3 node, generation
        and attestation key belong together, and the generation was confirmed; 4 the evidence names a chip that the
        tenant admits, as in an activation; 5 it is the node's; 6 not too many challenges are open. Nobody who does not
        know a key of the node's chip learns whom the tenant admits.
        Raises CertificateRefused, TooManyChallenges, EvidenceNotAccepted, TierNotAllowed, Invalid.
        """
        check_text("agent_version", body.agent_version)
        now = self.now()
        claim = self._claim(body.device_certificate, now)
        spiffe = claim.device.spiffe
        self.starts.count(claim.proven, now)
        tenant = await self.tenants.find(spiffe.tenant)
        if tenant is None:
            raise _unknown_machine()
        node = await self._known(claim.device, body.evidence.ak_public)
        challenge = await self.chip_challenges.make(tenant, body.evidence, now)
        if not hmac.compare_digest(node.ek_hash, challenge.ek_hash):
            raise _unknown_machine()
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
        )
        with fault_point("fabric.renewal.challenge"):
            async with self.transaction():
                if await self.renewals.count_open(row.node, now) >= OPEN_PER_NODE_MAX:
                    raise TooManyChallenges("too many renewals of this machine are open")
                await self.renewals.insert(row)
                await self.audit.write(
                    ANONYMOUS, "renewal.challenged", row.node, row.tenant, renewal=row.id, generation=row.generation
                )
        return RenewalChallenge(
            row.id, challenge.credential_blob, challenge.encrypted_secret, row.expires_at, CHALLENGE_TRIES_MAX
        )

    def _claim(self, der: bytes, now: datetime) -> _Claim:
        """Step 1. A certificate by a CA that has left the trust, or past its dates, still says who is meant."""
        issuers = self.current_trust.trust.node_issuers
        try:
            certificate = x509.load_der_x509_certificate(der)
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except ValueError as error:
            raise CertificateRefused("the device certificate cannot be read") from error
        device = device_of(certificate, self.trust_domain)
        try:
            issuer = key_id_of(require_issuer(certificate, issuers))
        except PeerRefused:
            return _Claim(device, due=True, proven="")
        proven = f"{issuer}.{certificate.serial_number:x}"
        try:
            read_device_certificate(der, issuers, self.trust_domain, now)
        except CertificateRefused:
            return _Claim(device, due=True, proven=proven)
        return _Claim(device, due=now >= begins + (ends - begins) * 2 / 3, proven=proven)

    async def _known(self, device: Device, ak_public: bytes) -> NodeRow:
        """Step 3; one answer for whatever does not fit. Raises CertificateRefused."""
        spiffe = device.spiffe
        node, generation = await load(self.nodes, spiffe.tenant, spiffe.node, device.generation, _unknown_machine)
        if not hmac.compare_digest(generation.ak_public, ak_public) or generation.confirmed_at is None:
            raise _unknown_machine()
        return node

    async def prove(self, renewal: RenewalId, body: ProveRenewal, body_sha256: str) -> Renewed:
        """The answer to the challenge; a byte-identical repeat (`body_sha256`) carries on or gets the stored answer.

        Raises NotFound, Invalid, Challenge*, GenerationClosed, EvidenceNotAccepted, CsrRefused, Conflict,
        ActivationClosed, TooManyChallenges, IssuerUnavailable.
        """
        row = await self.renewals.find(renewal)
        if row is None:
            raise _unknown_renewal()
        check_nonce_form(body.answer_nonce)
        if row.state == "challenged":
            await self._check_answer(row, body)
            generation = await self._open(row, body.answer_nonce)
            key = self._verified_key(row, generation, body)
            row = await self._reserve(row, body, key, body_sha256)
        if row.state not in ("proved", "issued", "done") or not is_proved_by(row, body_sha256):
            raise ActivationClosed("this renewal has ended, or was proved with another request")
        generation = await self._open(row, body.answer_nonce)
        if row.state == "proved":
            row = await self._issue(row)
            # The issuer may have taken seconds: what was closed meanwhile is refused, not handed out.
            generation = await self._open(row, body.answer_nonce)
        if generation.node_public_key != row.node_public_key:
            raise ActivationClosed("a later renewal has changed the key since")
        return Renewed(row.certificate_chain)

    async def _check_answer(self, row: RenewalRow, body: ProveRenewal) -> None:
        """The time and the secret; a wrong one is counted, the last one ends the renewal."""
        if is_right_answer(row, body.secret, self.now()):
            return
        with fault_point("fabric.renewal.answer"):
            async with self.transaction():
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
        """The generation. Raises GenerationClosed, with the signed revocation."""
        node, generation = await self._rows(row)
        if is_closed(node, generation):
            raise self.statement_stream.closed(generation, answer_nonce, self.now())
        return generation

    def _verified_key(self, row: RenewalRow, generation: GenerationRow, body: ProveRenewal) -> NodeKey:
        """The certified key, by the attestation key that is stored; the same one only when the certificate is due."""
        key = self.chip_challenges.verified_key(row, generation.ak_public, body.secret, body.key, body.csr)
        if not row.expired and key.spki == generation.node_public_key:
            raise Conflict("the device certificate is not due: renew it over a session")
        return key

    async def _reserve(self, row: RenewalRow, body: ProveRenewal, key: NodeKey, body_sha256: str) -> RenewalRow:
        """One transaction: the proof that claims the renewal, while the generation is open and the day's bound holds."""
        with fault_point("fabric.renewal.prove"):
            async with self.transaction():
                fresh = await self.renewals.find(row.id)
                if fresh is None:
                    raise _unknown_renewal()
                if fresh.state != "challenged":
                    return fresh
                node, generation = await self._rows(fresh)
                if is_closed(node, generation):
                    raise self.statement_stream.closed(generation, body.answer_nonce, self.now())
                now = self.now()
                if await self.renewals.count_proved(node.id, now - _DAY) >= PROVED_PER_DAY_MAX:
                    raise TooManyChallenges("this machine was renewed too often in a day")
                proved = msgspec.structs.replace(
                    fresh,
                    state="proved",
                    proof_hash=body_sha256,
                    csr=body.csr,
                    node_public_key=key.spki,
                    not_after=statements.device_not_after(statements.terms_of(node.tier, node.lease), now),
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

    async def _issue(self, row: RenewalRow) -> RenewalRow:
        """Have the certificate made and store it with the key it is of; every part may be a repeat."""
        if row.not_after is None:
            raise ActivationClosed("this renewal has ended")
        with issuer_refusals_of("renewal"):
            certificate = await self.issuer.issue_device(
                row.id, row.tenant, row.node, row.generation, row.csr, row.not_after
            )
        with fault_point("fabric.renewal.store"):
            async with self.transaction():
                # The key as it is now: another renewal may have changed it while the issuer worked.
                _, generation = await self._rows(row)
                rekeyed = row.node_public_key != generation.node_public_key
                if await self.renewals.set_issued(row.id, certificate.certificate_chain, rekeyed=rekeyed):
                    await self.renewals.set_key(row.node, row.generation, row.node_public_key, row.not_after)
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
        """Have the certificates of changed keys revoked.

        Raises IssuerUnavailable at the first call that fails; IssuerRefused at the end, for one node holds up no other.
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
        """Have the issuer revoke what it made for the keys before the one in force.

        Raises IssuerUnavailable, IssuerRefused.
        """
        _, generation = await self._rows(row)
        await self.issuer.supersede_keys(row.tenant, row.node, row.generation, sha256_hex(generation.node_public_key))
        with fault_point("fabric.keys.superseded"):
            async with self.transaction():
                if await self.renewals.set_done(row.id):
                    await self.audit.write(
                        SYSTEM, "renewal.superseded", row.node, row.tenant, renewal=row.id, generation=row.generation
                    )

    async def forget_old(self) -> None:
        """Forget renewals that were begun long ago; the audit has their outcome."""
        with fault_point("fabric.renewal.purge"):
            await self.renewals.purge(self.now() - FORGET_RENEWALS_AFTER)


def _unknown_machine() -> Refused:
    return CertificateRefused(UNKNOWN_MACHINE)


def _unknown_renewal() -> Refused:
    return NotFound("no such renewal")
