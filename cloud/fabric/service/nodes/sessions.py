"""Use case: a node opens a session. It shows its device certificate and a proof signed by its key in the TPM.

The answer carries a session certificate and the node's current statement, so a starting node needs one exchange. A
suspended node may open sessions. A closed generation is refused, and the refusal carries its signed revocation.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud.fabric import nonce
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import (
    CertificateRefused,
    CsrRefused,
    FingerprintRefused,
    Invalid,
    IssuerRefused,
    IssuerUnavailable,
    NodeUnknown,
    ProofRefused,
    QuoteRefused,
    Refused,
)
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.known_holders import Arrival, SessionJudgement
from cloud.fabric.service.input_checks import check_fingerprint, check_floor, check_nonce_form, check_text
from cloud.fabric.service.nodes.clones import ORDINARY, Clones, Kept, Presented
from cloud.fabric.service.nodes.device_certificate import Device, read_device_certificate
from cloud.fabric.service.nodes.fingerprints import Fingerprints
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.limits import SessionLimits
from cloud.fabric.service.nodes.pcr_quotes import PcrQuotes
from cloud.fabric.service.nodes.replaced import ReplacedMachines
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.nodes.session_refusals import SessionRefusals
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now
from cloud.fabric.service.published_trust.session_ends import SessionEnds
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.store.nodes import NodeStore, Seen
from cloud.fabric.store.rows import FIRST_EPOCH, GenerationRow, NodeRow, without_tpm
from cloud.fabric.tuf.current_trust import CurrentTrust
from protocol.encoding import sha256_hex
from protocol.limits import NONCE_LIFE
from protocol.messages.sessions import Nonce, OpenSession, ProofClaims, ProofError, Session, StatementAnswer, open_proof

PATH_SESSIONS = "/v1/node/sessions"


class Shown(msgspec.Struct, frozen=True):
    """What a node shows in a session: its certificate with the serial number (hex), its claims, and its statement."""

    device: Device
    serial: str
    claims: ProofClaims
    token: str


class Reconstructs(Protocol):
    """Port: makes the rows of a node that the database has lost. `epoch` is the installation's epoch."""

    @property
    def epoch(self) -> int: ...

    async def take_up(self, shown: Shown) -> None:
        """Write the rows that `shown` proves. Raises NodeUnknown, CertificateRefused, IssuerUnavailable."""

    async def is_revoked(self, serial: str) -> bool:
        """Whether an imported CRL has the certificate with this serial number (hex)."""

    async def has_imported(self) -> bool:
        """Whether a CRL with a revoked certificate was imported."""


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """Opens sessions. `public_url` is the URL of this Fabric, which proofs must name."""

    trust_domain: str
    public_url: str
    nonce_key: bytes = field(repr=False)
    now: Now
    entropy: Entropy
    nodes: NodeStore
    issuer: Issuer
    current_trust: CurrentTrust
    statements: Statements
    statement_stream: StatementStream
    seen: SeenSessions
    pcr_quotes: PcrQuotes
    refusals: SessionRefusals
    limits: SessionLimits
    session_ends: SessionEnds
    trust_reports: TrustReports
    fingerprints: Fingerprints
    clones: Clones
    replaced: ReplacedMachines
    reconstruction: Reconstructs

    def make_nonce(self) -> Nonce:
        """Make a nonce for a session proof. Stores nothing."""
        now = self.now()
        return Nonce(nonce.make_nonce(self.nonce_key, now, self.entropy(nonce.SALT_BYTES)), now + NONCE_LIFE)

    async def open_session(self, body: OpenSession, address: str = "") -> Session:
        """Check a proof and issue a session certificate. A repeated proof gets the same certificate and token.

        `address` is where the request came from, for the evidence of a suspected clone.

        1-6 the device certificate, see `read_device_certificate`; 7 node and generation are known, and the certificate
        has the key that is stored for them; 8 that key signed the proof, see `protocol.messages.sessions.open_proof`;
        9 the proof names this node and generation; 10 it names this method and this Fabric's URL; 11 it names this
        CSR; 12 it carries a nonce that this cloud made a short time ago; 13 the generation is not closed; 14 the limits
        of sessions are not reached; 15 a machine with a TPM reports its clock, the fingerprint of a machine without a
        TPM matches the enrolled one, and the tenant's policy admits the quote of the PCRs; 16 the caller is not the
        older copy of a suspected clone (`Clones`).
        Raises CertificateRefused, NodeUnknown, ProofRefused, Invalid, GenerationClosed, TooOften, QuoteRefused,
        FingerprintRefused, HolderRefused, CsrRefused, IssuerUnavailable.
        """
        now = self.now()
        issuers = self.current_trust.trust.node_issuers
        device = read_device_certificate(body.device_certificate, issuers, self.trust_domain, now)
        node, generation = await self._known_or_shown(body, device, now)
        try:
            claims, asked_at = self._check_proof(body, device, now)
            arrival = self.clones.arrival(generation, claims, proof=body.proof, asked_at=asked_at, address=address)
        except Refused as error:
            await self.refusals.note(device, error)
            raise
        await self._refuse_closed(node, generation, claims.answer_nonce, arrival)
        self.limits.count(node.tenant, node.id, now)
        await self._judge_evidence(node, generation, device, claims)
        await self._judged(Presented(node, generation, arrival, body.presented), claims.answer_nonce)
        chain = await self._issue(body, device)
        await self.session_ends.note(chain)
        # The issuer may have taken seconds. Read the rows again, or an outdated lease would be signed as current.
        now = self.now()
        node, generation = await self._known(device)
        await self._refuse_closed(node, generation, claims.answer_nonce, arrival)
        presented = Presented(node, generation, arrival, body.presented)
        node, generation, judgement, kept = await self._judged(presented, claims.answer_nonce)
        seen = Seen(now, claims.fingerprint, claims.agent_version, device.not_after)
        self.seen.note(presented, seen, judgement, kept)
        self.fingerprints.note(node, generation, claims.fingerprint, now)
        renewal = self.clones.token(generation, judgement, body.proof)
        self.seen.note_mode(node, generation.number, development=claims.development is True)
        self.trust_reports.note(generation, claims.trust_version, device.issuer)
        generation = await self.statements.note_lease_version(generation, claims.lease_version or 1)
        if judgement.outcome != "late":  # a later session has reported a counter that may be higher
            node = await self.statements.note_floor(node, generation, claims.floor)
        if generation.state == "offered" and body.presented:
            node, generation = await self.statements.presented.settle(node, generation, body.presented)
        if generation.state == "offered":
            return Session(chain, StatementAnswer("", ""), renewal=renewal)
        await self.statements.silences.heard(node, generation)
        await self.replaced.remembered(node)
        generation = await self.statements.refreshed(node, generation, body.presented, now)
        # The cursor was read before the statement. A change in between makes the node's next poll return at once.
        answer = self.statement_stream.answer(generation, claims.answer_nonce, now)
        return Session(chain, answer, node.wake_cursor, renewal)

    async def _judged(
        self, presented: Presented, answer_nonce: str
    ) -> tuple[NodeRow, GenerationRow, SessionJudgement, Kept | None]:
        """Step 16: judge who opens the session. Returns the rows, the judgement, and the holders that it began with.

        Raises HolderRefused, IssuerUnavailable.
        """
        kept = self.seen.kept(presented.generation.id)
        judgement = self.clones.judge(presented.generation, presented.arrival, kept)
        if judgement.outcome in ORDINARY:
            return presented.node, presented.generation, judgement, kept
        recorded = await self.clones.record(presented, self.seen.take_holders(presented.generation.id))
        if not recorded.judgement.gets_token:
            raise self.clones.refusal(recorded, answer_nonce)
        return recorded.node, recorded.generation, recorded.judgement, None

    async def _known_or_shown(self, body: OpenSession, device: Device, now: datetime) -> tuple[NodeRow, GenerationRow]:
        """Step 7, for a database that may have lost the node, its generation or its key.

        Raises CertificateRefused, NodeUnknown, ProofRefused, Invalid, IssuerUnavailable.
        """
        try:
            node, generation = await self._known(device)
        except (CertificateRefused, NodeUnknown) as error:
            claims, _ = self._check_proof(body, device, now)
            try:
                await self.reconstruction.take_up(Shown(device, _serial(body), claims, body.presented))
            except NodeUnknown:
                raise error from None
            return await self._known(device)
        # Rows of a restored database may be older than the revocation. A closed generation gets its signed revocation.
        may_be_older = node.reconstructed_at is not None or self.reconstruction.epoch > FIRST_EPOCH
        if may_be_older and not is_closed(node, generation) and await self.reconstruction.is_revoked(_serial(body)):
            raise CertificateRefused("the device certificate is in an imported CRL")
        return node, generation

    async def _known(self, device: Device) -> tuple[NodeRow, GenerationRow]:
        """Step 7. Raises CertificateRefused, NodeUnknown."""
        node, generation = await load(self.nodes, device.spiffe.tenant, device.spiffe.node, device.generation)
        if generation.node_public_key != device.spki:
            raise CertificateRefused("the certificate's key is not the key of this generation")
        return node, generation

    def _check_proof(self, body: OpenSession, device: Device, now: datetime) -> tuple[ProofClaims, datetime]:
        """Steps 8 to 12. Returns the claims, and the time at which the nonce was made. Raises ProofRefused, Invalid."""
        try:
            claims = open_proof(body.proof, serialization.load_der_public_key(device.spki))
        except ProofError as error:
            raise ProofRefused("the proof is not signed by this generation's key") from error
        if (claims.tenant, claims.node, claims.generation) != (
            device.spiffe.tenant,
            device.spiffe.node,
            device.generation,
        ):
            raise ProofRefused("the proof is for another node or generation")
        if (claims.method, claims.url) != ("POST", self.public_url + PATH_SESSIONS):
            raise ProofRefused("the proof is for another request")
        if claims.csr_sha256 != sha256_hex(body.csr):
            raise ProofRefused("the proof is for another certificate request")
        try:
            asked_at = nonce.check_nonce(self.nonce_key, claims.nonce, now)
        except nonce.NonceError as error:
            raise ProofRefused(str(error)) from error
        check_nonce_form(claims.answer_nonce)
        check_text("agent_version", claims.agent_version)
        if claims.lease_version is not msgspec.UNSET and claims.lease_version < 1:
            raise Invalid("lease_version: at least 1")
        check_fingerprint(claims.fingerprint)
        check_floor(claims.floor)
        return claims, asked_at

    async def _refuse_closed(
        self, node: NodeRow, generation: GenerationRow, answer_nonce: str, arrival: Arrival
    ) -> None:
        """Step 13. Raises GenerationClosed."""
        if is_closed(node, generation):
            now = self.now()
            await self.seen.record_closed(node, generation, now)
            await self.clones.compare_superseded(node, generation, arrival)
            await self.replaced.asked(node, generation, arrival.evidence, store_seen=self.seen.store)
            raise self.statement_stream.closed(generation, answer_nonce, now)

    async def _judge_evidence(
        self, node: NodeRow, generation: GenerationRow, device: Device, claims: ProofClaims
    ) -> None:
        """Step 15. Raises QuoteRefused, FingerprintRefused, ProofRefused.

        The tier may be higher than that of an earlier generation, so a closed generation is refused before.
        """
        try:
            _check_clock(claims, node, generation)
            self.fingerprints.check(node, generation, claims.fingerprint)
            await self.pcr_quotes.at_session(node, generation, claims, self.now())
        except (FingerprintRefused, ProofRefused, QuoteRefused) as error:
            await self.refusals.note(device, error)
            raise

    async def _issue(self, body: OpenSession, device: Device) -> tuple[bytes, ...]:
        try:
            certificate = await self.issuer.issue_session(
                sha256_hex(body.proof.encode()),
                device.spiffe.tenant,
                device.spiffe.node,
                device.generation,
                body.csr,
                device.not_after.astimezone(UTC),
            )
        except IssuerRefused as error:
            if error.code == "csr_refused":
                raise CsrRefused(error.detail) from error
            # The issuer refuses closed generations. Fabric closes a generation before the issuer does, so a repeat of
            # the request finds it closed in Fabric's rows and gets the revocation.
            raise IssuerUnavailable(str(error)) from error
        return certificate.certificate_chain


def _check_clock(claims: ProofClaims, node: NodeRow, generation: GenerationRow) -> None:
    """Check that a machine with a TPM reports its clock. A machine without one has none. Raises ProofRefused."""
    if claims.clock is msgspec.UNSET and not without_tpm(node, generation):
        raise ProofRefused("the proof has no clock of the TPM")


def _serial(body: OpenSession) -> str:
    """The serial number (hex) of the device certificate."""
    return f"{x509.load_der_x509_certificate(body.device_certificate).serial_number:x}"
