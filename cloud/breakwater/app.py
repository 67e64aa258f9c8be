"""The wiring of Breakwater: settings in, a `Unit` of the process out. Decides nothing."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from litestar import Litestar
from litestar.types import Scope

from cloud.breakwater.authorities import BELIEVED, Authorities
from cloud.breakwater.background import Chores
from cloud.breakwater.issuance.enrolment import Enrolments
from cloud.breakwater.issuance.est import Est, Myself
from cloud.breakwater.keys.signer import is_for_development
from cloud.breakwater.parts import Assembly, assemble, sources_of
from cloud.breakwater.refusal_audit import LOOK_SECONDS, Refusals
from cloud.breakwater.revocation.crl_publisher import Publisher
from cloud.breakwater.revocation.crl_shards import OCSP_PATH
from cloud.breakwater.revocation.feed import Feed
from cloud.breakwater.revocation.ocsp_responder import Responder
from cloud.breakwater.routes import routes
from cloud.breakwater.routes.access import caller_of
from cloud.breakwater.routes.problems import refusal
from cloud.breakwater.routes.public import Public, make_public_app
from cloud.breakwater.settings import BreakwaterSettings, check_settings
from cloud.breakwater.store.enrolments import EnrolmentStore
from cloud.breakwater.store.metrics_reads import MeasureStore
from cloud.breakwater.store.revocation_status import RevocationStore
from cloud.breakwater.store.shards import ShardStore
from cloud.breakwater.tables import ENGINE
from cloud.clock import utc_now
from cloud.http.app import make_app
from cloud.http.guard import Guard
from cloud.mtls.identity import Identity, load_identity
from cloud.mtls.peer import PeerRefused, PeerTrust, key_id_of, require_issuer
from cloud.mtls.renewal import IdentityRenewal, Rekey
from cloud.mtls.server import ServerTls
from cloud.process.gates import GateRefused
from cloud.process.serve import Listener, Served, Unit
from cloud.process.settings import load_settings
from cloud.storage import ServiceEngine, StorageError
from cloud.storage.migrate import ensure_migrated
from cloud.tasks.periodic import every

log = logging.getLogger("cascade.breakwater")

Now = Callable[[], datetime]
UNTOLD = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines every few seconds: what they are refused is no event."""


class Breakwater:
    """The parts of a running Breakwater, put together from settings; nothing listens and no database is open yet.

    `engine` is the service's own; another replica in one process (a test) brings its own. Raises SettingsError,
    KeyFileError, IdentityError, naming the file.
    """

    def __init__(self, settings: BreakwaterSettings, now: Now = utc_now, engine: ServiceEngine = ENGINE) -> None:
        check_settings(settings)
        self._settings = settings
        self._now = now
        self.engine = engine
        self._database = settings.database_location()
        engine.configure(self._database)
        self.assembly: Assembly = assemble(engine, sources_of(settings), now)
        authorities, self.issuing = self.assembly.authorities, self.assembly.issuing
        revocations = RevocationStore(engine)
        self.publisher = Publisher(
            ShardStore(engine), authorities, self.assembly.signer, settings.pki_url, settings.crl, now
        )
        self.responder = Responder(revocations, authorities, self.issuing, now)
        self.feed = Feed(revocations, now, self._services_issuer)
        self.refusals = Refusals(self.assembly.store.audit, self.assembly.entries, now)
        self._chores = Chores(self.assembly, MeasureStore(engine), now, settings.crl.period)
        self.issuing.on_revocation(self.publisher.kick)
        self.issuing.on_revocation(self.feed.kick)
        self.enrolments = Enrolments(EnrolmentStore(engine), self.assembly.entries, now, os.urandom)
        guard = Guard(trust=self.trust, checks=self.issuing, now=now)
        self.app = self._make_app(guard)
        public = Public(self.publisher, self.responder, authorities, now)
        self.public_app = make_public_app(public, guard, self._refused)
        passphrase_file = settings.path(settings.passphrase_file)
        identity = load_identity(settings.path(settings.tls), passphrase_file)
        self._tls = ServerTls(identity.chain_pem, identity.key, b"")
        self.identity = IdentityRenewal(
            identity,
            settings.path(settings.tls),
            trust=self.trust,
            issuer=Myself(self.issuing, authorities.ca_certificates),
            now=now,
            server_tls=(self._tls,),
            on_renewed=(self._renewed,),
            rekey=Rekey(passphrase_file),
        )
        authorities.on_change(self._authorities_changed)

    def trust(self) -> PeerTrust:
        """Whom this service believes: peers issued by its own CAs, each for its class."""
        return self.assembly.authorities.peer_trust()

    def _services_issuer(self) -> str:
        """The key id of the CA that our own certificate is of; empty while it is not believed.

        We are the first to have one of a CA that was activated, so whoever hears of it here and connects anew meets it.
        """
        try:
            return key_id_of(require_issuer(self.identity.identity.leaf, self.trust().service_issuers))
        except PeerRefused:
            return ""

    async def _renewed(self, _: Identity) -> None:
        self.feed.wake()

    def _make_app(self, guard: Guard) -> Litestar:
        app = make_app(routes(), guard, self.issuing, metrics=self.assembly.metrics.registry, refused=self._refused)
        app.state["est"] = Est(self.issuing, self.enrolments, self.assembly.authorities.ca_certificates)
        app.state["feed"] = self.feed
        return app

    async def _refused(self, error: Exception, scope: Scope) -> None:
        """Every refusal is counted and leaves a line in the audit, whoever made it."""
        view: Any = scope
        path = str(view["path"])
        if path in UNTOLD:
            return
        known = refusal(error)
        self.assembly.metrics.refused.add(known.code)
        caller = caller_of(view, self.trust(), self._now())
        await self.refusals.note(caller, known.code, f"{view['method']} {path}", known.detail)

    def _authorities_changed(self, authorities: Authorities) -> None:
        self._tls.retrust(authorities.roots_pem())
        active = [row.certificate for row in authorities.rows() if row.ca == "services" and row.state == "active"]
        self.identity.trust_changed(tuple(x509.load_der_x509_certificate(der) for der in active))

    async def open(self) -> None:
        """Migrate, open the database, read the authorities. Raises StorageError, SignerError, GateRefused."""
        await ensure_migrated("breakwater", self._database)
        await self.engine.open()
        try:
            await self.assembly.load()
            self._refuse_development()
            await self.issuing.recover()
        except BaseException:  # a cancellation too must not leave the database open
            await self.engine.close()
            raise

    def _refuse_development(self) -> None:
        for row in self.assembly.authorities.rows():
            made = x509.load_der_x509_certificate(row.certificate)
            if self._settings.mode == "production" and row.state in BELIEVED and is_for_development(made):
                raise GateRefused(
                    "ca-is-not-for-development", f"the CA {row.id} was made by a development `cascade init`"
                )

    async def close(self) -> None:
        """After the last request."""
        try:
            await self.refusals.flush(everything=True)
            await self._chores.tell_usage()
        except StorageError as error:
            log.error("the last lines of the audit are lost", extra={"error": str(error)})
        await self.assembly.keys.aclose()
        await self.engine.close()

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
        return Unit(name="breakwater", open=self.serving)

    def _served(self) -> Served:
        listeners = tuple(
            Listener(
                self.public_app if where.purpose == "pki" else self.app,
                where.host,
                where.port,
                self._tls if where.tls else None,
                (OCSP_PATH,) if where.purpose == "pki" else (),
            )
            for where in self._settings.listeners
        )
        return Served(
            listeners=listeners,
            tasks=(
                self.identity.run,
                self.publisher.run,
                self.feed.run,
                self.responder.keep,
                every(LOOK_SECONDS, "refusals", self.refusals.flush),
                *self._chores.tasks(),
            ),
        )


def wire(settings: BreakwaterSettings, now: Now = utc_now) -> Breakwater:
    """The parts of a Breakwater; see `Breakwater`."""
    return Breakwater(settings, now)


def breakwater_unit(settings_file: Path, now: Now = utc_now) -> Unit:
    """Breakwater as `cascade up` and `cascade serve` run it."""
    return wire(load_settings(settings_file, BreakwaterSettings), now).unit()
