"""Wiring: opens Breakwater from its settings and gives the process a `Unit`. Decides nothing."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from litestar import Litestar

from cloud.breakwater.background import Background
from cloud.breakwater.event_seeding import EventSeeding
from cloud.breakwater.gauges import Gauges
from cloud.breakwater.hierarchy import TRUSTED
from cloud.breakwater.keys.signer import is_for_development
from cloud.breakwater.own_identity import OwnIdentity
from cloud.breakwater.parts import Parts, open_parts, sources_of
from cloud.breakwater.peer_records import PeerRecords
from cloud.breakwater.refusal_audit import FLUSH_SECONDS, RefusalAudit
from cloud.breakwater.revocation.crl_shards import OCSP_PATH
from cloud.breakwater.routes import public_routes, routes
from cloud.breakwater.routes.refusals import RefusalRecorder
from cloud.breakwater.settings import BreakwaterSettings, check_settings
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.clock import utc_now
from cloud.events.doorbell import Doorbell
from cloud.events.nats.parts import make_nats_parts
from cloud.http.admission import Admission
from cloud.http.app import OnError, make_app, make_metrics_app
from cloud.http.guard import Guard
from cloud.http.metrics import Metrics
from cloud.http.readiness import certificate_probe
from cloud.mtls.identity import Identity, load_identity
from cloud.process.gates import GateRefused
from cloud.process.listeners import listeners_of
from cloud.process.serve import Served, Unit
from cloud.process.settings import load_settings
from cloud.storage import StorageError
from cloud.storage.database import open_database
from cloud.tasks.periodic import every

log = logging.getLogger("cascade.breakwater")

Now = Callable[[], datetime]


def make_api(
    guard: Guard, services: Mapping[str, object], metrics: Metrics, on_error: OnError | None = None
) -> Litestar:
    """Make the application of the mTLS listener. Handlers get the `services` that they name as parameters."""
    return make_app(routes(), guard, services=services, metrics=metrics, on_error=on_error)


def make_public(guard: Guard, services: Mapping[str, object], on_error: OnError | None = None) -> Litestar:
    """Make the application of the plaintext listener with the purpose "pki"."""
    return make_app(public_routes(), guard, services=services, on_error=on_error)


@dataclass(frozen=True, kw_only=True)
class Breakwater:
    """An open Breakwater: its parts, its certificate, its two applications, and the listeners and tasks to run."""

    parts: Parts
    identity: OwnIdentity
    api: Litestar
    public: Litestar
    served: Served


@asynccontextmanager
async def opened(settings: BreakwaterSettings, now: Now = utc_now) -> AsyncIterator[Breakwater]:
    """Open Breakwater, and close it after the last request.

    Raises:
        SettingsError, GateRefused, KeyFileError, IdentityError, StorageError, SignerError: the text names the cause.
    """
    check_settings(settings)
    sources = sources_of(settings)
    identity = load_identity(settings.path(settings.tls), settings.path(settings.passphrase_file))
    async with (
        open_database("breakwater", settings.database_location()) as engine,
        open_parts(engine, sources, now) as parts,
    ):
        if settings.mode == "production":
            _refuse_development(parts.authorities.rows())
        await parts.executor.recover()
        await parts.events.change_feed.begin()
        refusal_audit = RefusalAudit(parts.stores.audit, parts.entries, now)
        background = Background(parts, now)
        try:
            yield _breakwater(settings, parts, identity, refusal_audit, background, now)
        finally:
            await _write_last_rows(refusal_audit, background)


def _refuse_development(rows: tuple[AuthorityRow, ...]) -> None:
    for row in rows:
        if row.state in TRUSTED and is_for_development(x509.load_der_x509_certificate(row.certificate)):
            raise GateRefused("ca-is-not-for-development", f"the CA {row.id} was made for development")


async def _write_last_rows(refusal_audit: RefusalAudit, background: Background) -> None:
    """Write the audit rows of counted refusals and key uses, after the last request."""
    try:
        await refusal_audit.flush(everything=True)
        await background.record_key_use()
    except StorageError as error:
        log.error("cannot write the last rows of the audit; they are lost", extra={"error": str(error)})


def _breakwater(
    settings: BreakwaterSettings,
    parts: Parts,
    identity: Identity,
    refusal_audit: RefusalAudit,
    background: Background,
    now: Now,
) -> Breakwater:
    """Make the applications, listeners and background tasks over the parts."""
    own = OwnIdentity(
        identity,
        settings.path(settings.tls),
        settings.path(settings.passphrase_file),
        issuing=parts.issuing,
        authorities=parts.authorities,
        event_store=parts.stores.events,
        now=now,
    )
    Gauges(
        parts.metrics,
        parts.stores.metrics_reads,
        parts.authorities,
        parts.signer,
        now,
        settings.crl.period,
        parts.root_crls,
        parts.root_crl_watch,
    ).attach()
    parts.events.gauges.attach(parts.metrics.registry)
    trust = parts.authorities.peer_trust
    admission = Admission(shared_networks=settings.admission.shared_networks, factor=settings.admission.factor)
    parts.metrics.registry.count_refusals(admission)
    checks = PeerRecords(parts.stores.generations, parts.stores.issuance)
    guard = Guard(trust=trust, checks=checks, now=now, admission=admission)
    refused = RefusalRecorder(refusal_audit, parts.metrics, trust, now)
    parts.readiness.add(certificate_probe(lambda: own.renewal.identity.outside(now())))
    services = parts.services()
    nats = make_nats_parts(
        settings.nats, settings.path, parts.stores.engine, parts.events.sequencer, "breakwater", now, os.urandom
    )
    doorbell = Doorbell(parts.stores.engine, now, *nats.rings)
    parts.revoked.listen(doorbell)
    parts.events.connect(doorbell)
    api = make_api(guard, services, parts.metrics.registry, refused)
    public = make_public(guard, services, refused)
    served = Served(
        listeners=listeners_of(
            settings,
            {"api": api, "pki": public, "metrics": make_metrics_app(guard, parts.metrics.registry, parts.readiness)},
            own.tls,
            (OCSP_PATH,),
        ),
        tasks=(
            own.renewal.run,
            own.publish_issuer,
            EventSeeding(parts.stores.events).run,
            parts.crl_publisher.run,
            doorbell.run,
            parts.ocsp_responder.run,
            every(FLUSH_SECONDS, "refusals", refusal_audit.flush),
            *background.tasks(),
            *parts.events.tasks(),
            *nats.tasks(),
        ),
        readiness=parts.readiness,
    )
    return Breakwater(parts=parts, identity=own, api=api, public=public, served=served)


def breakwater_unit(settings_file: Path, now: Now = utc_now) -> Unit:
    """Return Breakwater for `cascade up` and `cascade serve`. Raises SettingsError or GateRefused."""
    settings = load_settings(settings_file, BreakwaterSettings)
    check_settings(settings)

    @asynccontextmanager
    async def serving() -> AsyncIterator[Served]:
        async with opened(settings, now) as breakwater:
            yield breakwater.served

    return Unit(name="breakwater", open=serving)
