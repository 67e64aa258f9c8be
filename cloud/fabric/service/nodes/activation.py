"""Activation: challenge, proof, device certificate (section 5 of the design). Confirming is `confirm`.

Nothing about an existing node is changed or told before the chip has released the secret. Every step is a durable
state, so a crash between two leaves an activation that the same proof carries on, or that lapses.
"""

import hmac

import msgspec
from cryptography import x509

from cloud.fabric.attestation.ek_roots import trusted_roots
from cloud.fabric.attestation.ek_trust import TenantTrust
from cloud.fabric.attestation.evidence import SECRET_BYTES, NodeKey
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.errors import (
    ActivationClosed,
    ChallengeExpired,
    ChallengeFailed,
    CodeExpired,
    CodeRefused,
    CodeRevoked,
    CsrRefused,
    IssuerRefused,
    NotFound,
    SeatsExhausted,
    TooManyChallenges,
    evidence_error,
)
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.standing import check_admission
from cloud.fabric.service.context import ANONYMOUS, Core, check_fingerprint, check_text
from cloud.fabric.service.nodes import lapse
from cloud.fabric.store.rows import ActivationRow, CodeRow, GenerationRow, NodeRow, TenantRow, generation_id
from protocol.codes import SecretFormatError, parse_secret, secret_hash
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import ActivationId, CodeId, NodeId
from protocol.limits import CHALLENGE_LIFE, CHALLENGE_TRIES_MAX, CHALLENGES_OPEN_PER_CODE_MAX
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation

PENDING_PER_NODE_MAX = 16
"""Unconfirmed activations of one chip: who has a code cannot have generations made for it without end."""


async def start(core: Core, body: StartActivation) -> Challenge:
    """A challenge to the chip. Raises Invalid, Code*, TooManyChallenges, EvidenceNotAccepted, TierNotAllowed."""
    check_text("agent_version", body.agent_version)
    code = await _open_code(core, body.code)
    tenant = await core.stores.tenants.find(code.tenant)
    if tenant is None:
        raise CodeRefused
    now = core.now()
    trust = await tenant_trust(core, tenant)
    secret = core.entropy(SECRET_BYTES)
    try:
        chip = core.verifier.judge(body.evidence, trust, now)
        blob, encrypted = core.verifier.make_challenge(chip, body.evidence.ak_public, secret)
    except EvidenceRefused as error:
        raise evidence_error(error) from error
    row = ActivationRow(
        id=ActivationId(core.ids.make("act", now)),
        tenant=tenant.id,
        code=code.id,
        state="challenged",
        tries=0,
        secret_hash=sha256_hex(secret),
        ek_hash=core.ek_hash(tenant.id, chip.ek_name),
        ak_public=body.evidence.ak_public,
        tier=chip.tier,
        agent_version=body.agent_version,
        created_at=now,
        expires_at=now + CHALLENGE_LIFE,
        node=NodeId(""),
        generation=0,
        proof_hash="",
        csr=b"",
        not_after=None,
        confirm_by=None,
        certificate_chain=(),
    )
    with fault_point("fabric.activation.challenge"):
        async with core.stores.transaction():
            if await core.stores.activations.count_open(code.id, now) >= CHALLENGES_OPEN_PER_CODE_MAX:
                raise TooManyChallenges("too many challenges of this code are open")
            await core.stores.activations.insert(row)
            await core.audit(ANONYMOUS, "activation.challenged", row.id, tenant.id, code=code.id, tier=chip.tier)
    return Challenge(row.id, blob, encrypted, tenant.fingerprint_salt, row.expires_at, CHALLENGE_TRIES_MAX)


async def tenant_trust(core: Core, tenant: TenantRow) -> TenantTrust:
    """Whom the tenant believes, as the verifier wants it."""
    roots = await core.stores.tenants.roots(tenant.id)
    allowed = await core.stores.tenants.allowed(tenant.id)
    return TenantTrust(
        roots=trusted_roots((root.certificate, root.ek_type) for root in roots),
        allowed_ek_names=frozenset(entry.ek_name for entry in allowed),
        tiers=frozenset(tenant.tiers),
    )


async def _open_code(core: Core, text: str) -> CodeRow:
    """Unknown and malformed codes are answered alike; the checksum stands before the database."""
    try:
        secret = parse_secret("cac", text)
    except SecretFormatError as error:
        raise CodeRefused from error
    code = await core.stores.codes.find_by_hash(secret_hash(secret))
    if code is None:
        raise CodeRefused
    _check_usable(core, code)
    return code


def _check_usable(core: Core, code: CodeRow) -> None:
    if code.revoked_at is not None:
        raise CodeRevoked
    if code.expires_at <= core.now():
        raise CodeExpired


async def prove(core: Core, activation: ActivationId, body: ProveActivation, body_sha256: str) -> Activated:
    """The answer to the challenge; a byte-identical repeat (`body_sha256`) carries on or gets the stored answer.

    Raises NotFound, Invalid, Challenge*, ActivationClosed, EvidenceNotAccepted, CsrRefused, Code*, SeatsExhausted,
    NodeRevoked, TooManyChallenges, IssuerUnavailable.
    """
    row = await core.stores.activations.find(activation)
    if row is None:
        raise NotFound("no such activation")
    if row.state == "challenged":
        await _check_answer(core, row, body)
        key = _verified_key(core, row, body)
        row = await _reserve(core, row, body, key, body_sha256)
    if row.state not in ("proved", "issued", "confirmed") or not hmac.compare_digest(row.proof_hash, body_sha256):
        raise ActivationClosed("this activation has ended, or was proved with another request")
    if row.state == "proved":
        row = await _issue(core, row)
    return _answer(row)


async def _check_answer(core: Core, row: ActivationRow, body: ProveActivation) -> None:
    """The form of the proof, the time, and the secret; a wrong one is counted, the last one ends the activation."""
    check_fingerprint(body.fingerprint)
    if core.now() >= row.expires_at:
        raise ChallengeExpired
    if hmac.compare_digest(sha256_hex(body.secret), row.secret_hash):
        return
    with fault_point("fabric.activation.answer"):
        async with core.stores.transaction():
            tries = await core.stores.activations.count_wrong_answer(row.id)
            if tries is None:
                raise ActivationClosed("this activation has ended")
            left = max(0, CHALLENGE_TRIES_MAX - tries)
            await core.audit(ANONYMOUS, "activation.answered", row.id, row.tenant, "refused", tries_left=left)
    raise ChallengeFailed(f"this is not the secret of the challenge; tries left: {left}")


def _verified_key(core: Core, row: ActivationRow, body: ProveActivation) -> NodeKey:
    try:
        key = core.verifier.verify_key(body.key, row.ak_public, body.secret, row.id, body.csr)
    except EvidenceRefused as error:
        raise evidence_error(error) from error
    if list(x509.load_der_x509_csr(body.csr).attributes):
        # The issuer refuses it too, but only after a seat and a generation were spent on it.
        raise CsrRefused("the certificate request wishes for extensions or attributes; send none")
    return key


async def _reserve(
    core: Core, row: ActivationRow, body: ProveActivation, key: NodeKey, body_sha256: str
) -> ActivationRow:
    """One transaction: the node found or made, its seat, its next generation, and the proof that claims them."""
    with fault_point("fabric.activation.prove"):
        async with core.stores.transaction():
            fresh = await core.stores.activations.find(row.id)
            code = await core.stores.codes.find(row.code)
            if fresh is None or code is None:
                raise NotFound("no such activation")
            if fresh.state != "challenged":
                return fresh
            _check_usable(core, code)
            node, is_new = await _node_for(core, fresh, code)
            if await core.stores.activations.count_live(node.id) >= PENDING_PER_NODE_MAX:
                raise TooManyChallenges("too many activations of this machine wait to be confirmed")
            if not node.seat_held:
                if not await core.stores.codes.take_seat(code.id):
                    raise SeatsExhausted(f"all {code.seats} seats of this code are taken")
                node = msgspec.structs.replace(node, seat_held=True, code=code.id)
            number = node.last_generation + 1
            node = msgspec.structs.replace(node, last_generation=number)
            await (core.stores.nodes.insert(node) if is_new else core.stores.nodes.update(node))
            await core.stores.nodes.insert_generation(_offered(core, fresh, body, key, node.id, number))
            now = core.now()
            terms = statements.terms_of(fresh.tier, code.lease)
            proved = msgspec.structs.replace(
                fresh,
                state="proved",
                node=node.id,
                generation=number,
                proof_hash=body_sha256,
                csr=body.csr,
                not_after=statements.device_not_after(terms, now),
                confirm_by=now + core.confirm_within,
            )
            if not await core.stores.activations.set_proved(proved):
                raise ActivationClosed("this activation has ended")
            await core.audit(
                ANONYMOUS, "activation.proved", node.id, node.tenant, activation=row.id, code=code.id, generation=number
            )
    return proved


async def _node_for(core: Core, row: ActivationRow, code: CodeRow) -> tuple[NodeRow, bool]:
    """The node of this chip, admitted, or a new one. Raises CodeRefused, NodeRevoked."""
    node = await core.stores.nodes.find_by_ek(row.ek_hash)
    made_for_it = code.readmit_node is not None and node is not None and code.readmit_node == node.id
    if code.readmit_node is not None and not made_for_it:
        raise CodeRefused
    if node is not None:
        check_admission(node.standing, node.standing_at, made_for_this_node=made_for_it, code_made_at=code.created_at)
        return node, False
    now = core.now()
    return NodeRow(
        id=NodeId(core.ids.make("node", now)),
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
        epoch=core.epoch,
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
    ), True


def _offered(
    core: Core, row: ActivationRow, body: ProveActivation, key: NodeKey, node: NodeId, number: int
) -> GenerationRow:
    return GenerationRow(
        id=generation_id(node, number),
        node=node,
        number=number,
        state="offered",
        node_public_key=key.spki,
        ak_public=row.ak_public,
        fingerprint=body.fingerprint,
        agent_version=row.agent_version,
        created_at=core.now(),
        confirmed_at=None,
        certificate_not_after=None,
        statement="",
        statement_type="",
        seq=0,
        issued_at=None,
        refresh_after=None,
        terminate_at=None,
        told_at=None,
    )


async def _issue(core: Core, row: ActivationRow) -> ActivationRow:
    """Open the generation at Breakwater, have the certificate made, store it; every part may be a repeat."""
    if row.not_after is None:
        raise ActivationClosed("this activation has ended")
    try:
        await core.issuer.open_generation(row.tenant, row.node, row.generation)
        certificate = await core.issuer.issue_device(
            row.id, row.tenant, row.node, row.generation, row.csr, row.not_after
        )
    except IssuerRefused as error:
        if error.code == "csr_refused":
            await lapse.begin(core, row)
            raise CsrRefused(error.detail) from error
        if error.code in ("conflict", "generation_closed"):
            raise ActivationClosed("the generation of this activation was closed meanwhile") from error
        raise
    with fault_point("fabric.activation.store"):
        async with core.stores.transaction():
            if await core.stores.activations.set_issued(row.id, certificate.certificate_chain):
                await core.stores.nodes.set_certificate_end(row.node, row.generation, row.not_after)
                await core.audit(
                    ANONYMOUS, "activation.issued", row.node, row.tenant, activation=row.id, generation=row.generation
                )
    fresh = await core.stores.activations.find(row.id)
    if fresh is None or fresh.state not in ("issued", "confirmed"):
        raise ActivationClosed("this activation has ended meanwhile")
    return fresh


def _answer(row: ActivationRow) -> Activated:
    if row.confirm_by is None:
        raise ActivationClosed("this activation has ended")
    return Activated(row.tenant, row.node, row.generation, row.certificate_chain, row.confirm_by)
