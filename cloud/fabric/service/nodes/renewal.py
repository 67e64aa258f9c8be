"""Renewal with fresh evidence: challenge, proof, device certificate, all within one confirmed generation.

For a node whose device certificate has expired or is by a CA that has left the trust, and for one that changes its
key (section 6 of the design). Not for a certificate that still opens sessions under the same key: that is renewed
over a session, at the issuer. The certificate shown only says who is meant; what admits is the chip that answers the
challenge, by the endorsement and attestation key that the generation was activated with.

Rules: nothing about an existing node is changed or told before the chip has released the secret, and whatever does
not fit is answered alike until then. No generation is opened here; a closed one gets its revocation and nothing else.
The generation's key changes in the transaction that stores the new certificate: until then the old one counts.
"""

import hmac
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from cloud.fabric.attestation.evidence import SECRET_BYTES, NodeKey
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.errors import (
    ActivationClosed,
    CertificateRefused,
    ChallengeExpired,
    ChallengeFailed,
    Conflict,
    CsrRefused,
    IssuerRefused,
    NotFound,
    TooManyChallenges,
    evidence_error,
)
from cloud.fabric.licensing import statements
from cloud.fabric.service.context import ANONYMOUS, SYSTEM, Core, check_nonce_form, check_text
from cloud.fabric.service.nodes import statement_stream
from cloud.fabric.service.nodes.activation import tenant_trust
from cloud.fabric.service.nodes.sessions import Device, device_of, read_device_certificate
from cloud.fabric.store.rows import GenerationRow, NodeRow, RenewalRow
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
STARTS_PER_CERTIFICATE_MAX = 10
STARTS_MAX = 1200
STARTS_PERIOD = timedelta(minutes=1)
"""What one process lets through to the database in such a time, for one certificate and in all: twenty a second are a
quarter of a million machines in the four hours after a long outage. Certificates that no published CA signed, which
anybody can make in any node's name, have a count in all of their own: they take nobody else's place."""
_WINDOW, _PROVEN, _CLAIMED = "window", "proven", "claimed"
_DAY = timedelta(days=1)
_UNKNOWN = "the device certificate and the evidence are not of a machine and generation here"


class _Claim(msgspec.Struct, frozen=True):
    """Whom a device certificate names. `due`: it opens no session, or is in the last third of its life.

    `proven` names the certificate if a published CA signed it, within its dates or not; else it is empty.
    """

    device: Device
    due: bool
    proven: str


async def start(core: Core, body: StartRenewal) -> RenewalChallenge:
    """A challenge to the chip of the generation that the certificate names.

    1 the certificate reads and is a device certificate of our trust domain; 2 not too many ask; 3 node, generation and
    attestation key belong together, and the generation was confirmed; 4 the evidence names a chip that the tenant
    admits, as in an activation; 5 it is the node's; 6 not too many challenges are open. Whom the tenant admits is told
    to nobody who does not know a key of the node's chip.
    Raises CertificateRefused, TooManyChallenges, EvidenceNotAccepted, TierNotAllowed, Invalid.
    """
    check_text("agent_version", body.agent_version)
    now = core.now()
    claim = _claim(core, body.device_certificate, now)
    spiffe = claim.device.spiffe
    _count_start(core, claim.proven, now)
    tenant = await core.stores.tenants.find(spiffe.tenant)
    if tenant is None:
        raise CertificateRefused(_UNKNOWN)
    node = await _known(core, claim.device, body.evidence.ak_public)
    trust = await tenant_trust(core, tenant)
    secret = core.entropy(SECRET_BYTES)
    try:
        chip = core.verifier.judge(body.evidence, trust, now)
        blob, encrypted = core.verifier.make_challenge(chip, body.evidence.ak_public, secret)
    except EvidenceRefused as error:
        raise evidence_error(error) from error
    if not hmac.compare_digest(node.ek_hash, core.ek_hash(tenant.id, chip.ek_name)):
        raise CertificateRefused(_UNKNOWN)
    row = RenewalRow(
        id=RenewalId(core.ids.make("ren", now)),
        node=spiffe.node,
        tenant=tenant.id,
        generation=claim.device.generation,
        state="challenged",
        tries=0,
        secret_hash=sha256_hex(secret),
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
        async with core.stores.transaction():
            if await core.stores.renewals.count_open(row.node, now) >= OPEN_PER_NODE_MAX:
                raise TooManyChallenges("too many renewals of this machine are open")
            await core.stores.renewals.insert(row)
            await core.audit(
                ANONYMOUS, "renewal.challenged", row.node, row.tenant, renewal=row.id, generation=row.generation
            )
    return RenewalChallenge(row.id, blob, encrypted, row.expires_at, CHALLENGE_TRIES_MAX)


def _claim(core: Core, der: bytes, now: datetime) -> _Claim:
    """Step 1. A certificate by a CA that has left the trust, or past its dates, still says who is meant."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as error:
        raise CertificateRefused("the device certificate cannot be read") from error
    device = device_of(certificate, core.trust_domain)
    try:
        issuer = key_id_of(require_issuer(certificate, core.node_issuers))
    except PeerRefused:
        return _Claim(device, due=True, proven="")
    proven = f"{issuer}.{certificate.serial_number:x}"
    try:
        read_device_certificate(der, core.node_issuers, core.trust_domain, now)
    except CertificateRefused:
        return _Claim(device, due=True, proven=proven)
    return _Claim(device, due=now >= begins + (ends - begins) * 2 / 3, proven=proven)


def _count_start(core: Core, proven: str, now: datetime) -> None:
    """Step 2, before the database is asked; who is refused takes no place. Raises TooManyChallenges."""
    starts, none = core.renewal_starts, (now, 0)
    if not timedelta(0) <= now - starts.get(_WINDOW, none)[0] < STARTS_PERIOD:
        starts.clear()
    starts.setdefault(_WINDOW, none)
    bounds = {proven: STARTS_PER_CERTIFICATE_MAX, _PROVEN: STARTS_MAX} if proven else {_CLAIMED: STARTS_MAX}
    counts = {key: starts.get(key, none)[1] for key in bounds}
    if any(counts[key] >= most for key, most in bounds.items()):
        raise TooManyChallenges("too many renewals are asked for")
    starts.update({key: (now, count + 1) for key, count in counts.items()})


async def _known(core: Core, device: Device, ak_public: bytes) -> NodeRow:
    """Step 3; one answer for whatever does not fit. Raises CertificateRefused."""
    node = await core.stores.nodes.find(device.spiffe.node)
    generation = await core.stores.nodes.find_generation(device.spiffe.node, device.generation)
    if (
        node is None
        or generation is None
        or node.tenant != device.spiffe.tenant
        or not hmac.compare_digest(generation.ak_public, ak_public)
        or generation.confirmed_at is None
    ):
        raise CertificateRefused(_UNKNOWN)
    return node


async def prove(core: Core, renewal: RenewalId, body: ProveRenewal, body_sha256: str) -> Renewed:
    """The answer to the challenge; a byte-identical repeat (`body_sha256`) carries on or gets the stored answer.

    Raises NotFound, Invalid, Challenge*, GenerationClosed, EvidenceNotAccepted, CsrRefused, Conflict, ActivationClosed,
    TooManyChallenges, IssuerUnavailable.
    """
    row = await core.stores.renewals.find(renewal)
    if row is None:
        raise NotFound("no such renewal")
    check_nonce_form(body.answer_nonce)
    if row.state == "challenged":
        await _check_answer(core, row, body)
        generation = await _open(core, row, body.answer_nonce)
        key = _verified_key(core, row, generation, body)
        row = await _reserve(core, row, body, key, body_sha256)
    if row.state not in ("proved", "issued", "done") or not hmac.compare_digest(row.proof_hash, body_sha256):
        raise ActivationClosed("this renewal has ended, or was proved with another request")
    generation = await _open(core, row, body.answer_nonce)
    if row.state == "proved":
        row = await _issue(core, row)
        # The issuer may have taken seconds: what was closed meanwhile is told, not handed out.
        generation = await _open(core, row, body.answer_nonce)
    if generation.node_public_key != row.node_public_key:
        raise ActivationClosed("a later renewal has changed the key since")
    return Renewed(row.certificate_chain)


async def _check_answer(core: Core, row: RenewalRow, body: ProveRenewal) -> None:
    """The time and the secret; a wrong one is counted, the last one ends the renewal."""
    if core.now() >= row.expires_at:
        raise ChallengeExpired
    if hmac.compare_digest(sha256_hex(body.secret), row.secret_hash):
        return
    with fault_point("fabric.renewal.answer"):
        async with core.stores.transaction():
            tries = await core.stores.renewals.count_wrong_answer(row.id)
            if tries is None:
                raise ActivationClosed("this renewal has ended")
            left = max(0, CHALLENGE_TRIES_MAX - tries)
            await core.audit(
                ANONYMOUS, "renewal.answered", row.node, row.tenant, "refused", renewal=row.id, tries_left=left
            )
    raise ChallengeFailed(f"this is not the secret of the challenge; tries left: {left}")


async def _rows(core: Core, row: RenewalRow) -> tuple[NodeRow, GenerationRow]:
    node = await core.stores.nodes.find(row.node)
    generation = await core.stores.nodes.find_generation(row.node, row.generation)
    if node is None or generation is None:
        raise NotFound("no such renewal")
    return node, generation


async def _open(core: Core, row: RenewalRow, answer_nonce: str) -> GenerationRow:
    """The generation, unless it is closed: that is told with the signed revocation. Raises GenerationClosed."""
    node, generation = await _rows(core, row)
    if statement_stream.is_closed(node, generation):
        raise statement_stream.closed(core, generation, answer_nonce, core.now())
    return generation


def _verified_key(core: Core, row: RenewalRow, generation: GenerationRow, body: ProveRenewal) -> NodeKey:
    """The certified key, by the attestation key that is stored; the same one only when the certificate is due."""
    try:
        key = core.verifier.verify_key(body.key, generation.ak_public, body.secret, row.id, body.csr)
    except EvidenceRefused as error:
        raise evidence_error(error) from error
    if list(x509.load_der_x509_csr(body.csr).attributes):
        raise CsrRefused("the certificate request wishes for extensions or attributes; send none")
    if not row.expired and key.spki == generation.node_public_key:
        raise Conflict("the device certificate is not due: renew it over a session")
    return key


async def _reserve(core: Core, row: RenewalRow, body: ProveRenewal, key: NodeKey, body_sha256: str) -> RenewalRow:
    """One transaction: the proof that claims the renewal, while the generation is open and the day's bound holds."""
    with fault_point("fabric.renewal.prove"):
        async with core.stores.transaction():
            fresh = await core.stores.renewals.find(row.id)
            if fresh is None:
                raise NotFound("no such renewal")
            if fresh.state != "challenged":
                return fresh
            node, generation = await _rows(core, fresh)
            if statement_stream.is_closed(node, generation):
                raise statement_stream.closed(core, generation, body.answer_nonce, core.now())
            now = core.now()
            if await core.stores.renewals.count_proved(node.id, now - _DAY) >= PROVED_PER_DAY_MAX:
                raise TooManyChallenges("this machine was renewed too often in a day")
            proved = msgspec.structs.replace(
                fresh,
                state="proved",
                proof_hash=body_sha256,
                csr=body.csr,
                node_public_key=key.spki,
                not_after=statements.device_not_after(statements.terms_of(node.tier, node.lease), now),
            )
            if not await core.stores.renewals.set_proved(proved):
                raise ActivationClosed("this renewal has ended")
            await core.audit(
                ANONYMOUS,
                "renewal.proved",
                node.id,
                node.tenant,
                renewal=row.id,
                generation=row.generation,
                key="same" if key.spki == generation.node_public_key else "changed",
            )
    return proved


async def _issue(core: Core, row: RenewalRow) -> RenewalRow:
    """Have the certificate made and store it with the key it is of; every part may be a repeat."""
    if row.not_after is None:
        raise ActivationClosed("this renewal has ended")
    try:
        certificate = await core.issuer.issue_device(
            row.id, row.tenant, row.node, row.generation, row.csr, row.not_after
        )
    except IssuerRefused as error:
        if error.code == "csr_refused":
            raise CsrRefused(error.detail) from error
        if error.code in ("conflict", "generation_closed"):
            raise ActivationClosed("the generation of this renewal was closed meanwhile") from error
        raise
    with fault_point("fabric.renewal.store"):
        async with core.stores.transaction():
            # The key as it is now: another renewal may have changed it while the issuer worked.
            _, generation = await _rows(core, row)
            rekeyed = row.node_public_key != generation.node_public_key
            if await core.stores.renewals.set_issued(row.id, certificate.certificate_chain, rekeyed=rekeyed):
                await core.stores.renewals.set_key(row.node, row.generation, row.node_public_key, row.not_after)
                await core.audit(
                    ANONYMOUS,
                    "renewal.issued",
                    row.node,
                    row.tenant,
                    renewal=row.id,
                    generation=row.generation,
                    key="changed" if rekeyed else "same",
                )
    core.kick()
    fresh = await core.stores.renewals.find(row.id)
    if fresh is None or fresh.state not in ("issued", "done"):
        raise ActivationClosed("this renewal has ended meanwhile")
    return fresh


async def supersede(core: Core, row: RenewalRow) -> None:
    """Have the issuer revoke what it made for the keys before the one in force. Raises IssuerUnavailable, IssuerRefused."""
    _, generation = await _rows(core, row)
    await core.issuer.supersede_keys(row.tenant, row.node, row.generation, sha256_hex(generation.node_public_key))
    with fault_point("fabric.keys.superseded"):
        async with core.stores.transaction():
            if await core.stores.renewals.set_done(row.id):
                await core.audit(
                    SYSTEM, "renewal.superseded", row.node, row.tenant, renewal=row.id, generation=row.generation
                )
