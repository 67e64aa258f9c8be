"""Renewal of the device certificate: over a session while it counts, with fresh evidence once it does not.

`over_session` is EST at the issuer with the same key. `with_evidence` is the exchange of `protocol.messages.renewal`: for a
certificate that opens no session any more, and for a new key. Its proof is stored before it is sent, with the key
that it is for, so that a repeat after a crash or a lost answer gets the same certificate. A new key stands beside the
one in force until the cloud's answer has verified; the certificate that is stored then says which of them counts.
Nothing here decides when to renew (`licensing.schedule`), and no renewal changes the licence.
"""

import logging

from node.config import AGENT_VERSION
from node.disk.identity import PendingRenewal
from node.errors import StateDamaged
from node.exchanges import challenge
from node.exchanges.session import Credentials, SessionRefused, fresh_nonce
from node.hwbind import evidence, keys
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import EKU_DEVICE, STORED_CERTIFICATES, chain_of, check_chain
from node.state import Clock, State
from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.faults import fault_point
from protocol.ids import NodeSpiffeId
from protocol.messages.renewal import ProveRenewal, StartRenewal

log = logging.getLogger("cascadia.renewal")


async def over_session(state: State, licence: Licence, credentials: Credentials | None, tpm: Tpm, clock: Clock) -> None:
    """A new device certificate for the same key. Raises NodeError, TpmError."""
    identity = licence.identity
    node_key = identity.node_key
    if credentials is None:
        raise api.CloudUnreachable("cannot renew the device certificate: there is no session with the cloud")
    csr = await tpm.run(lambda esys: keys.certificate_request(esys, node_key))
    service = credentials.connect(licence.trust, "breakwater")
    try:
        # Named for the certificate that it follows: after a lost answer the repeat gets the same successor.
        with fault_point("node.device.send"):
            leaf = await service.reenroll(csr, f"renew-{sha256_hex(identity.chain[0])}")
    finally:
        await service.aclose()
    _take(state, licence, chain_of(leaf, licence.trust.bundle), node_key, clock)


async def resume(state: State, licence: Licence, clock: Clock) -> bool:
    """Carry on a renewal with evidence whose proof was stored; False when there is none, or it has ended.

    Raises CloudUnreachable, ServerUnproven, CertificateRejected, SessionRefused, StateError.
    """
    pending = _pending(state, licence)
    if pending is None:
        return False
    try:
        await _finish(state, licence, pending, clock)
    except api.CloudRefused as refusal:
        log.warning("a renewal that was cut off has ended: %s", refusal.text)
        return False
    return True


async def with_evidence(state: State, licence: Licence, tpm: Tpm, clock: Clock, *, rekey: bool = False) -> None:
    """A new device certificate by the chip itself, for the same key or with `rekey` for a new one.

    Raises SessionRefused (the generation is closed: with the signed word), CloudRefused, CloudUnreachable,
    ServerUnproven, CertificateRejected, StateError, TpmError.
    """
    before = licence.identity.node_key
    if await resume(state, licence, clock) and (not rekey or licence.identity.node_key != before):
        return
    identity, trusted = licence.identity, licence.trust
    node_key = await tpm.run(keys.create_node_key) if rekey else identity.node_key
    endorsement = await tpm.run(lambda esys: evidence.endorsement_evidence(esys, identity.ak))
    service = api.connect(trusted.bundle, trusted.urls, "fabric")
    try:
        with fault_point("node.renewal.start"):
            made = await service.start_renewal(StartRenewal(identity.chain[0], endorsement, AGENT_VERSION))
    finally:
        await service.aclose()
    answered = await challenge.answer(
        tpm,
        identity.ak,
        node_key,
        exchange=made.renewal,
        credential_blob=made.credential_blob,
        encrypted_secret=made.encrypted_secret,
    )
    proof = ProveRenewal(answered.secret, answered.csr, answered.key, fresh_nonce())
    pending = PendingRenewal(
        generation=identity.generation, renewal=made.renewal, node_key=node_key, proof=json_encode(proof)
    )
    state.identities.save_renewal(pending)
    await _finish(state, licence, pending, clock)


def _pending(state: State, licence: Licence) -> PendingRenewal | None:
    """The renewal under way, if it is of this generation. One that cannot be read holds nothing that counts."""
    try:
        pending = state.identities.load_renewal()
    except StateDamaged as damage:
        log.warning("%s; a renewal begins anew", damage.text)
    else:
        if pending is None or pending.generation == licence.identity.generation:
            return pending
    state.identities.clear_renewal()
    return None


async def _finish(state: State, licence: Licence, pending: PendingRenewal, clock: Clock) -> None:
    """Send the stored proof; verify everything of the answer; only then does key or certificate change."""
    service = api.connect(licence.trust.bundle, licence.trust.urls, "fabric")
    try:
        with fault_point("node.renewal.prove"):
            answer = await service.prove_renewal(pending.renewal, pending.proof)
    except api.CloudRefused as refusal:
        # Whatever the reason, this proof gets nothing any more.
        state.identities.clear_renewal()
        if refusal.problem.statement:
            raise SessionRefused(refusal, json_decode(pending.proof, ProveRenewal).answer_nonce) from refusal
        raise
    finally:
        await service.aclose()
    _take(state, licence, answer.certificate_chain, pending.node_key, clock)
    state.identities.clear_renewal()


def _take(state: State, licence: Licence, chain: tuple[bytes, ...], node_key: WrappedKey, clock: Clock) -> None:
    """Put a verified certificate, and its key where that is new, in the place of the one in force."""
    identity, bundle = licence.identity, licence.trust.bundle
    check_chain(
        chain,
        bundle,
        spiffe=NodeSpiffeId(bundle.trust_domain, identity.tenant, identity.node),
        generation=identity.generation,
        usage=EKU_DEVICE,
        public_key=node_key.public_key(),
        now=clock(),
    )
    stored = chain[:STORED_CERTIFICATES]
    state.identities.replace_device_chain(identity.generation, stored, node_key)
    licence.renewed(stored, node_key)
