"""Use case: judge the request of a known node without a network, as a session is judged.

A request is a contact of the holder of the node's key. It carries the evidence of a session: fingerprint, clock of the
TPM, PCR quote, floor counter. So the checks are those of `sessions`, without a nonce of the cloud: the order of requests
takes its place (`requests.check_latest`). The answer renews the device certificate if the certificate is due.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from cloud.fabric.attestation.evidence import check_request
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.errors import CertificateRefused, Conflict, NodeUnknown, ProofRefused, evidence_error
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.known_holders import Arrival
from cloud.fabric.licensing.request_order import Moment
from cloud.fabric.service.airgap.exchanges import Content, Exchanges
from cloud.fabric.service.airgap.requests import as_claims, check_latest
from cloud.fabric.service.nodes.chip_challenge import check_no_attributes
from cloud.fabric.service.nodes.clones import Clones, Presented, Recorded, read_holders
from cloud.fabric.service.nodes.device_certificate import Device, read_device_certificate
from cloud.fabric.service.nodes.device_issuance import issuer_refusals_of
from cloud.fabric.service.nodes.fingerprints import Fingerprints
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.pcr_quotes import PcrQuotes
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.nodes.sessions import Reconstructs, Shown
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.nodes.statement_stream import is_closed
from cloud.fabric.service.ports import Now
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.service.renewals.renewal import Renewals
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import FIRST_EPOCH, GenerationRow, NodeRow, without_tpm
from cloud.fabric.tuf.current_trust import CurrentTrust
from protocol.airgap.request import OpenedRequest, Request
from protocol.limits import DEVICE_LIFE_AFTER_TERMINATION
from protocol.messages.sessions import ProofClaims, StatementAnswer


@dataclass(frozen=True, kw_only=True)
class Contacts:
    """Judges requests of known nodes, and says what the answers are made of."""

    now: Now
    nodes: NodeStore
    issuer: Issuer
    current_trust: CurrentTrust
    exchanges: Exchanges
    clones: Clones
    seen: SeenSessions
    fingerprints: Fingerprints
    pcr_quotes: PcrQuotes
    renewals: Renewals
    statements: Statements
    reconstruction: Reconstructs
    trust_reports: TrustReports

    async def content(self, opened: OpenedRequest, trust: dict[str, str]) -> Content:
        """What the answer to a refresh is made of. `trust` are the files of the published trust.

        1 node and generation are known; 2 the key in the request is the stored key of the generation; 3 a closed
        generation gets its revocation, and nothing else is judged; 4 no later request of the node was answered, and the
        node has not opened a session since; 5 a machine with a TPM reports its clock, the fingerprint of a machine
        without a TPM matches the enrolled one, and the tenant's policy admits the quote of the PCRs; 6 the holders of the
        key are judged: the older copy of a suspected clone gets the statement for it.
        Raises NodeUnknown, ProofRefused, Conflict, AirgapOutdated, FingerprintRefused, QuoteRefused, CertificateRefused,
        CsrRefused, ActivationClosed, IssuerUnavailable.
        """
        request = opened.request
        node, generation = await self._known_or_shown(opened)
        content = Content(tenant=node.tenant, node=node.id, generation=generation.number, trust=trust)
        arrival = self.arrival(opened, generation, as_claims(opened))
        if is_closed(node, generation):
            await self.seen.record_closed(node, generation, self.now())
            await self.clones.compare_superseded(node, generation, arrival)
            await self.statements.replaced.asked(node, generation, arrival.evidence)
            return content
        if generation.state == "offered":
            raise Conflict("the activation of this generation was not confirmed. Activate the machine again")
        await self.exchanges.check_latest(opened, node.id)
        self.check_contacts(opened, generation)
        await self._judge_evidence(opened, node, generation)
        self._renews(opened, node, generation)  # a refusal comes before the contact is stored
        recorded = await self.record(opened, node, generation, arrival)
        judged = recorded.judgement
        if not judged.gets_token and judged.outcome != "late":
            refused = self.clones.refusal(recorded, request.nonce)
            return msgspec.structs.replace(content, of_holder=StatementAnswer(refused.statement, refused.freshness))
        renewal = self.clones.token(recorded.generation, judged, opened.file.signature)
        node, generation = await self.note(opened, recorded.node, recorded.generation)
        node, generation = await self.statements.presented.settle(node, generation, request.presented)
        if is_closed(node, generation):  # the node has presented a revocation that a restored cloud had lost
            return content
        return msgspec.structs.replace(content, chain=await self._renewed(opened, node, generation), renewal=renewal)

    async def _known_or_shown(self, opened: OpenedRequest) -> tuple[NodeRow, GenerationRow]:
        """Steps 1 and 2, for a database that may have lost the node, its generation or its key.

        Raises NodeUnknown, ProofRefused, CertificateRefused, IssuerUnavailable.
        """
        request = opened.request
        try:
            node, generation = await self._known(request)
        except (NodeUnknown, ProofRefused) as error:
            shown = self._shown(opened)
            if shown is None:
                raise
            try:
                await self.reconstruction.take_up(shown)
            except NodeUnknown:
                raise error from None
            return await self._known(request)
        # Rows of a restored database may be older than the revocation.
        if node.reconstructed_at is not None or self.reconstruction.epoch > FIRST_EPOCH:
            await self._compare_with_crls(opened)
        return node, generation

    async def _compare_with_crls(self, opened: OpenedRequest) -> None:
        """Compare the device certificate with the imported CRLs. A node whose certificate is in one could leave it out.

        Raises CertificateRefused.
        """
        if not await self.reconstruction.has_imported():
            return
        der = opened.request.device_certificate
        claim = self.renewals.claim(der, self.now()) if der else None
        if claim is None or not claim.proven or not _is_of(claim.device, opened):
            raise CertificateRefused(
                "the request has no device certificate that can be compared with the imported CRLs"
            )
        if await self.reconstruction.is_revoked(_serial(der)):
            raise CertificateRefused("the device certificate is in an imported CRL")

    async def _known(self, request: Request) -> tuple[NodeRow, GenerationRow]:
        """The rows that the request names. Raises NodeUnknown, ProofRefused."""
        node, generation = await load(self.nodes, request.tenant, request.node, request.generation)
        if generation.node_public_key != request.public_key:
            raise ProofRefused("the request is signed by another key than that of this generation")
        return node, generation

    def _shown(self, opened: OpenedRequest) -> Shown | None:
        """What a request shows of its node. None without a valid device certificate for this node and key."""
        request, trust = opened.request, self.current_trust.trust
        try:
            device = read_device_certificate(
                request.device_certificate, trust.node_issuers, trust.trust_domain, self.now()
            )
        except CertificateRefused:
            return None
        if not _is_of(device, opened):
            return None
        return Shown(device, _serial(request.device_certificate), as_claims(opened), request.presented)

    def arrival(self, opened: OpenedRequest, generation: GenerationRow, claims: ProofClaims) -> Arrival:
        """The contact that a request makes. It arrives now, because only the machine says when it was made.

        The evidence has the reported time, for operators. Raises ProofRefused.
        """
        now = self.now()
        signature = opened.file.signature
        arrival = self.clones.arrival(generation, claims, proof=signature, asked_at=now, address="")
        evidence = msgspec.structs.replace(arrival.evidence, at=min(opened.request.made_at, now))
        return msgspec.structs.replace(arrival, evidence=evidence)

    async def record(
        self, opened: OpenedRequest, node: NodeRow, generation: GenerationRow, arrival: Arrival
    ) -> Recorded:
        """Judge and store who holds the generation's key. Raises NodeUnknown, IssuerUnavailable."""
        presented = Presented(node, generation, arrival, opened.request.presented)
        return await self.clones.record(presented, self.seen.take_holders(generation.id))

    async def note(
        self, opened: OpenedRequest, node: NodeRow, generation: GenerationRow
    ) -> tuple[NodeRow, GenerationRow]:
        """Keep what a judged request reports. Returns the rows with the version of leases and the floor counter."""
        request, claims = opened.request, as_claims(opened)
        if request.fingerprint and generation.fingerprint:
            self.fingerprints.note(node, generation, request.fingerprint, self.now())
        self.seen.note_mode(node, generation.number, development=request.development)
        self.trust_reports.note(generation, claims.trust_version, self._issuer(opened))
        generation = await self.statements.note_lease_version(generation, request.lease_version)
        return await self.statements.note_floor(node, generation, claims.floor), generation

    def _issuer(self, opened: OpenedRequest) -> str:
        """The key id of the CA of the device certificate in a request; empty without a valid certificate."""
        der, trust = opened.request.device_certificate, self.current_trust.trust
        try:
            return read_device_certificate(der, trust.node_issuers, trust.trust_domain, self.now()).issuer
        except CertificateRefused:
            return ""

    def check_contacts(self, opened: OpenedRequest, generation: GenerationRow) -> None:
        """Check that the node has not contacted the cloud since it made the request. Raises AirgapOutdated."""
        kept = self.seen.kept(generation.id)
        holders = read_holders(kept.holders if kept is not None else generation.holders)
        if holders is not None:
            last = holders.current.last
            check_latest(opened, Moment(last.at, last.clock), f"the node's contact at {last.at:%Y-%m-%d %H:%M} UTC")

    async def _judge_evidence(self, opened: OpenedRequest, node: NodeRow, generation: GenerationRow) -> None:
        """Step 5. Raises ProofRefused, FingerprintRefused, QuoteRefused."""
        if opened.request.clock.tpm is msgspec.UNSET and not without_tpm(node, generation):
            raise ProofRefused("the request has no clock of the TPM")
        self.fingerprints.check(node, generation, opened.request.fingerprint)
        quote = opened.file.pcr_quote
        await self.pcr_quotes.of_contact(node, generation, quote, opened.certified, self.now())

    async def _renewed(self, opened: OpenedRequest, node: NodeRow, generation: GenerationRow) -> tuple[bytes, ...]:
        """A new device certificate and the certificate of its CA, if the node's is due; empty if it is not.

        A repeat gets the same certificate, because the id of the request names the order at the issuer.
        Raises CertificateRefused, CsrRefused, ActivationClosed, IssuerUnavailable.
        """
        request, now = opened.request, self.now()
        if not self._renews(opened, node, generation):
            return ()
        not_after = statements.device_not_after(statements.terms_of(node.tier, node.lease), now)
        with issuer_refusals_of("renewal"):
            certificate = await self.issuer.issue_device(
                request.request, node.tenant, node.id, generation.number, request.csr, not_after
            )
        return certificate.certificate_chain

    def _renews(self, opened: OpenedRequest, node: NodeRow, generation: GenerationRow) -> bool:
        """Whether the answer has a new device certificate. Raises CertificateRefused, CsrRefused."""
        csr = opened.request.csr
        if not csr or not self._is_due(opened, node, generation, self.now()):
            return False
        try:
            check_request(csr, generation.node_public_key)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        check_no_attributes(csr)
        return True

    def _is_due(self, opened: OpenedRequest, node: NodeRow, generation: GenerationRow, now: datetime) -> bool:
        """Whether the device certificate in the request is due, or a renewal order replaces it. True without one.

        It is also due if it would not outlive the lease that is signed now by DEVICE_LIFE_AFTER_TERMINATION: the node
        cannot renew it before the next visit. Raises CertificateRefused for a certificate of another generation.
        """
        request = opened.request
        if not request.device_certificate:
            return True
        claim = self.renewals.claim(request.device_certificate, now)
        device = claim.device
        if not _is_of(device, opened):
            raise CertificateRefused("the device certificate in the request is not of this generation")
        order = self.current_trust.order
        terms = statements.terms_of(node.tier, node.lease)
        lives_until = now + timedelta(seconds=terms.terminate_seconds) + DEVICE_LIFE_AFTER_TERMINATION
        if claim.due or device.not_after < lives_until:
            return True
        begins = x509.load_der_x509_certificate(request.device_certificate).not_valid_before_utc
        return order is not None and order.starts_at <= now and begins < order.after


def _serial(der: bytes) -> str:
    """The serial number (hex) of a certificate in DER."""
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"


def _is_of(device: Device, opened: OpenedRequest) -> bool:
    """Whether a device certificate is of the node, generation and key of a request."""
    request, spiffe = opened.request, device.spiffe
    named = (spiffe.tenant, spiffe.node, device.generation, device.spki)
    return named == (request.tenant, request.node, request.generation, request.public_key)
