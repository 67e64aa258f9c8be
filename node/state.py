"""Store: the agent's state directory as one thing, its lock and its parts.

lock                                      held by the one process that owns the state    node.disk.files
trust/                                    published TUF generations                      node.trust
identity/, current.json, activation.json  who this machine is, by generation             node.disk.identity
licence/, tombstones/                     what Fabric said of it                         node.licensing.store
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.clock import Clock
from node.disk.files import StateLock, ensure_private_dir
from node.disk.identity import Identity, IdentityStore
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
    """There is no identity on this machine."""

    exit = Exit.UNACTIVATED
    code = "unactivated"


class State:
    """The parts over one directory. Reading needs no lock; whoever writes is inside `owned`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.identities = IdentityStore(directory)
        self.licences = LicenceStore(directory)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Be the one process that owns the state. Raises StateBusy, StateError."""
        ensure_private_dir(self.directory)
        with StateLock(self.directory):
            yield

    def licence_of(
        self, identity: Identity, trust: CurrentTrust, hardware: HardwareCheck, clock: Clock, *, confirmed: bool
    ) -> Licence:
        """The licence of a stored generation. Raises StateDamaged (also as `_check_certificate`), StateError."""
        self._check_certificate(identity)
        return Licence(self.licences, identity, trust, hardware, clock, confirmed=confirmed)

    def pending(self, trust: TrustSet) -> Identity | None:
        """The generation that waits for its confirmation. A generation that the cloud has ended waits for nothing.

        A damaged one does not stop the generation in force. Raises StateError.
        """
        try:
            stored = self.identities.pending()
            if stored is None:
                return None
            self._check_certificate(stored)
        except StateDamaged as damage:
            if self.identities.current() is None:
                raise
            log.warning("%s; going on with the generation in force", damage.text)
            return None
        evidence = self.licences.load(stored.holder, trust.signing_keys)
        return None if current_revocation(evidence, stored.holder) else stored

    def load_licence(self, hardware: HardwareCheck, clock: Clock) -> Licence:
        """The licence to run on: of the generation in force; without one, or if it is revoked, of one that waits.

        Raises NotActivated, StateError, TrustError.
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
        """Raises StateDamaged when the stored certificate is not of this node, generation and key."""
        spiffe = NodeSpiffeId(identity.trust_domain, identity.tenant, identity.node)
        public_key = identity.node_key.public_key()
        if not is_certificate_of(
            identity.chain[0], spiffe=spiffe, generation=identity.generation, public_key=public_key
        ):
            path = self.identities.generation_dir(identity.generation) / "device.pem"
            raise StateDamaged(path, "it is not the certificate of this node, generation and key")
