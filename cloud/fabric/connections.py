"""Adapter: Fabric's TLS. Its own certificate, the server context, and the client that calls Breakwater.

Server and client check their peers against the current trust. Breakwater's events report the revoked certificates of
services, and the CA of Breakwater's own certificate. Fabric renews its own certificate before it expires, and when its
CA differs from the CA of Breakwater's certificate.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from cloud.events.follower import Follower
from cloud.fabric.entropy import Entropy
from cloud.fabric.issuer_events import IssuerEvents
from cloud.fabric.service.ports import Now
from cloud.fabric.store import Stores
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.mtls.anchors import client_anchors
from cloud.mtls.client import CallError, CheckedContext, CloudClient, ServerCheck, client_context, expected_service
from cloud.mtls.est_client import EstClient
from cloud.mtls.identity import Identity, load_identity
from cloud.mtls.peer import key_id_of
from cloud.mtls.renewal import IdentityRenewal
from cloud.mtls.revoked import PRUNE_SECONDS, RevokedSet
from cloud.mtls.server import ServerTls
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from protocol.messages.est import PATH_CACERTS

log = logging.getLogger("cascade.fabric.connections")

PRUNE_RETRY_SECONDS = 1.0
"""Pause before another look whether Breakwater answers."""
PROBE_RETRY_SECONDS = 1.0
"""Pause after a connection to Breakwater that failed."""


class Connections:
    """Fabric's own certificate, its TLS contexts, and the certificates of services that it accepts."""

    def __init__(
        self,
        *,
        breakwater_url: str,
        identity: Identity,
        directory: Path,
        passphrase_file: Path,
        current_trust: CurrentTrust,
        stores: Stores,
        now: Now,
        entropy: Entropy,
    ) -> None:
        """`directory` holds the files of `identity`, and `passphrase_file` the passphrase of its key."""
        self._current_trust = current_trust
        self._now = now
        self._issuer = ""
        """The key id of the CA that issued Breakwater's own certificate; empty before Breakwater's first report."""
        self.revoked = RevokedSet(load=stores.revoked.read_all, forget=stores.revoked.forget, now=now)
        self.client = CloudClient(breakwater_url, self._context(identity))
        self.tls = ServerTls(identity.chain_pem, identity.key, client_anchors(current_trust.trust))
        self.identity = IdentityRenewal(
            identity,
            directory,
            trust=lambda: current_trust.trust,
            issuer=EstClient(self.client),
            now=now,
            server_tls=(self.tls,),
            on_renewed=(self._renewed,),
        )
        self.issuer_events = IssuerEvents(self.revoked, stores.revoked, stores.installation, self._issuer_changed)
        self.follower = Follower(
            stores.engine, "breakwater", lambda: self.client, self.issuer_events, now=now, entropy=entropy
        )
        self.identity.load_again_with(lambda: load_identity(directory, passphrase_file))

    def _context(self, identity: Identity) -> CheckedContext:
        trust = self._current_trust.trust
        check = ServerCheck(
            expected_service(trust.trust_domain, "breakwater"), trust, self._now, lambda serial: serial in self.revoked
        )
        return client_context(self._current_trust.ca_pem, check, identity.chain_pem, identity.key)

    async def _renewed(self, identity: Identity) -> None:
        await self.client.reconnect(self._context(identity))

    async def trust_changed(self) -> None:
        """Replace the TLS contexts after a new bundle became current.

        The new contexts apply to new connections. The guard checks the peer of an open connection at its next request.
        """
        self.tls.retrust(client_anchors(self._current_trust.trust))
        await self.client.reconnect(self._context(self.identity.identity))
        self._renew_if_replaced()

    def _issuer_changed(self, key_id: str) -> None:
        if key_id != self._issuer:
            self._issuer = key_id
            self._renew_if_replaced()

    def _renew_if_replaced(self) -> None:
        """Renew our certificate if Breakwater's comes from another CA, as soon as the bundle contains that CA."""
        published = self._current_trust.trust.service_issuers
        active = tuple(ca for ca in published if key_id_of(ca) == self._issuer)
        self.identity.trust_changed(active or None)

    def service_certificates(self) -> Mapping[str, x509.Certificate]:
        """The TLS certificates of Fabric and, once Fabric has connected to it, of Breakwater; by service name."""
        breakwater = self.client.server
        return {"fabric": self.identity.identity.leaf, **({"breakwater": breakwater} if breakwater is not None else {})}

    async def learn_breakwater_certificate(self, stopping: Stopping) -> None:
        """Background task: connect to Breakwater soon after every `reconnect`, to learn its certificate.

        Before an issuing CA is dropped, operators need to see which services have a certificate from that CA.
        """
        forgotten = self.client.server_forgotten
        while not await stopping.first(forgotten):
            forgotten.clear()
            if self.client.server is not None:
                continue
            try:
                await self.client.call("GET", PATH_CACERTS)
            except CallError as error:
                log.warning("cannot learn the certificate of Breakwater", extra={"reason": str(error)})
                forgotten.set()
                if await stopping.sleep(PROBE_RETRY_SECONDS):
                    return

    async def load(self) -> None:
        """Read what Breakwater's earlier events have stored. Call it before Fabric listens. Raises StorageError."""
        await self.follower.load()
        await self.issuer_events.load()

    async def prune_revoked(self, stopping: Stopping) -> None:
        """Background task: forget revoked certificates that expired long ago, at the start and then every hour.

        It waits while Breakwater does not answer: then nothing says that this clock is right.
        """
        pause = PRUNE_RETRY_SECONDS
        while not await stopping.sleep(pause):
            pause = PRUNE_RETRY_SECONDS
            if not self.follower.is_answered:
                continue
            try:
                await self.revoked.prune()
            except StorageError as error:
                log.warning("cannot forget expired revocations", extra={"reason": str(error)})
            else:
                pause = PRUNE_SECONDS

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self.client.aclose()
