"""Store: the agent's state directory, its lock and the stores of its parts.

lock                                      held by the one process that owns the state    node.disk.files
trust/                                    verified copies of the published trust         node.trust
identity/, current.json, activation.json, renewal.json
                                          identities of this machine, by generation      node.disk.identity
licence/, tombstones/                     signed statements of Fabric                    node.licensing.store
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.clock import Clock, utc_now
from node.conditions import Conditions
from node.disk.files import ensure_private_dir
from node.disk.identity import Identity, IdentityStore
from node.disk.lock import StateLock
from node.errors import NodeError, StateDamaged
from node.exits import Exit
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.store import LicenceStore
from node.licensing.verdict import current_revocation
from node.link.certificates import is_certificate_of
from node.trust.current import CurrentTrust
from node.trust.published import TrustSet
from protocol.ids import NodeSpiffeId

log = logging.getLogger("cascadia.state")


class NotActivated(NodeError):
    """This machine has no identity."""

    exit = Exit.UNACTIVATED
    code = "unactivated"


class State:
    """The stores of one state directory. A caller that only reads needs no lock; a caller that writes uses `owned`.

    `conditions` has what is wrong now without stopping the agent.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.conditions = Conditions(utc_now)
        self.identities = IdentityStore(directory)
        self.licences = LicenceStore(directory)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the lock of the state directory for the length of the block, and make the directory if it is missing.

        Raises StateBusy if another process holds the lock, StateError if the directory cannot be used.
        """
        ensure_private_dir(self.directory)
        with StateLock(self.directory):
            yield

    def licence_of(
        self, identity: Identity, trust: CurrentTrust, hardware: HardwareCheck, clock: Clock, *, confirmed: bool
    ) -> Licence:
        """The licence of a stored generation.

        Raises StateDamaged if a file is damaged or the device certificate is not of this generation; StateError.
        """
        self._check_certificate(identity)
        return Licence(self.licences, identity, trust, hardware, clock, confirmed=confirmed)

    def pending(self, trust: TrustSet) -> Identity | None:
        """The stored generation that is not confirmed yet; None if there is none, or if the cloud has revoked it.

        A damaged pending generation is logged and ignored while another generation is in force. Without a generation
        in force it raises StateDamaged. Raises StateError.
        """
        try:
            stored = self.identities.pending()
            if stored is None:
                return None
            self._check_certificate(stored)
        except StateDamaged as damage:
            if self.identities.current() is None:
                raise
            log.warning("%s; the agent continues with the generation in force", damage.text)
            return None
        evidence = self.licences.load(stored.holder, trust.signing_keys)
        return None if current_revocation(evidence, stored.holder) else stored

    def load_licence(self, hardware: HardwareCheck, clock: Clock) -> Licence:
        """The licence of the generation in force, or of the pending generation.

        The pending generation is used when no generation is in force, or when the one in force is revoked.
        Raises NotActivated if there is neither; StateError, TrustError.
        """
        current = self.identities.current()
        if current is None and self.identities.pending() is None:
            raise NotActivated("cannot find an identity: this machine is not activated")
        trust = CurrentTrust.load(self.directory)
        pending = self.pending(trust.value)
        if current is not None:
            licence = self.licence_of(current, trust, hardware, clock, confirmed=True)
            if pending is None or not licence.revoked:
                return licence
        if pending is not None:
            return self.licence_of(pending, trust, hardware, clock, confirmed=False)
        raise NotActivated("cannot find an identity: this machine is not activated")

    def _check_certificate(self, identity: Identity) -> None:
        """Check that the stored device certificate names this node, generation and key. Raises StateDamaged."""
        spiffe = NodeSpiffeId(identity.trust_domain, identity.tenant, identity.node)
        public_key = identity.node_key.public_key()
        if not is_certificate_of(
            identity.chain[0], spiffe=spiffe, generation=identity.generation, public_key=public_key
        ):
            path = self.identities.generation_dir(identity.generation) / "device.pem"
            raise StateDamaged(path, "it is not the certificate of this node, generation and key")
