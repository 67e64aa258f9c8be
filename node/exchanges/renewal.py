"""Use case: renewal of the device certificate, over a session or with fresh evidence.

`over_session` is EST at Breakwater, with the same key. `with_evidence` is the exchange of `protocol.messages.renewal`.
It serves a certificate that opens no session any more, a key of which Breakwater has no record, and a rekey. A node
without a TPM sends one request instead (`node.exchanges.software`), with its fingerprint as the evidence. The
proof is stored before it is sent, together with the key, so that a repeat after a crash or a lost answer gets the same
certificate. After a rekey both keys are stored until the cloud's answer has verified; the stored certificate then
decides which key is in force.

The cloud gives the same answer to a repeat for days. So a renewal whose answer never verifies is dropped, with the
condition `renewal_dropped`, and the next renewal is another one.

`node.exchanges.schedule` decides when to renew. A renewal never changes the licence.
"""

import logging
from contextlib import suppress
from functools import partial

import msgspec

from node.config import AGENT_VERSION
from node.disk.pending import PendingRenewal
from node.disk.thread import DISK_SECONDS_MAX, on_disk
from node.errors import NodeError, StateDamaged, StateUnsafe
from node.exchanges.session import Credentials, SessionRefused, fresh_nonce
from node.hwbind import keys, presence, succession
from node.hwbind.errors import TpmError
from node.hwbind.keys import WrappedKey
from node.hwbind.presence import EndorsementRecord
from node.hwbind.succession import Succession
from node.hwbind.tpm import Tpm
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import CertificateOutOfTime, CertificateRejected, chain_of, check_device_chain
from node.state import State
from node.trust.current import CurrentTrust
from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.faults import fault_point
from protocol.messages.renewal import ProveRenewal, Renewed, StartRenewal
from protocol.messages.software import RenewSoftware

log = logging.getLogger("cascadia.renewal")

DROPPED = "renewal_dropped"
"""Code of the condition that a renewal was dropped. It ends with the next renewal that succeeds."""
REJECTIONS_MAX = 3
"""A renewal is dropped after this many answers that do not verify. The published trust may be read again in between."""
DOUBLINGS_MAX = 8
"""Each further renewal is dropped after twice as many answers, so that a node asks for few certificates in vain."""


class Rejections:
    """Counts the answers of one kind of renewal that did not verify. `dropped` counts the dropped renewals."""

    def __init__(self) -> None:
        self.dropped = 0
        self._count = 0

    def drops(self, error: CertificateRejected) -> bool:
        """Count one more rejected answer. Returns True if the renewal is dropped now.

        An answer that is rejected for its dates is not counted: it verifies as soon as the machine's clock is set.
        """
        if isinstance(error, CertificateOutOfTime):
            return False
        self._count += 1
        if self._count < REJECTIONS_MAX * 2 ** min(self.dropped, DOUBLINGS_MAX):
            return False
        self._count = 0
        self.dropped += 1
        return True

    def clear(self) -> None:
        """Begin again, because a renewal has succeeded."""
        self.dropped = self._count = 0


class DeviceRenewal:
    """Renews the device certificate of a licence's generation."""

    def __init__(self, state: State, trust: CurrentTrust, tpm: Tpm) -> None:
        self._state = state
        self._trust = trust
        self._tpm = tpm
        self._over_session, self._with_evidence = Rejections(), Rejections()

    async def over_session(self, licence: Licence, credentials: Credentials | None) -> None:
        """Get a new device certificate for the same key. Raises NodeError, TpmError, SessionRefused.

        Breakwater renews a certificate if it has a record of it, for the recorded key. After a rebuild, or after it was
        restored alone, it has none, or an earlier key. A new key with fresh evidence then makes a record: with the
        present key, Fabric would wait until the certificate is in the last third of its life.
        """
        try:
            await self._by_est(licence, credentials)
        except api.CloudRefused as refusal:
            if refusal.code not in ("peer_refused", "csr_refused"):
                raise
            log.warning("%s; renewing the device certificate with fresh evidence", refusal.text)
            await self.with_evidence(licence, rekey=True)

    async def _by_est(self, licence: Licence, credentials: Credentials | None) -> None:
        identity, trusted = licence.identity, self._trust.value
        if credentials is None:
            raise api.CloudUnreachable("cannot renew the device certificate: there is no session with the cloud")
        holder = keys.holder_of(self._tpm, identity.node_key)
        csr = await holder.run(lambda esys: keys.certificate_request(esys, identity.node_key))
        async with credentials.connect(trusted, "breakwater", self._state.time.window) as service:
            # The request is named after the present certificate, so a repeat after a lost answer gets the same new one.
            name = f"renew-{sha256_hex(identity.chain[0])}"
            if self._over_session.dropped:
                name += f"-{self._over_session.dropped}"
            with fault_point("node.device.send"):
                leaf = await service.reenroll(csr, name)
        try:
            stored = self._checked(licence, chain_of(leaf, self._trust.value.bundle), identity.node_key)
        except CertificateRejected as error:
            if self._over_session.drops(error):
                self._report_dropped(error)
            raise
        await self._store(licence, stored, identity.node_key)
        licence.replace_certificate(stored, identity.node_key)
        self._succeeded()

    async def resume(self, licence: Licence) -> bool:
        """Finish a renewal whose proof is stored. Returns False if there is none, or if the cloud has ended it.

        Raises CloudUnreachable, ServerUnproven, CertificateRejected, SessionRefused, StateError, DiskSilent.
        """
        pending = await on_disk(partial(self._pending, licence), seconds_max=DISK_SECONDS_MAX)
        if pending is None:
            return False
        try:
            await self._finish(licence, pending)
        except api.CloudRefused as refusal:
            log.warning("the cloud has ended an interrupted renewal: %s", refusal.text)
            return False
        return True

    async def with_evidence(self, licence: Licence, *, rekey: bool = False) -> None:
        """Get a new device certificate with fresh evidence, for the same key or with `rekey` for a new key.

        A stored renewal is finished first. Raises SessionRefused, with the signed statement, if the generation is
        closed. Raises CloudRefused, CloudUnreachable, ServerUnproven, CertificateRejected, StateError, DiskSilent,
        TpmError.
        """
        before = licence.identity.node_key
        if await self.resume(licence) and (not rekey or licence.identity.node_key != before):
            return
        make = self._software_proof if licence.identity.node_key.in_software else self._proof
        with fault_point("node.renewal.start"):
            pending = await make(licence, rekey=rekey)
        await on_disk(partial(self._state.identities.save_renewal, pending), seconds_max=DISK_SECONDS_MAX)
        await self._finish(licence, pending)

    async def _software_proof(self, licence: Licence, *, rekey: bool) -> PendingRenewal:
        from node.exchanges import software

        trusted = self._trust.value
        async with api.connect(trusted.bundle, trusted.urls, "fabric", self._state.time.window) as service:
            return await software.begin_renewal(service, licence.identity, licence.presented, rekey=rekey)

    async def _proof(self, licence: Licence, *, rekey: bool) -> PendingRenewal:
        """Get and answer a challenge to the TPM. The proof is not stored yet."""
        from node.exchanges import challenge  # most runs of an agent never make fresh evidence

        trusted, identity = self._trust.value, licence.identity
        node_key = await self._tpm.run(keys.create_node_key) if rekey else identity.node_key
        endorsement = await challenge.endorse(self._tpm, identity.ak)
        async with api.connect(trusted.bundle, trusted.urls, "fabric", self._state.time.window) as service:
            made = await challenge.start(
                lambda evidence: service.start_renewal(StartRenewal(identity.chain[0], evidence, AGENT_VERSION)),
                endorsement,
            )
        answered = await challenge.answer(self._tpm, identity.ak, node_key, made)
        presented = licence.presented or msgspec.UNSET
        proof = ProveRenewal(answered.secret, answered.csr, answered.key, fresh_nonce(), presented)
        ek_public = challenge.challenged_ek(endorsement, made.ek_name)
        followed = partial(succession.record_succession, former=identity.node_key, new=node_key)
        return PendingRenewal(
            generation=identity.generation,
            renewal=made.renewal,
            node_key=node_key,
            proof=json_encode(proof),
            endorsement=await self._tpm.run(lambda esys: presence.record_endorsement(esys, node_key, ek_public)),
            succession=await self._tpm.run(followed) if rekey else msgspec.UNSET,
        )

    def _pending(self, licence: Licence) -> PendingRenewal | None:
        """The stored renewal of this generation, or None.

        A damaged renewal, a renewal that other users could write, and a renewal of another generation are removed.
        Nothing is lost: the renewal starts again.
        """
        identities = self._state.identities
        try:
            pending = identities.load_renewal()
        except (StateDamaged, StateUnsafe) as damage:
            log.warning("%s; the renewal starts again", damage.text)
        else:
            if pending is None or pending.generation == licence.identity.generation:
                return pending
        identities.clear_renewal()
        return None

    async def _finish(self, licence: Licence, pending: PendingRenewal) -> None:
        """Send the stored proof, verify the answer, and then replace the certificate and the key."""
        licence.expect_key(pending.node_key)
        trusted = self._trust.value
        try:
            async with api.connect(trusted.bundle, trusted.urls, "fabric", self._state.time.window) as service:
                answer = await _sent(service, pending)
        except api.CloudRefused as refusal:
            # After any refusal this proof can succeed no more. A fault of the disk must not hide the signed statement.
            with suppress(NodeError):
                await self._clear()
            if refusal.problem.statement:
                nonce = pending.answer_nonce or json_decode(pending.proof, ProveRenewal).answer_nonce
                raise SessionRefused(refusal, nonce) from refusal
            raise
        node_key, endorsement = pending.node_key, pending.endorsement or None
        try:
            stored = self._checked(licence, answer.certificate_chain, node_key)
        except CertificateRejected as error:
            if self._with_evidence.drops(error):
                await self._clear()
                self._report_dropped(error)
            raise
        # From now on the cloud may refuse the earlier key. So the new one counts before the disk has it; the stored
        # proof stays until then, and `resume` gets the same answer again.
        rekeyed = node_key != licence.identity.node_key
        if rekeyed:
            await self._sign_floors(node_key, first=True)
        followed = pending.succession or None
        licence.replace_certificate(stored, node_key, endorsement, followed)
        await self._store(licence, stored, node_key, endorsement, followed)
        if rekeyed:
            await self._sign_floors(node_key, first=False)
        await self._clear()
        self._succeeded()

    async def _sign_floors(self, node_key: WrappedKey, *, first: bool) -> None:
        """Have the floor record signed by the new key. Without it, a restart without the cloud would be `stale`."""
        try:
            await self._state.floors.sign_again(node_key, first=first)
        except (NodeError, TpmError) as error:
            log.warning("cannot sign the floor record with the new key: %s", error)

    def _report_dropped(self, error: CertificateRejected) -> None:
        text = f"the certificate of a renewal did not verify in any attempt, so another one is asked for: {error.text}"
        step = "Wait for the next renewal. Report it to the operator if this condition stays."
        self._state.conditions.report(DROPPED, text, step)

    def _succeeded(self) -> None:
        self._over_session.clear()
        self._with_evidence.clear()
        self._state.conditions.clear(DROPPED)

    async def _clear(self) -> None:
        await on_disk(self._state.identities.clear_renewal, seconds_max=DISK_SECONDS_MAX)

    def _checked(self, licence: Licence, chain: tuple[bytes, ...], node_key: WrappedKey) -> tuple[bytes, ...]:
        """The part of a chain (DER, leaf first) that is stored. Raises CertificateRejected."""
        identity = licence.identity
        return check_device_chain(
            chain,
            self._trust.value.bundle,
            tenant=identity.tenant,
            node=identity.node,
            generation=identity.generation,
            public_key=node_key.public_key(),
            window=self._state.time.window(),
        )

    async def _store(
        self,
        licence: Licence,
        chain: tuple[bytes, ...],
        node_key: WrappedKey,
        endorsement: EndorsementRecord | None = None,
        followed: Succession | None = None,
    ) -> None:
        """Store a checked certificate and its key in place of the present ones. Raises StateError, DiskSilent."""
        generation, identities = licence.identity.generation, self._state.identities
        replace = partial(identities.replace_device_chain, generation, chain, node_key, endorsement, followed)
        await on_disk(replace, seconds_max=DISK_SECONDS_MAX)


async def _sent(service: api.Service, pending: PendingRenewal) -> Renewed:
    """Send the stored proof. A cloud of an earlier release refuses the presented statement; then it is left out."""

    async def send(proof: bytes) -> Renewed:
        with fault_point("node.renewal.prove"):
            if pending.node_key.in_software:
                return await service.renew_software(proof)
            return await service.prove_renewal(pending.renewal, proof)

    try:
        return await send(pending.proof)
    except api.CloudRefused as refusal:
        if refusal.code != "invalid":
            raise
        proof: RenewSoftware | ProveRenewal = (
            json_decode(pending.proof, RenewSoftware)
            if pending.node_key.in_software
            else json_decode(pending.proof, ProveRenewal)
        )
        if proof.presented is msgspec.UNSET:
            raise
    return await send(json_encode(msgspec.structs.replace(proof, presented=msgspec.UNSET)))
