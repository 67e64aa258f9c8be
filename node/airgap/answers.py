"""Use case: import the answer to this machine's request, on a machine without a network.

Everything is verified before anything is stored, in the order of `protocol.airgap.answer`. An answer that is refused
changes nothing. The steps after that are those of an answer of the cloud: the published trust, for an activation the
new generation, the statement with its freshness and its signed time, a renewed certificate, and the receipt as the last
one. The request stays outstanding until the receipt is stored. So after a crash at any step the same command continues.

The agent that owns the state imports the answer to a refresh itself (`Imports.into`), so the verdict changes at once. The
command imports an activation (`Imports.alone`), as `cascadia activate` stores one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import trio

from node.airgap.errors import AgentInTheWay, AirgapRefused
from node.airgap.store import AirgapRecord, AirgapStore, StoredActivation, StoredRequest
from node.clock import Clock
from node.config import BUILT_AT
from node.disk.boot import BootRecord
from node.disk.identity import Identity
from node.disk.thread import DISK_SECONDS_MAX, on_disk
from node.errors import StateError
from node.exchanges.activation import check_cloud, trust_in_force
from node.exchanges.confirmation import holder_in_force
from node.hwbind import endorsement, keys, presence
from node.hwbind.errors import TpmIntegrity, TpmNotOurs
from node.hwbind.tpm import Esys, Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.raising import TPM_SECONDS_MAX
from node.licensing.trusted_time import first_floor
from node.link.certificates import check_device_chain
from node.state import State
from node.trust import published
from node.trust.current import CurrentTrust
from node.trust.published import Staged, TrustSet
from protocol.airgap import sealing
from protocol.airgap.answer import (
    AnswerBody,
    AnswerClaims,
    AnswerFile,
    match,
    open_body,
    open_claims,
    peek_claims,
    receipt_of,
)
from protocol.airgap.errors import AirgapError, AnswerOutdated, AnswerUnverified, SealUnopened
from protocol.airgap.forms import read_answer, read_request
from protocol.airgap.request import open_request
from protocol.endorsement import name_of
from protocol.faults import fault_point
from protocol.limits import CONFIRM_WITHIN
from protocol.messages.activation import TrustPin

TASK = "import the answer"


class Carried(msgspec.Struct, frozen=True):
    """An answer that was read, and the request that it names. Nothing is verified."""

    file: AnswerFile
    stored: StoredRequest
    record: AirgapRecord


class Verified(msgspec.Struct, frozen=True):
    """A verified answer. `staged` is the trust that it brought, not stored yet; `trusted` is the trust that counts."""

    claims: AnswerClaims
    body: AnswerBody
    trusted: TrustSet
    staged: Staged | None


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise a refusal of the format as an error for the user."""
    try:
        yield
    except AirgapError as error:
        raise AirgapRefused.of_error(error, TASK) from error


@dataclass(frozen=True)
class Imports:
    """Imports answers into one state directory, which the caller owns."""

    state: State
    tpm: Tpm
    hardware: HardwareCheck

    async def alone(self, data: bytes, clock: Clock) -> Licence:
        """Import an answer without a running agent. `data` is the file in any form. Returns the licence in force.

        Raises AirgapRefused, TrustError, CertificateRejected, StatementRejected, NotActivated, StateError, TpmError.
        """
        identity = None
        with suppress(StateError):
            identity = self.state.identities.current()
        carried = await self._read(data, identity)
        if carried.stored.activation and not _is_by(carried.stored, identity):
            return await self._activate(carried, carried.stored.activation, clock)
        licence = self.state.load_licence(self.hardware, machine_clocks(clock))
        await licence.check_hardware()
        self.state.floors.tpm = self.tpm
        await self._import(carried, licence)
        return licence

    async def into(self, licence: Licence, data: bytes) -> None:
        """Import an answer into the licence of a running agent. Raises AgentInTheWay, and as `alone`."""
        carried = await self._read(data, licence.identity)
        if carried.stored.activation and not _is_by(carried.stored, licence.identity):
            raise AgentInTheWay(f"cannot {TASK}: it is an activation, and the agent runs")
        await self._import(carried, licence)

    async def _read(self, data: bytes, identity: Identity | None) -> Carried:
        """Read the answer and the record, and match them by the unverified claims, so that a misuse gets its name."""
        with _refusing():
            file = read_answer(data)
            record = await on_disk(AirgapStore(self.state.directory).load, seconds_max=DISK_SECONDS_MAX)
            claims = peek_claims(file)
            if claims is None:
                raise AnswerUnverified("the answer does not verify: its signature cannot be read")
            self._match(claims, record, identity)
        if not record.request:
            raise AirgapRefused(f"cannot {TASK}: this machine has no outstanding request")
        return Carried(file, record.request, record)

    def _match(self, claims: AnswerClaims, record: AirgapRecord, identity: Identity | None) -> None:
        outstanding = record.request.outstanding if record.request else None
        own = keys.key_hash(identity.node_key.public_key()) if identity is not None else ""
        match(claims, outstanding, record.receipt or None, record.former, own, self.state.time.low())

    async def _import(self, carried: Carried, licence: Licence) -> None:
        """Verify the answer for the generation of `licence`, then use and store it."""
        identity = licence.identity
        held = licence.trust.value
        with _refusing():
            of_generation = carried.stored.activation or carried.stored.generation == identity.generation
            if not of_generation or not _is_by(carried.stored, identity):
                raise AnswerOutdated("the answer is for an earlier generation or node key of this machine")
            found = await self._verified(carried, held, await self._origin(held), identity)
            self._check_node(found.body, identity)
        chain = self._checked_chain(found, identity)
        licence.check(found.body.current, found.claims.nonce, found.trusted)
        await self._keep(carried, found, licence, chain)

    async def _origin(self, held: TrustSet) -> tuple[str, TrustPin]:
        """Repository and pin of the stored trust, or those of the trust in memory."""
        read = partial(published.origin, self.state.directory)
        return await on_disk(read, seconds_max=DISK_SECONDS_MAX) or (held.repository_url, held.pin)

    async def _verified(
        self, carried: Carried, held: TrustSet | None, origin: tuple[str, TrustPin], identity: Identity | None
    ) -> Verified:
        """Verify trust, signature, request and content of the answer. Raises AirgapError, TrustError, TpmError."""
        file, state = carried.file, self.state
        staged = None
        if file.trust:
            at = min(state.time.low(), _asked_at(carried.stored))
            staged = await published.stage_files(file.trust, *origin, state.directory, clock=lambda: at)
        trusted = held if staged is None else staged.value
        if trusted is None:
            raise AnswerUnverified("it has no published trust, and this machine has none that begins at the same pin")
        claims = open_claims(file, trusted.signing_keys, trusted.bundle.trust_domain)
        self._match(claims, carried.record, identity)
        body = open_body(claims, await self._content(carried))
        return Verified(claims, body, trusted, staged)

    async def _content(self, carried: Carried) -> bytes:
        """The bytes of the body. The TPM opens a seal. Raises AnswerUnverified, SealUnopened, TpmError."""
        sealed, activation = carried.file.sealed, carried.stored.activation
        if not activation and sealed is None:
            return carried.file.body.encode()
        if not activation or sealed is None:
            raise AnswerUnverified("an answer to an activation is sealed to the chip, and no other answer is")
        ak = activation.ak

        def release(esys: Esys) -> bytes:
            return endorsement.activate_credential(
                esys, ak, sealed.credential_blob, sealed.encrypted_secret, sealed.ek_name
            )

        try:
            secret = await self.tpm.run(release)
        except (TpmIntegrity, TpmNotOurs) as error:
            raise SealUnopened(f"this machine's TPM does not open the seal: {error}") from error
        digest = bytes.fromhex(carried.stored.outstanding.request_sha256)
        return sealing.open_sealed(sealed.ciphertext, secret, digest, sealed.iv)

    def _check_node(self, body: AnswerBody, identity: Identity) -> None:
        there = (body.tenant, body.node, body.generation)
        if there != (identity.tenant, identity.node, identity.generation):
            raise AnswerUnverified(f"it is for generation {body.generation} of {body.node}, which is not this machine")

    def _checked_chain(self, found: Verified, identity: Identity) -> tuple[bytes, ...]:
        """The device certificate of the answer as it is stored; empty without a new one. Raises CertificateRejected."""
        if not found.body.certificate_chain or found.body.certificate_chain[0] == identity.chain[0]:
            return ()
        return check_device_chain(
            found.body.certificate_chain,
            found.trusted.bundle,
            tenant=identity.tenant,
            node=identity.node,
            generation=identity.generation,
            public_key=identity.node_key.public_key(),
            window=self.state.time.window(),
        )

    # Storing

    async def _keep(self, carried: Carried, found: Verified, licence: Licence, chain: tuple[bytes, ...]) -> None:
        """Use and store a verified answer, and store the receipt last."""
        state, identity = self.state, licence.identity
        if found.staged is not None:
            await licence.trust.adopt(found.staged)
        if not licence.confirmed:
            holder = partial(holder_in_force, state, identity, found.trusted)
            beside = await on_disk(holder, seconds_max=DISK_SECONDS_MAX)
            await state.floors.establish(identity, beside)
            await state.floors.begin(identity, beside)
        at = found.claims.answered_at
        latest = _latest_now(carried.stored, at, found.claims.valid_until, state.time.boot_seconds())
        licence.apply(found.body.current, found.claims.nonce, latest)
        if not licence.confirmed and not licence.revoked:
            licence.put_in_force()
            state.saver.put_then(identity.generation, partial(state.make_current, identity.generation))
            self.hardware.report_ours()
        if chain:
            replace = partial(state.identities.replace_device_chain, identity.generation, chain)
            await on_disk(replace, seconds_max=DISK_SECONDS_MAX)
            licence.replace_certificate(chain, identity.node_key)
        unstored = await state.saver.flush()
        if unstored is not None:
            raise unstored
        with trio.move_on_after(TPM_SECONDS_MAX):
            await state.floors.raise_now()
        if self.hardware.unjudged:
            await licence.check_hardware()
        with suppress(StateError):  # An older token will do next time.
            token = partial(state.renewal_tokens.store, identity.generation, found.body.renewal)
            await on_disk(token, seconds_max=DISK_SECONDS_MAX)
        receipt = receipt_of(carried.file, found.claims, state.time.high().replace(microsecond=0))

        def store() -> None:
            state.save_time()
            state.keep_time()
            AirgapStore(state.directory).save_receipt(carried.record, receipt)

        await on_disk(store, seconds_max=DISK_SECONDS_MAX)

    async def _activate(self, carried: Carried, activation: StoredActivation, clock: Clock) -> Licence:
        """Verify the answer to an activation, store the new generation, and put it in force."""
        state = self.state
        state.start_time(first_floor(BUILT_AT, activation.file_created_at), None, machine_clocks(clock))
        state.floors.tpm = self.tpm
        before = trust_in_force(state)
        held = before if before is not None and before.pin == activation.pin else None
        with _refusing():
            found = await self._verified(carried, held, (activation.repository_url, activation.pin), None)
            body, trusted = found.body, found.trusted
            if before is not None:
                check_cloud(state, before, trusted)
            if body.generation <= (in_force := state.generation_in_force(trusted)):
                raise AnswerOutdated(f"its generation {body.generation} is not above the one in force, {in_force}")
        identity = await self._identity(carried, activation, found, clock)
        trust = CurrentTrust(state.directory, trusted, state.time.low)
        licence = state.licence_of(identity, trust, self.hardware, confirmed=False)
        licence.check(body.current, found.claims.nonce, trusted)
        if before is None and found.staged is not None:
            await found.staged.keep()
        with fault_point("node.airgap.generation"):
            await on_disk(partial(state.identities.save_generation, identity), seconds_max=DISK_SECONDS_MAX)
        await self._keep(carried, found, licence, ())
        with suppress(StateError):
            state.identities.clear_activation()
        return licence

    async def _identity(
        self, carried: Carried, activation: StoredActivation, found: Verified, clock: Clock
    ) -> Identity:
        """The identity of a verified answer to an activation. Raises AirgapRefused, CertificateRejected, TpmError."""
        sealed, body, node_key = carried.file.sealed, found.body, activation.node_key
        ek_public = next(
            (ek for ek in activation.eks if sealed is not None and name_of(ek) == sealed.ek_name), activation.eks[0]
        )
        chain = check_device_chain(
            body.certificate_chain,
            found.trusted.bundle,
            tenant=body.tenant,
            node=body.node,
            generation=body.generation,
            public_key=node_key.public_key(),
            window=self.state.time.window(),
        )
        record = await self.tpm.run(lambda esys: presence.record_endorsement(esys, node_key, ek_public))
        return Identity(
            trust_domain=found.trusted.bundle.trust_domain,
            tenant=body.tenant,
            node=body.node,
            generation=body.generation,
            ak=activation.ak,
            node_key=node_key,
            chain=chain,
            fingerprint_salt=body.fingerprint_salt,
            activated_at=clock(),
            confirm_by=found.claims.answered_at + CONFIRM_WITHIN,
            endorsement=record,
        )


def _is_by(stored: StoredRequest, identity: Identity | None) -> bool:
    """Whether the node key of the identity made the request."""
    return identity is not None and stored.outstanding.node_key_sha256 == keys.key_hash(identity.node_key.public_key())


def _asked_at(stored: StoredRequest) -> datetime:
    """The time that had surely passed when the request was made.

    The files of the trust in an answer are judged at this time. They were collected later, and their shortest life is
    shorter than a journey may take. The files can still not be older than those that the node has.
    """
    return open_request(read_request(stored.file)).request.clock.low


def _latest_now(stored: StoredRequest, at: datetime, valid_until: datetime, boot_seconds: float) -> datetime:
    """The latest time that it can be now, for an answer that was signed at `at` and may be imported until `valid_until`.

    The answer was signed after the request was made. So in the boot of the request no more time has passed since `at`
    than since the request.
    """
    boot_id = BootRecord(Path()).boot_id()
    if not boot_id or boot_id != stored.boot_id:
        return valid_until
    return min(valid_until, at + timedelta(seconds=max(boot_seconds - stored.boot_seconds, 0.0)))
