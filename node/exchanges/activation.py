"""Activation of this machine: from an activation file to a confirmed generation (design, section 5).

It is repeatable at every point: what was proven is stored before it is sent, a repeat with the same file sends the
same bytes, and the same chip stays the same node. Nothing of the cloud is stored before it was verified, and the
generation in force stays in force until the new one is confirmed.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from node.config import AGENT_VERSION
from node.disk.files import read_bounded
from node.disk.identity import Identity, PendingActivation
from node.errors import NodeError, StateDamaged, StateError
from node.exchanges.challenge import answer
from node.exchanges.session import SessionRefused, fresh_nonce, open_session
from node.exits import Exit
from node.hwbind import evidence, fingerprint, keys
from node.hwbind.tpm import Tpm
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import EKU_DEVICE, STORED_CERTIFICATES, CertificateRejected, check_chain
from node.state import Clock, State
from node.trust import published
from node.trust.published import TrustSet
from protocol.codes import SecretFormatError, parse_secret
from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.faults import fault_point
from protocol.ids import NodeSpiffeId
from protocol.messages.activation import (
    ACTIVATION_FILE_FORMAT,
    Activated,
    ActivationFile,
    ProveActivation,
    StartActivation,
)
from protocol.messages.sessions import Ask

Say = Callable[[str], None]

ACTIVATION_FILE_BYTES_MAX = 16 * 1024
_OVER = frozenset({"challenge_expired", "challenge_failed", "activation_closed", "not_found"})
"""Refusals of a stored proof after which a new exchange may still succeed with the same file."""
_LAPSED = frozenset({"generation_closed", "conflict"})
"""The same of a confirmation that comes too late."""


class ActivationFileInvalid(NodeError):
    exit = Exit.USAGE
    code = "activation_file_invalid"
    next = "Ask your vendor for the file again; it is the one that `cascade code create` wrote."


class OtherNode(NodeError):
    """The state directory came from another machine, and its numbers are ahead of this machine's."""

    exit = Exit.HARDWARE_MISMATCH
    code = "state_of_another_node"
    next = "Move the state directory aside and run the same command again: no second seat is used."


class OtherCloud(NodeError):
    """The file is of another cloud than the generation in force; with its trust published that licence would end."""

    exit = Exit.VERIFICATION
    code = "state_of_another_cloud"
    next = "Use a file of the cloud that this machine belongs to, or move the state directory aside to leave it."


def read_activation_file(path: Path) -> tuple[ActivationFile, str]:
    """The file and the SHA-256 (hex) of its bytes. Raises ActivationFileInvalid."""
    try:
        raw = read_bounded(path, ACTIVATION_FILE_BYTES_MAX)
        parsed = json_decode(raw, ActivationFile)
        parse_secret("cac", parsed.code)
    except FileNotFoundError as error:
        raise ActivationFileInvalid(f"cannot read {path}: no such file") from error
    except StateError as error:
        raise ActivationFileInvalid(error.text) from error
    except (msgspec.MsgspecError, SecretFormatError) as error:
        raise ActivationFileInvalid(f"cannot use {path}: {error}") from error
    if parsed.format != ACTIVATION_FILE_FORMAT:
        raise ActivationFileInvalid(f"cannot use {path}: format {parsed.format} is not known to this version")
    return parsed, sha256_hex(raw)


async def activate(state: State, tpm: Tpm, path: Path, clock: Clock, say: Say) -> Licence:
    """Carry the activation to its end, from wherever it stands. The caller owns the state.

    Raises NodeError, TpmError. `say` is told each step for the person who waits.
    """
    file, file_sha256 = read_activation_file(path)
    say("fetching the published trust under the file's pin")
    trusted = await published.bootstrap(
        file.repository_url, file.pin, state.directory, admit=lambda verified: _check_cloud(state, verified)
    )
    licence = None
    identity = await _resume(state, trusted, file_sha256, clock, say)
    if identity is not None:
        licence = await _confirm_resumed(state, trusted, identity, tpm, clock, say)
    if licence is None:
        pending = await _prove(state, trusted, tpm, file, file_sha256, say)
        identity = await _fetch(state, trusted, pending, clock, say)
        say(f"confirming generation {identity.generation} of {identity.node}")
        licence = await confirm(state, trusted, identity, tpm, clock)
    state.identities.clear_activation()
    return licence


def _check_cloud(state: State, verified: TrustSet) -> None:
    """What is in force stays in force until its successor is: trust that knows nothing of it is refused.

    A root in common is enough, for they rotate one by one. Damaged trust vouches for nothing, so nothing is lost.
    Raises OtherCloud, StateError.
    """
    if state.identities.current_generation() is None:
        return
    with suppress(StateDamaged, published.TrustError):
        before = published.load(state.directory).bundle
        same = before.trust_domain == verified.bundle.trust_domain
        if not (same and set(before.roots) & set(verified.bundle.roots)):
            raise OtherCloud(f"cannot use this file: it is of another cloud than the licence in {state.directory}")


async def _confirm_resumed(
    state: State, trusted: TrustSet, identity: Identity, tpm: Tpm, clock: Clock, say: Say
) -> Licence | None:
    """The licence; None when the activation has lapsed meanwhile, or its generation was closed. Raises as `confirm`."""
    say(f"confirming generation {identity.generation} of {identity.node}")
    try:
        return await confirm(state, trusted, identity, tpm, clock)
    except api.CloudRefused as refusal:
        if refusal.code not in _LAPSED:
            raise
        say("that activation has ended; starting anew")
        return None


async def _resume(state: State, trusted: TrustSet, file_sha256: str, clock: Clock, say: Say) -> Identity | None:
    """The identity of an exchange that was interrupted, if there is one of this file and it can go on."""
    pending = state.identities.load_activation()
    if pending is None or pending.file_sha256 != file_sha256:
        return None
    # The current one: when it was cut off between the switch and the end, confirming again is harmless.
    reads: tuple[Callable[[], Identity | None], ...] = (lambda: state.pending(clock), state.identities.current)
    for read in reads:
        with suppress(StateDamaged):  # activating is the way out of it
            stored = read()
            if stored is not None and stored.node_key == pending.node_key:
                say("going on with the activation that was interrupted at its confirmation")
                return stored
    say("going on with the activation that was interrupted: sending its proof again")
    try:
        return await _fetch(state, trusted, pending, clock, say)
    except api.CloudRefused as refusal:
        if refusal.code not in _OVER:
            raise
        say("that activation has ended; starting anew")
        return None


async def _prove(
    state: State, trusted: TrustSet, tpm: Tpm, file: ActivationFile, file_sha256: str, say: Say
) -> PendingActivation:
    """Challenge and proof, up to a proof that is stored and not yet sent."""
    say("making keys in the TPM and reading its endorsement certificate")
    ak = await tpm.run(keys.create_ak)
    node_key = await tpm.run(keys.create_node_key)
    endorsement = await tpm.run(lambda esys: evidence.endorsement_evidence(esys, ak))
    service = api.connect(trusted.bundle, trusted.urls, "fabric")
    try:
        request = StartActivation(code=file.code, evidence=endorsement, agent_version=AGENT_VERSION)
        with fault_point("node.activation.start"):
            challenge = await service.start_activation(request)
    finally:
        await service.aclose()
    say("answering the challenge with the TPM")
    answered = await answer(
        tpm,
        ak,
        node_key,
        exchange=challenge.activation,
        credential_blob=challenge.credential_blob,
        encrypted_secret=challenge.encrypted_secret,
    )
    components = await trio.to_thread.run_sync(fingerprint.read_components, abandon_on_cancel=True)
    proof = ProveActivation(
        secret=answered.secret,
        csr=answered.csr,
        key=answered.key,
        fingerprint=fingerprint.fingerprint(challenge.fingerprint_salt, components),
    )
    pending = PendingActivation(
        file_sha256=file_sha256,
        activation=challenge.activation,
        ak=ak,
        node_key=node_key,
        fingerprint_salt=challenge.fingerprint_salt,
        proof=json_encode(proof),
    )
    state.identities.save_activation(pending)
    return pending


async def _fetch(state: State, trusted: TrustSet, pending: PendingActivation, clock: Clock, say: Say) -> Identity:
    """Send the stored proof; verify everything of the answer; keep the new generation beside the old."""
    say("proving that the key is in this TPM")
    service = api.connect(trusted.bundle, trusted.urls, "fabric")
    try:
        with fault_point("node.activation.prove"):
            answer: Activated = await service.prove_activation(pending.activation, pending.proof)
    finally:
        await service.aclose()
    check_chain(
        answer.certificate_chain,
        trusted.bundle,
        spiffe=NodeSpiffeId(trusted.bundle.trust_domain, answer.tenant, answer.node),
        generation=answer.generation,
        usage=EKU_DEVICE,
        public_key=pending.node_key.public_key(),
        now=clock(),
    )
    in_force = state.identities.current_generation()
    if in_force is not None and answer.generation <= in_force:
        # Read only here: a damaged generation is what an activation must be able to follow.
        current = state.identities.current()
        if current is not None and current.node != answer.node:
            raise OtherNode(
                f"cannot keep the identity of {answer.node} beside that of {current.node}, which {state.directory} holds"
            )
        raise CertificateRejected(4, f"generation {answer.generation} is not above the one in force")
    identity = Identity(
        trust_domain=trusted.bundle.trust_domain,
        tenant=answer.tenant,
        node=answer.node,
        generation=answer.generation,
        ak=pending.ak,
        node_key=pending.node_key,
        chain=answer.certificate_chain[:STORED_CERTIFICATES],
        fingerprint_salt=pending.fingerprint_salt,
        activated_at=clock(),
        confirm_by=answer.confirm_by,
    )
    state.identities.save_generation(identity)
    return identity


async def confirm(state: State, trusted: TrustSet, identity: Identity, tpm: Tpm, clock: Clock) -> Licence:
    """Confirm a stored generation over its first session, store its statement, switch to it by one rename.

    Raises CloudRefused when the cloud will not have it, CloudUnreachable, StatementRejected, TpmError.
    """
    try:
        opened = await open_session(trusted, identity, tpm, clock, "")
    except SessionRefused as refused:
        if refused.answer.statement:
            # The generation was ended before it was confirmed: kept, so that nobody asks for it again.
            state.licence_of(identity, clock, confirmed=False).apply(refused.answer, refused.answer_nonce)
        raise refused.refusal from refused
    licence = state.licence_of(identity, clock, confirmed=False)
    service = opened.credentials.connect(trusted, "fabric")
    nonce = fresh_nonce()
    try:
        with fault_point("node.confirm.send"):
            answer = await service.confirm(Ask(nonce=nonce, trust_version=trusted.version))
    finally:
        await service.aclose()
    licence.apply(answer, nonce)
    state.identities.switch_to(identity.generation)
    licence.confirmed = True
    licence.hardware = "ours"
    return licence
