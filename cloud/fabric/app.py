"""The wiring of Fabric: settings in, a `Unit` of the process out. Decides nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from litestar import Litestar

from cloud.clock import utc_now
from cloud.crypto.keyfile import read_passphrase
from cloud.fabric.background import HOUSEKEEPING_SECONDS, Chore, Driver
from cloud.fabric.entropy import Entropy, Ids, system_entropy
from cloud.fabric.issuer import HttpIssuer, Issuer
from cloud.fabric.licensing.signing import Signer, read_signer
from cloud.fabric.routes import repository_routes, routes
from cloud.fabric.service.context import Core, TpmVerifier, Verifier
from cloud.fabric.service.nodes import statement
from cloud.fabric.service.operators import tokens
from cloud.fabric.service.published_trust.follower import Follower, warn_of_expiry
from cloud.fabric.settings import FabricSettings
from cloud.fabric.store import Stores, stores_over
from cloud.fabric.tuf.bootstrap import read_online_signers
from cloud.fabric.tuf.current_trust import Belief
from cloud.fabric.tuf.repository import OnlineSigners
from cloud.fabric.tuf.serving import keep_fresh
from cloud.fabric.tuf.targets import TargetsError
from cloud.http.app import make_app
from cloud.http.guard import ClosedAnswer, Guard, Operator
from cloud.http.metrics import Metrics
from cloud.mtls.client import CallError, CheckedContext, CloudClient, ServerCheck, client_context, expected_service
from cloud.mtls.est_client import EstClient
from cloud.mtls.identity import Identity, load_identity
from cloud.mtls.peer import NodePeer, key_id_of
from cloud.mtls.renewal import IdentityRenewal
from cloud.mtls.revoked import RevokedSet
from cloud.mtls.server import ServerTls
from cloud.process.gates import check_gates
from cloud.process.serve import Listener, Served, Unit
from cloud.process.settings import load_settings
from cloud.storage import ServiceEngine, StorageError
from cloud.storage.errors import IntegrityError
from cloud.storage.migrate import ensure_migrated
from cloud.tasks.stopping import Stopping
from protocol.ids import NodeId, TenantId
from protocol.messages.est import PATH_CACERTS

log = logging.getLogger("cascade.fabric")

Now = Callable[[], datetime]
MEET_SECONDS = 1.0


class Checks:
    """What Fabric knows of its peers, for the guard."""

    def __init__(self, revoked: RevokedSet, stores: Stores) -> None:
        self._revoked = revoked
        self._nodes = stores.nodes

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """One query by key at each request: a revocation counts from the next one on."""
        return await self._nodes.generation_open(tenant, node, generation)

    async def service_revoked(self, serial: int) -> bool:
        return serial in self._revoked


@dataclass
class Holder:
    """The core, which can be made only once the database is open; handlers reach it through the application."""

    core: Core | None = None

    def get(self) -> Core:
        if self.core is None:
            raise StorageError("Fabric is not open")
        return self.core


def make_guard(belief: Belief, revoked: RevokedSet, stores: Stores, holder: Holder, now: Now) -> Guard:
    """The guard of both listeners."""

    async def operator_of(token: str) -> Operator | None:
        return await tokens.authenticate(holder.get(), token)

    async def closed(peer: NodePeer) -> ClosedAnswer:
        return await statement.closed_answer(holder.get(), peer)

    return Guard(
        trust=lambda: belief.trust, checks=Checks(revoked, stores), now=now, operator_of=operator_of, closed=closed
    )


def make_fabric_apps(guard: Guard, stores: Stores) -> tuple[Litestar, Litestar]:
    """The API and the read-only repository. `state["it"]` of the API is set when the core is there."""
    api = make_app(routes(), guard, None, metrics=Metrics("fabric"))
    return api, make_app(repository_routes(), guard, stores.repository)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a core is made of beside its database."""

    stores: Stores
    signer: Signer
    online: OnlineSigners
    issuer: Issuer
    belief: Belief
    kick: Callable[[], None]
    services: Callable[[], Mapping[str, x509.Certificate]] = dict


async def make_core(
    settings: FabricSettings,
    parts: Parts,
    *,
    now: Now,
    verifier: Verifier | None = None,
    entropy: Entropy = system_entropy,
) -> Core:
    """The core over the open database. Raises StorageError when `cascade init` has not been here."""
    secrets = await parts.stores.installation.read_all()
    if not {"nonce_key", "ek_key", "epoch"} <= set(secrets):
        raise StorageError("this database has no server secrets: it was not made by `cascade init`")
    return Core(
        stores=parts.stores,
        trust_domain=settings.trust_domain,
        public_url=settings.public_url.rstrip("/"),
        epoch=int(secrets["epoch"]),
        nonce_key=secrets["nonce_key"],
        ek_key=secrets["ek_key"],
        belief=parts.belief,
        online=parts.online,
        now=now,
        entropy=entropy,
        ids=Ids(entropy),
        signer=parts.signer,
        issuer=parts.issuer,
        kick=parts.kick,
        services=parts.services,
        confirm_within=timedelta(seconds=settings.confirm_within_seconds),
        verifier=verifier or TpmVerifier(),
    )


class Fabric:
    """The parts of a running Fabric, put together from settings; nothing listens and no database is open yet.

    Raises SettingsError, KeyFileError, IdentityError, naming the file.
    """

    def __init__(self, settings: FabricSettings, now: Now = utc_now) -> None:
        check_gates(settings)
        self._settings = settings
        self._now = now
        passphrase_file = settings.path(settings.passphrase_file)
        passphrase = read_passphrase(passphrase_file)
        keys = settings.path(settings.keys)
        self._signer = read_signer(keys, passphrase, settings.trust_domain)
        self._online = read_online_signers(keys, passphrase)
        self.belief = Belief(settings.trust_domain)
        self._engine = ServiceEngine("fabric")
        self._stores = stores_over(self._engine)
        self._follower = Follower(self.belief, self._stores, self._retrusted)
        self._revoked = RevokedSet(
            load=self._stores.revoked.read_all,
            save=self._stores.revoked.add,
            forget=self._stores.revoked.forget,
            now=now,
            entropy=system_entropy,
            issuing=self._issuing,
        )
        self._issuer = ""
        identity = load_identity(settings.path(settings.tls), passphrase_file)
        self._client = CloudClient(settings.breakwater_url, self._context(identity))
        self._tls = ServerTls(identity.chain_pem, identity.key, self.belief.ca_pem)
        self._keeper = IdentityRenewal(
            identity,
            settings.path(settings.tls),
            trust=lambda: self.belief.trust,
            issuer=EstClient(self._client),
            now=now,
            server_tls=(self._tls,),
            on_renewed=(self._renewed,),
        )
        self.holder = Holder()
        self._kicked = asyncio.Event()
        self._driver: Driver | None = None
        self._database = settings.database_location()
        self._engine.configure(self._database)
        self.app, self.repository = make_fabric_apps(
            make_guard(self.belief, self._revoked, self._stores, self.holder, now), self._stores
        )

    def _context(self, identity: Identity) -> CheckedContext:
        check = ServerCheck(
            expected_service(self._settings.trust_domain, "breakwater"),
            self.belief.trust,
            self._now,
            lambda serial: serial in self._revoked,
        )
        return client_context(self.belief.ca_pem, check, identity.chain_pem, identity.key)

    async def _renewed(self, identity: Identity) -> None:
        await self._client.reconnect(self._context(identity))

    async def _retrusted(self) -> None:
        """Another bundle is published: it counts for the connections to come, and at the next request of the open."""
        self._tls.retrust(self.belief.ca_pem)
        await self._client.reconnect(self._context(self._keeper.identity))
        self._look_at_own()

    def _issuing(self, key_id: str) -> None:
        """Breakwater says which CA issues for services now."""
        self._issuer = key_id
        self._look_at_own()

    def _look_at_own(self) -> None:
        """Renew if our certificate is by a CA that issues no more, once the one that does is published."""
        active = tuple(ca for ca in self.belief.trust.service_issuers if key_id_of(ca) == self._issuer)
        self._keeper.trust_changed(active or None)

    def _services(self) -> dict[str, x509.Certificate]:
        met = self._client.server
        return {"fabric": self._keeper.identity.leaf, **({"breakwater": met} if met is not None else {})}

    async def follow_trust(self, stopping: Stopping) -> None:
        """Work by what is published."""
        await self._follower.run(self.holder.get(), stopping)

    async def meet_breakwater(self, stopping: Stopping) -> None:
        """Know Breakwater's certificate soon after every `reconnect`: who drops an issuing CA is told who serves by it."""
        while not await stopping.sleep(MEET_SECONDS):
            if self._client.server is None:
                try:
                    await self._client.call("GET", PATH_CACERTS)
                except CallError as error:
                    log.warning("cannot meet the issuer", extra={"reason": str(error)})

    async def follow_revocations(self, stopping: Stopping) -> None:
        """Hear of every revoked service."""
        await self._revoked.follow(lambda: self._client, stopping)

    async def _keep_fresh(self) -> None:
        await warn_of_expiry(self._stores.repository, self._now())
        try:
            # One transaction: between its reading and its writing nobody may publish, or older targets were named again.
            async with self._stores.transaction():
                await keep_fresh(self._stores.repository, self._now(), self._online)
        except IntegrityError:
            return  # another replica was first

    async def open(self) -> None:
        """Migrate, open the database, wire the core. Raises StorageError."""
        await ensure_migrated("fabric", self._database)
        await self._engine.open()
        await self._revoked.load()
        try:
            await self._follower.look()
        except TargetsError as error:
            raise StorageError(f"the published trust cannot be used: {error}") from error
        parts = Parts(
            stores=self._stores,
            signer=self._signer,
            online=self._online,
            issuer=HttpIssuer(self._client),
            belief=self.belief,
            kick=self._kicked.set,
            services=self._services,
        )
        core = await make_core(self._settings, parts, now=self._now)
        self.holder.core = core
        self.app.state["it"] = core
        chores: tuple[tuple[str, float, Chore], ...] = (("trust", HOUSEKEEPING_SECONDS, self._keep_fresh),)
        self._driver = Driver(core, self._kicked, chores)

    async def drive(self, stopping: Stopping) -> None:
        """The background work."""
        if self._driver is None:
            raise StorageError("Fabric is not open")
        await self._driver.run(stopping)

    async def end_polls(self, stopping: Stopping) -> None:
        """Let every long poll end as soon as the process is told to stop."""
        await stopping.wait()
        self.holder.get().wake.close()

    async def close(self) -> None:
        """After the last request."""
        await self._client.aclose()
        await self._engine.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Served]:
        """Open the service, and close it after the last request."""
        await self.open()
        try:
            yield self._served()
        finally:
            await self.close()

    def unit(self) -> Unit:
        """The service as the process runs it."""
        return Unit(name="fabric", open=self.serving)

    def _served(self) -> Served:
        listeners = tuple(
            Listener(
                self.repository if where.purpose == "tuf" else self.app,
                where.host,
                where.port,
                self._tls if where.tls else None,
            )
            for where in self._settings.listeners
        )
        return Served(
            listeners=listeners,
            tasks=(
                self.drive,
                self.end_polls,
                self.follow_trust,
                self.follow_revocations,
                self.meet_breakwater,
                self._keeper.run,
            ),
        )


def fabric_unit(settings_file: Path, now: Now = utc_now) -> Unit:
    """Fabric as `cascade up` and `cascade serve` run it."""
    return Fabric(load_settings(settings_file, FabricSettings), now).unit()
