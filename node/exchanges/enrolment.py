"""Use case: the exchange of an activation or a recovery, from the challenge to the confirmed generation.

A recovery is an activation whose right comes from a recovery case instead of an activation code.
The proof is stored before it is sent, and a repeat with the same file sends the same bytes. The same chip remains the
same node. Data from the cloud is verified before it is stored. The present generation stays in force until the new
generation is confirmed.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec

from node.clock import Clock
from node.config import AGENT_VERSION
from node.disk.identity import Identity
from node.disk.pending import ApprovalWait, PendingActivation
from node.disk.set_aside import set_aside
from node.disk.thread import on_disk
from node.errors import NodeError, StateDamaged, StateError, StateUnsafe
from node.exchanges import approval, challenge, software
from node.exchanges.confirmation import confirm
from node.exits import Exit
from node.hwbind import fingerprint, keys, presence
from node.hwbind.errors import TpmAbsent, TpmError
from node.hwbind.reading import components_in_time
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import CertificateRejected, check_device_chain
from node.state import State
from node.trust import published
from node.trust.current import CurrentTrust
from protocol.encoding import json_decode, json_encode
from protocol.faults import fault_point
from protocol.limits import HELD_GENERATION_MAX
from protocol.messages.activation import Activated, AwaitedApproval, ProveActivation, StartActivation
from protocol.messages.recovery import RecoveryClaim

T = TypeVar("T")
Say = Callable[[str], None]

_OVER = frozenset({"challenge_expired", "challenge_failed", "activation_closed", "approval_expired", "not_found"})
"""Refusals of a stored proof after which a new exchange may still succeed with the same file."""
_LAPSED = frozenset({"generation_closed", "conflict"})
"""Refusals of a late confirmation after which a new exchange may still succeed with the same file."""


class OtherNode(NodeError):
    """The state directory is another node's, and its generation is not below this machine's new one."""

    exit = Exit.HARDWARE_MISMATCH
    code = "state_of_another_node"
    next = (
        "Run the same command again; each activation gets the next generation. Or move the state directory aside first; "
        "the machine takes no second seat."
    )


class NotAbove(CertificateRejected):
    """The cloud's new generation is not above the one in force."""

    next = "Run the same command again; each activation gets the next generation."


class RecoveryUnsupported(NodeError):
    """The cloud is of a release that knows no recovery."""

    exit = Exit.REFUSED
    code = "recovery_unsupported"
    next = "Ask the operator for an activation code of this machine's node, and run `cascadia activate FILE`."


class Right(msgspec.Struct, frozen=True):
    """The right to an activation.

    `code` is the activation code of a file, and `file_sha256` (hex) the digest of the file. With `recovery`, `code` is a
    recovery code or empty, and `file_sha256` its digest.
    """

    code: str
    file_sha256: str
    recovery: RecoveryClaim | msgspec.UnsetType = msgspec.UNSET

    def continues(self, pending: PendingActivation) -> bool:
        """Whether the stored activation is of this right. Without a code, every stored recovery is."""
        if pending.recovery is msgspec.UNSET or self.recovery is msgspec.UNSET:
            return pending.recovery is self.recovery and pending.file_sha256 == self.file_sha256
        return not self.code or pending.file_sha256 == self.file_sha256


class Manner(msgspec.Struct, frozen=True):
    """How the user wants to activate: with a key in a file instead of a TPM, and waiting for an operator's approval."""

    in_software: bool
    wait: bool


class Enrolment:
    """One activation, under the trust that starts from its file's pin.

    `first` is whether no trust is in force. The staged trust is then stored beside the first generation, so that an agent
    can confirm the generation after an interruption.
    """

    def __init__(
        self,
        state: State,
        staged: published.Staged,
        tpm: Tpm,
        clock: Clock,
        say: Say,
        manner: Manner,
        *,
        first: bool,
    ) -> None:
        self._state = state
        self._staged = staged
        self._first = first
        self._wait = manner.wait
        self._trust = CurrentTrust(state.directory, staged.value, state.time.low)
        self._tpm = tpm
        self._clock = clock
        self._say = say
        self._in_software = manner.in_software
        self._hardware = HardwareCheck(tpm)
        self._hardware.time = state.time
        self.on_wait: Callable[[ApprovalWait], None] = lambda _waiting: None
        """Called with what the activation waits for, when it begins to wait and when that changes."""

    async def carry_out(self, right: Right) -> Licence:
        """Resume the activation of this right, or begin one. Raises NodeError, TpmError."""
        identity = await self._resume(right)
        if identity is not None:
            licence = await self._unless_ended(_LAPSED, self._confirm(identity))
            if licence is not None:
                return licence
        pending = await self._prove(right)
        return await self._confirm(await self._fetch(pending))

    async def _unless_ended(self, codes: frozenset[str], work: Awaitable[T]) -> T | None:
        """The result of `work`. None if the cloud refuses it with one of `codes`, because the activation has ended."""
        try:
            return await work
        except api.CloudRefused as refusal:
            if refusal.code not in codes:
                raise
            self._say("the interrupted activation has ended; starting a new one")
            return None

    async def _resume(self, right: Right) -> Identity | None:
        """The generation of an interrupted activation of this right; None without one, or if the cloud has ended it."""
        identities = self._state.identities
        try:
            pending = identities.load_activation()
        except StateUnsafe as error:  # The new activation replaces the file.
            self._say(f"{error.text}; starting a new activation")
            return None
        if pending is None or not right.continues(pending) or pending.node_key.in_software != self._in_software:
            return None
        # The current generation as well: after an interruption behind the switch, a second confirmation is harmless.
        reads: tuple[Callable[[], Identity | None], ...] = (
            lambda: self._state.pending(self._trust.value),
            identities.current,
        )
        for read in reads:
            with suppress(StateDamaged, StateUnsafe):  # an activation replaces a damaged generation
                stored = read()
                if stored is not None and stored.node_key == pending.node_key:
                    self._say("continuing the interrupted activation at its confirmation")
                    return stored
        self._say("continuing the earlier activation: sending its proof again")
        try:
            return await self._unless_ended(_OVER, self._fetch(pending))
        except (OtherNode, NotAbove) as error:
            self._say(f"{error.text}; starting a new activation")
            return None

    async def _prove(self, right: Right) -> PendingActivation:
        """Get and answer a challenge. The proof is stored, and not sent yet."""
        make = self._software_proof if self._in_software else self._tpm_proof
        try:
            with fault_point("node.activation.start"):
                pending = await make(right)
        except api.CloudRefused as refusal:
            if refusal.code != "invalid" or right.recovery is msgspec.UNSET:
                raise
            raise RecoveryUnsupported("cannot recover: this cloud is too old, and knows no recovery") from refusal
        self._state.identities.save_activation(pending)
        return pending

    async def _software_proof(self, right: Right) -> PendingActivation:
        trusted = self._trust.value
        with suppress(TpmError):
            await self._tpm.run(keys.read_clock)
            self._say(software.HAS_TPM)
        self._say("making a key in a file, and reading the serial numbers of this machine")
        held = None
        with suppress(StateError):
            if (number := self._held_generation()) > 0:
                held = self._state.identities.load(number)
        async with api.connect(trusted.bundle, trusted.urls, "fabric", self._state.time.window) as service:
            return await software.begin(service, right.code, right.file_sha256, held, right.recovery)

    async def _tpm_proof(self, right: Right) -> PendingActivation:
        tpm, trusted = self._tpm, self._trust.value
        self._say("making keys in the TPM and reading its endorsement certificate")
        try:
            ak = await tpm.run(keys.create_ak)
        except TpmAbsent as error:
            recovers = right.recovery is not msgspec.UNSET
            step = software.RECOVERS_WITHOUT_TPM if recovers else software.WITHOUT_TPM
            error.advice = f"{error.advice} {step}"
            raise
        node_key = await tpm.run(keys.create_node_key)
        endorsement = await challenge.endorse(tpm, ak)
        async with api.connect(trusted.bundle, trusted.urls, "fabric", self._state.time.window) as service:
            made = await challenge.start(
                lambda evidence: service.start_activation(
                    StartActivation(
                        code=right.code, evidence=evidence, agent_version=AGENT_VERSION, recovery=right.recovery
                    )
                ),
                endorsement,
            )
        self._say("answering the challenge with the TPM")
        answered = await challenge.answer(tpm, ak, node_key, made)
        ek_public = challenge.challenged_ek(endorsement, made.ek_name)
        record = await tpm.run(lambda esys: presence.record_endorsement(esys, node_key, ek_public))
        components = await components_in_time(seconds_max=software.FINGERPRINT_SECONDS_MAX)
        quote = await challenge.quote(tpm, ak, made, answered)
        proof = ProveActivation(
            secret=answered.secret,
            csr=answered.csr,
            key=answered.key,
            fingerprint=fingerprint.fingerprint(made.fingerprint_salt, components),
            held_generation=self._held_generation() or msgspec.UNSET,
            pcr_quote=quote,
        )
        return PendingActivation(
            file_sha256=right.file_sha256,
            activation=made.activation,
            ak=ak,
            node_key=node_key,
            fingerprint_salt=made.fingerprint_salt,
            proof=json_encode(proof),
            endorsement=record,
            recovery=right.recovery,
        )

    def _held_generation(self) -> int:
        """The highest generation in the state directory, 0 without one. What cannot be read does not count."""
        identities = self._state.identities
        held = [0]
        with suppress(StateError):
            held.append(identities.current_generation() or 0)
        with suppress(StateError):
            held += identities.generations()
        return max(number for number in held if number <= HELD_GENERATION_MAX)

    async def _fetch(self, pending: PendingActivation) -> Identity:
        """Send the stored proof, verify the answer, and store the new generation beside the present one."""
        identities, trusted = self._state.identities, self._trust.value
        self._say("proving the key of this machine" if self._in_software else "proving that the key is in this TPM")
        try:
            answer = await approval.until_approved(
                partial(self._send_proof, pending), partial(self._store_wait, pending), self._say, wait=self._wait
            )
        except approval.ApprovalPending as pauses:
            sent = await on_disk(identities.load_activation)
            pauses.ask = partial(self._ask, sent or pending)
            raise
        except api.CloudRefused:
            # After any refusal this proof can succeed no more.
            with suppress(StateError):
                await on_disk(identities.clear_activation)
            raise
        stored = check_device_chain(
            answer.certificate_chain,
            trusted.bundle,
            tenant=answer.tenant,
            node=answer.node,
            generation=answer.generation,
            public_key=pending.node_key.public_key(),
            window=self._state.time.window(),
        )
        await on_disk(partial(self._check_generation, answer))
        identity = Identity(
            trust_domain=trusted.bundle.trust_domain,
            tenant=answer.tenant,
            node=answer.node,
            generation=answer.generation,
            ak=pending.ak,
            node_key=pending.node_key,
            chain=stored,
            fingerprint_salt=pending.fingerprint_salt,
            activated_at=self._clock(),
            confirm_by=answer.confirm_by,
            endorsement=pending.endorsement or None,
        )
        if self._first:
            await self._staged.keep()
        if pending.recovery is not msgspec.UNSET and pending.recovery.situation != "reinstalled":
            await on_disk(self._set_aside)
        await on_disk(partial(identities.save_generation, identity))
        return identity

    def _set_aside(self) -> None:
        """Keep what the lost hardware leaves useless: the keys of another chip, and the floor record. Nothing is lost.

        The new generation replaces the floor record, and a later activation removes the old keys.
        """
        if (held := self._held_generation()) > 0:
            kept = set_aside(self._state.directory, held)
            self._say(f"the keys of generation {held} and its floor record are of the old hardware; kept in {kept}")

    async def fetch(self, pending: PendingActivation) -> Identity:
        """Send the stored proof until it is decided, and store the new generation. For an agent, which confirms it.

        Raises as `until_approved`; CertificateRejected, StateError.
        """
        return await self._fetch(pending)

    async def _send_proof(self, pending: PendingActivation) -> Activated | AwaitedApproval:
        """Send the stored proof once, over a new connection: an operator may take days to decide."""
        trusted = self._trust.value
        stored = await on_disk(self._state.identities.load_activation) or pending
        async with api.connect(trusted.bundle, trusted.urls, "fabric", self._state.time.window) as service:
            answer = await self._send(service, stored)
        if self._first and stored.recovery is not msgspec.UNSET:
            # The agent continues a recovery that waits, also if this machine has no identity yet.
            await self._staged.keep()
        return answer

    async def _ask(self, pending: PendingActivation) -> Activated | AwaitedApproval:
        """Send the stored proof once, and store nothing: another process may own the state."""
        trusted = self._trust.value
        async with api.connect(trusted.bundle, trusted.urls, "fabric", self._state.time.window) as service:
            return await self._prove_key(service, pending)

    async def _store_wait(self, pending: PendingActivation, waiting: ApprovalWait) -> None:
        """Store that the activation waits for an operator. Raises StateError."""
        stored = await on_disk(self._state.identities.load_activation) or pending
        self.on_wait(waiting)
        changed = msgspec.structs.replace(stored, approval=waiting)
        await on_disk(partial(self._state.identities.save_activation, changed))

    async def _send(self, service: api.Service, pending: PendingActivation) -> Activated | AwaitedApproval:
        """Send the stored proof. A cloud of an earlier release refuses its later fields, and gets it without them."""
        try:
            return await self._prove_key(service, pending)
        except api.CloudRefused as refusal:
            if pending.node_key.in_software or refusal.code != "invalid":
                raise
            proof = json_decode(pending.proof, ProveActivation)
            first = msgspec.structs.replace(proof, held_generation=msgspec.UNSET, pcr_quote=msgspec.UNSET)
            if proof == first:
                raise
            changed = msgspec.structs.replace(pending, proof=json_encode(first))
            await on_disk(partial(self._state.identities.save_activation, changed))
            return await self._prove_key(service, changed)

    async def _prove_key(self, service: api.Service, pending: PendingActivation) -> Activated | AwaitedApproval:
        """Send a proof as it is."""
        with fault_point("node.activation.prove"):
            in_software = pending.node_key.in_software
            return await service.prove_activation(pending.activation, pending.proof, in_software=in_software)

    def _check_generation(self, answer: Activated) -> None:
        """Check that the new generation is above the present one. Raises OtherNode, NotAbove, StateError."""
        identities = self._state.identities
        in_force = self._state.generation_in_force(self._trust.value)
        if answer.generation > in_force:
            return
        # The generation is read here and not earlier, because an activation must work after a damaged generation.
        current = None
        with suppress(StateDamaged, StateUnsafe):
            current = identities.current()
        if current is not None and current.node != answer.node:
            with suppress(StateError):
                identities.clear_activation()
            raise OtherNode(
                f"cannot store the identity of {answer.node}: {self._state.directory} holds the identity of "
                f"{current.node}"
            )
        raise NotAbove(4, f"generation {answer.generation} is not above the one in force, {in_force}")

    async def _confirm(self, identity: Identity) -> Licence:
        self._say(f"confirming generation {identity.generation} of {identity.node}")
        return await confirm(self._state, identity, self._trust, self._tpm, self._hardware)
