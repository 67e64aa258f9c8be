"""Sessions: a device certificate and a proof by the TPM's key, for a session certificate (section 5 of the design).

One exchange is log-in and start-up settling: the answer carries the node's current statement. Only a closed
generation is refused for its standing, and gets its revocation; a suspended node keeps its sessions.
"""

from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from cloud.fabric import nonce
from cloud.fabric.errors import CertificateRefused, CsrRefused, IssuerRefused, IssuerUnavailable, ProofRefused, Refused
from cloud.fabric.service.context import Core, check_fingerprint, check_nonce_form, check_text
from cloud.fabric.service.nodes import statement, statement_stream
from cloud.fabric.service.published_trust import adoption
from cloud.fabric.store.nodes import Seen
from cloud.fabric.store.rows import GenerationRow, NodeRow, generation_id
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer, spiffe_of
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import EKU_DEVICE, IdError, NodeSpiffeId, parse_generation
from protocol.limits import NONCE_LIFE
from protocol.messages.sessions import Nonce, OpenSession, ProofClaims, ProofError, Session, StatementAnswer, open_proof

PATH_SESSIONS = "/v1/node/sessions"
REFUSALS_AUDITED_MAX = 20
REFUSALS_PERIOD = timedelta(hours=1)
"""Refused proofs of one generation that are written down in such a time; a node that is merely wrong makes a few."""
_EKU_DEVICE = x509.ObjectIdentifier(EKU_DEVICE)


class Device(msgspec.Struct, frozen=True):
    """What a verified device certificate says."""

    spiffe: NodeSpiffeId
    generation: int
    spki: bytes
    not_after: datetime
    issuer: str = ""
    """The key id of the CA that issued it; empty where the issuer was not judged."""


def make_nonce(core: Core) -> Nonce:
    """A nonce for a session proof; no row is kept of it."""
    now = core.now()
    return Nonce(nonce.make_nonce(core.nonce_key, now, core.entropy(nonce.SALT_BYTES)), now + NONCE_LIFE)


def read_device_certificate(
    der: bytes, issuers: tuple[x509.Certificate, ...], trust_domain: str, now: datetime
) -> Device:
    """Verify a device certificate.

    1 it reads; 2 issued by a nodes' CA of ours, itself within its dates (RFC 5280 section 6.1); 3 within its own
    dates; 4 its one extended key usage is the device OID, so a session certificate does not pass; 5 one SPIFFE id,
    of a node of our trust domain; 6 the subject names that node and a generation. Raises CertificateRefused.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer = require_issuer(certificate, tuple(ca for ca in issuers if _covers(ca, now)))
    except PeerRefused as error:
        raise CertificateRefused(error.detail) from error
    except ValueError as error:
        raise CertificateRefused("the device certificate cannot be read") from error
    if not _covers(certificate, now):
        raise CertificateRefused("the device certificate is not valid at this time")
    return msgspec.structs.replace(device_of(certificate, trust_domain), issuer=key_id_of(issuer))


def device_of(certificate: x509.Certificate, trust_domain: str) -> Device:
    """What a device certificate says, steps 4 to 6; neither issuer nor dates are judged. Raises CertificateRefused."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if list(usages) != [_EKU_DEVICE]:
            raise CertificateRefused("this is not a device certificate (extended key usage)")
        spiffe = spiffe_of(certificate)
        if not isinstance(spiffe, NodeSpiffeId) or spiffe.trust_domain != trust_domain:
            raise CertificateRefused("the SPIFFE id is not one of a node here")
        names = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        numbers = [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
        if names != [spiffe.node] or len(numbers) != 1:
            raise CertificateRefused("the subject does not name the node and its generation")
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return Device(spiffe, parse_generation(numbers[0]), spki, certificate.not_valid_after_utc)
    except PeerRefused as error:
        raise CertificateRefused(error.detail) from error
    except (ValueError, IdError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise CertificateRefused("the device certificate cannot be read") from error


def _covers(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


async def open_session(core: Core, body: OpenSession) -> Session:
    """A session certificate for a proof; a repeated proof gets the same one.

    1-6 the device certificate, as `read_device_certificate`; 7 node and generation are known, and the certificate's
    key is the one stored for them; 8 the proof is signed by that key, as `protocol.messages.sessions.open_proof`; 9 it is for
    this node and generation; 10 for this method and our own URL; 11 for this CSR; 12 over a nonce of ours, not too
    old; 13 the generation is not closed.
    Raises CertificateRefused, ProofRefused, Invalid, GenerationClosed, CsrRefused, IssuerUnavailable.
    """
    now = core.now()
    device = read_device_certificate(body.device_certificate, core.node_issuers, core.trust_domain, now)
    node, generation = await _known(core, device)
    try:
        claims = _check_proof(core, body, device, now)
    except Refused as error:
        await _audit_refusal(core, device, error)
        raise
    await _refuse_closed(core, node, generation, claims.answer_nonce)
    chain = await _issue(core, body, device)
    await adoption.note_session(core, chain)
    # The issuer may have taken seconds: what was changed meanwhile counts, or an old lease would be called fresh.
    now = core.now()
    node, generation = await _known(core, device)
    await _refuse_closed(core, node, generation, claims.answer_nonce)
    core.seen[generation.id] = Seen(now, claims.fingerprint, claims.agent_version, device.not_after)
    adoption.note(core, generation, claims.trust_version, device.issuer)
    if generation.state == "offered":
        return Session(chain, StatementAnswer("", ""))
    generation = await statement.refreshed(core, node, generation, body.presented, now)
    return Session(chain, statement_stream.answer(core, generation, claims.answer_nonce, now))


async def _refuse_closed(core: Core, node: NodeRow, generation: GenerationRow, answer_nonce: str) -> None:
    """Step 13. Raises GenerationClosed."""
    if statement_stream.is_closed(node, generation):
        now = core.now()
        await _tell(core, node, generation, now)
        raise statement_stream.closed(core, generation, answer_nonce, now)


async def _known(core: Core, device: Device) -> tuple[NodeRow, GenerationRow]:
    node = await core.stores.nodes.find(device.spiffe.node)
    generation = await core.stores.nodes.find_generation(device.spiffe.node, device.generation)
    if node is None or generation is None or node.tenant != device.spiffe.tenant:
        raise CertificateRefused("this node or generation is not known here")
    if generation.node_public_key != device.spki:
        raise CertificateRefused("the certificate's key is not the key of this generation")
    return node, generation


def _check_proof(core: Core, body: OpenSession, device: Device, now: datetime) -> ProofClaims:
    """Steps 8 to 12."""
    try:
        claims = open_proof(body.proof, serialization.load_der_public_key(device.spki))
    except ProofError as error:
        raise ProofRefused("the proof is not signed by this generation's key") from error
    if (claims.tenant, claims.node, claims.generation) != (
        device.spiffe.tenant,
        device.spiffe.node,
        device.generation,
    ):
        raise ProofRefused("the proof is of another node or generation")
    if (claims.method, claims.url) != ("POST", core.public_url + PATH_SESSIONS):
        raise ProofRefused("the proof is for another request")
    if claims.csr_sha256 != sha256_hex(body.csr):
        raise ProofRefused("the proof is for another certificate request")
    try:
        nonce.check_nonce(core.nonce_key, claims.nonce, now)
    except nonce.NonceError as error:
        raise ProofRefused(str(error)) from error
    check_nonce_form(claims.answer_nonce)
    check_text("agent_version", claims.agent_version)
    check_fingerprint(claims.fingerprint)
    return claims


async def _audit_refusal(core: Core, device: Device, error: Refused) -> None:
    """A good certificate with a bad proof is worth a row; what is not from a node of ours is not.

    The certificate is no secret, so whoever has its file could fill the disk: a generation's rows are bounded.
    """
    now, key = core.now(), generation_id(device.spiffe.node, device.generation)
    began, count = core.refusals.get(key, (now, 0))
    if not timedelta(0) <= now - began < REFUSALS_PERIOD:
        began, count = now, 0
    core.refusals[key] = (began, count + 1)
    if count >= REFUSALS_AUDITED_MAX:
        return
    with fault_point("fabric.session.refuse"):
        async with core.stores.transaction():
            await core.audit(
                str(device.spiffe),
                "session.refused",
                device.spiffe.node,
                device.spiffe.tenant,
                "refused",
                generation=device.generation,
                reason=error.detail,
            )


async def _tell(core: Core, node: NodeRow, generation: GenerationRow, now: datetime) -> None:
    """Write down, once, that the node has asked and was given the revocation."""
    if generation.told_at is not None:
        return
    with fault_point("fabric.revocation.tell"):
        async with core.stores.transaction():
            if await core.stores.nodes.set_told(node.id, generation.number, now):
                await core.audit(
                    f"spiffe://{core.trust_domain}/tenant/{node.tenant}/node/{node.id}",
                    "revocation.told",
                    node.id,
                    node.tenant,
                    generation=generation.number,
                    seq=generation.seq,
                )


async def _issue(core: Core, body: OpenSession, device: Device) -> tuple[bytes, ...]:
    try:
        certificate = await core.issuer.issue_session(
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
        # A generation that the issuer has closed is closed here first; a repeat finds the rows that say so.
        raise IssuerUnavailable(str(error)) from error
    return certificate.certificate_chain
