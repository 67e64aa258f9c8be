"""The agent's state directory as one thing: who may use it, and its parts.

lock                                      held by the one process that owns the state    node.disk.files
trust/                                    published TUF generations                      node.trust
identity/, current.json, activation.json  who this machine is, by generation             node.disk.identity
licence/, tombstones/                     what Fabric said of it                         node.licensing.store
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from node.disk.files import StateLock, ensure_private_dir
from node.disk.identity import Identity, IdentityStore
from node.errors import NodeError, StateDamaged
from node.exits import Exit
from node.licensing.licence import Licence
from node.licensing.store import LicenceStore
from node.link.certificates import is_certificate_of
from node.trust import published
from protocol.ids import NodeSpiffeId

log = logging.getLogger("cascadia.state")

Clock = Callable[[], datetime]


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

    def licence_of(self, identity: Identity, clock: Clock, *, confirmed: bool) -> Licence:
        """A licence over the trust that was last published.

        Raises StateDamaged (also when the certificate is not this identity's), StateError, TrustError.
        """
        spiffe = NodeSpiffeId(identity.trust_domain, identity.tenant, identity.node)
        public_key = identity.node_key.public_key()
        if not is_certificate_of(
            identity.chain[0], spiffe=spiffe, generation=identity.generation, public_key=public_key
        ):
            path = self.identities.generation_dir(identity.generation) / "device.pem"
            raise StateDamaged(path, "it is not the certificate of this node, generation and key")
        trust = published.load(self.directory)
        return Licence(self.licences, identity, trust, clock, confirmed=confirmed)

    def pending(self, clock: Clock) -> Identity | None:
        """The generation that waits to be confirmed, if there is one; one that the cloud has ended waits for nothing.

        A damaged one is no reason to stop the one in force. Raises StateError, TrustError.
        """
        try:
            stored = self.identities.pending()
            if stored is None or self.licence_of(stored, clock, confirmed=False).revoked:
                return None
        except StateDamaged as damage:
            if self.identities.current() is None:
                raise
            log.warning("%s; going on with the generation in force", damage.text)
            return None
        return stored

    def load_licence(self, clock: Clock) -> Licence:
        """What to run as: the generation in force; where there is none, or it is revoked, one that waits to be confirmed.

        Raises NotActivated, StateError, TrustError.
        """
        current, pending = self.identities.current(), self.pending(clock)
        if current is not None:
            licence = self.licence_of(current, clock, confirmed=True)
            if pending is None or not licence.revoked:
                return licence
        if pending is not None:
            return self.licence_of(pending, clock, confirmed=False)
        raise NotActivated("cannot find an identity: this machine is not activated")
