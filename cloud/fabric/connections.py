"""Adapter: Fabric's TLS, its own certificate, the server's context and the client of Breakwater, by the current trust.

It learns which services were revoked and which CA issues for services, and has its own certificate renewed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from cloud.fabric.entropy import Entropy
from cloud.fabric.service.ports import Now
from cloud.fabric.store.revoked import RevokedStore
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.mtls.client import CallError, CheckedContext, CloudClient, ServerCheck, client_context, expected_service
from cloud.mtls.est_client import EstClient
from cloud.mtls.identity import Identity
from cloud.mtls.peer import key_id_of
from cloud.mtls.renewal import IdentityRenewal
from cloud.mtls.revoked import RevokedSet
from cloud.mtls.server import ServerTls
from cloud.tasks.stopping import Stopping
from protocol.messages.est import PATH_CACERTS

log = logging.getLogger("cascade.fabric.connections")

MEET_SECONDS = 1.0


class Connections:
    """Who Fabric is on the wire, and whom it trusts there."""

    def __init__(
        self,
        *,
        breakwater_url: str,
        identity: Identity,
        directory: Path,
        current_trust: CurrentTrust,
        revoked: RevokedStore,
        now: Now,
        entropy: Entropy,
    ) -> None:
        """`directory` holds the files of `identity`."""
        self._current_trust = current_trust
        self._now = now
        self._issuer = ""
        """The key id of the CA that issues for services now."""
        self.revoked = RevokedSet(
            load=revoked.read_all,
            save=revoked.add,
            forget=revoked.forget,
            now=now,
            entropy=entropy,
            issuing=self._issuer_changed,
        )
        self.client = CloudClient(breakwater_url, self._context(identity))
        self.tls = ServerTls(identity.chain_pem, identity.key, current_trust.ca_pem)
        self.identity = IdentityRenewal(
            identity,
            directory,
            trust=lambda: current_trust.trust,
            issuer=EstClient(self.client),
            now=now,
            server_tls=(self.tls,),
            on_renewed=(self._renewed,),
        )

    def _context(self, identity: Identity) -> CheckedContext:
        trust = self._current_trust.trust
        check = ServerCheck(
            expected_service(trust.trust_domain, "breakwater"), trust, self._now, lambda serial: serial in self.revoked
        )
        return client_context(self._current_trust.ca_pem, check, identity.chain_pem, identity.key)

    async def _renewed(self, identity: Identity) -> None:
        await self.client.reconnect(self._context(identity))

    async def trust_changed(self) -> None:
        """Another bundle is current: it counts for the connections to come, and at the next request of the open ones."""
        self.tls.retrust(self._current_trust.ca_pem)
        await self.client.reconnect(self._context(self.identity.identity))
        self._look_at_own()

    def _issuer_changed(self, key_id: str) -> None:
        self._issuer = key_id
        self._look_at_own()

    def _look_at_own(self) -> None:
        """Renew if our certificate is by a CA that issues no more, once the one that does is published."""
        published = self._current_trust.trust.service_issuers
        active = tuple(ca for ca in published if key_id_of(ca) == self._issuer)
        self.identity.trust_changed(active or None)

    def service_certificates(self) -> Mapping[str, x509.Certificate]:
        """The TLS certificates of the services, as far as they are known here, by name."""
        met = self.client.server
        return {"fabric": self.identity.identity.leaf, **({"breakwater": met} if met is not None else {})}

    async def meet_breakwater(self, stopping: Stopping) -> None:
        """The background task: know Breakwater's certificate soon after every `reconnect`.

        Whoever wants to drop an issuing CA gets to know which services have a certificate of it.
        """
        while not await stopping.sleep(MEET_SECONDS):
            if self.client.server is None:
                try:
                    await self.client.call("GET", PATH_CACERTS)
                except CallError as error:
                    log.warning("cannot meet the issuer", extra={"reason": str(error)})

    async def follow_revocations(self, stopping: Stopping) -> None:
        """The background task: learn of every revoked service."""
        await self.revoked.follow(lambda: self.client, stopping)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self.client.aclose()
