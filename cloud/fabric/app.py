"""Wiring: opens Fabric from its settings, and hands the process a `Unit`. Decides nothing."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

from litestar import Litestar

from cloud.clock import utc_now
from cloud.crypto.keyfile import read_passphrase
from cloud.events import follower_gauges
from cloud.events.doorbell import Doorbell
from cloud.events.nats.parts import make_nats_parts
from cloud.fabric.connections import Connections
from cloud.fabric.entropy import Entropy, system_entropy
from cloud.fabric.issuer import HttpIssuer
from cloud.fabric.licensing.signing import read_signer
from cloud.fabric.parts import Parts, make_parts
from cloud.fabric.peer_records import PeerRecords
from cloud.fabric.routes import repository_routes, routes
from cloud.fabric.routes.documents import API, documents
from cloud.fabric.secrets import read_secrets
from cloud.fabric.service.events.first_events import STEP_SECONDS
from cloud.fabric.service.ports import Now
from cloud.fabric.settings import FabricSettings
from cloud.fabric.store import stores_over
from cloud.fabric.tuf.bootstrap import read_online_signers
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.tuf.targets import TargetsError
from cloud.fabric.wiring.part_groups import Ports
from cloud.http.admission import Admission
from cloud.http.app import make_app, make_metrics_app
from cloud.http.cursors import ListCursors
from cloud.http.guard import Guard
from cloud.http.metrics import Metrics
from cloud.http.readiness import certificate_probe, trouble_probe
from cloud.mtls.identity import load_identity
from cloud.process.gates import check_gates
from cloud.process.listeners import listeners_of
from cloud.process.serve import Served, Unit
from cloud.process.settings import load_settings
from cloud.storage import StorageError
from cloud.storage.database import open_database
from cloud.tasks.periodic import every
from cloud.tasks.stopping import Stopping


def make_api(guard: Guard, services: Mapping[str, object], metrics: Metrics | None = None) -> Litestar:
    """The application of the API. A handler takes parts from `services` by the names of its parameters."""
    schema = documents()[API.name]
    list_cursors = cast(ListCursors | None, services["list_cursors"])  # None: an application that no client calls
    return make_app(routes(), guard, services=services, metrics=metrics, schema=schema, list_cursors=list_cursors)


def make_repository(guard: Guard, services: Mapping[str, object]) -> Litestar:
    """The application that serves the TUF repository, read-only."""
    return make_app(repository_routes(), guard, services=services)


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """An open Fabric: its parts, its connections, its applications, and the listeners and tasks of the process."""

    parts: Parts
    connections: Connections
    api: Litestar
    repository: Litestar
    served: Served


@asynccontextmanager
async def opened(
    settings: FabricSettings, now: Now = utc_now, entropy: Entropy = system_entropy
) -> AsyncIterator[Fabric]:
    """Open Fabric on entry, and close its connections and database on exit.

    Raises SettingsError, GateRefused, KeyFileError, IdentityError and StorageError, each with a text that says what is
    wrong.
    """
    check_gates(settings)
    passphrase_file, keys = settings.path(settings.passphrase_file), settings.path(settings.keys)
    passphrase = read_passphrase(passphrase_file)
    signer, online = read_signer(keys, passphrase, settings.trust_domain), read_online_signers(keys, passphrase)
    identity = load_identity(settings.path(settings.tls), passphrase_file)
    current_trust = CurrentTrust(settings.trust_domain)
    admission = Admission(shared_networks=settings.admission.shared_networks, factor=settings.admission.factor)
    async with open_database("fabric", settings.database_location()) as engine:
        stores = stores_over(engine)
        connections = Connections(
            breakwater_url=settings.breakwater_url,
            identity=identity,
            directory=settings.path(settings.tls),
            passphrase_file=passphrase_file,
            current_trust=current_trust,
            stores=stores,
            now=now,
            entropy=entropy,
        )
        ports = Ports(
            trust_domain=settings.trust_domain,
            public_url=settings.public_url.rstrip("/"),
            confirm_within=timedelta(seconds=settings.confirm_within_seconds),
            approve_within=timedelta(seconds=settings.approve_within_seconds),
            now=now,
            entropy=entropy,
            signer=signer,
            online=online,
            issuer=HttpIssuer(connections.client),
            current_trust=current_trust,
            service_certificates=connections.service_certificates,
            trust_changed=connections.trust_changed,
            limits_factor=settings.admission.factor,
            events=settings.events,
        )
        async with aclosing(connections):
            parts = make_parts(stores, ports, await read_secrets(stores.installation, entropy))
            await parts.events.change_feed.begin()
            await connections.load()
            try:
                await parts.trust.follower.update()
            except TargetsError as error:
                raise StorageError(f"cannot use the published trust: {error}") from error
            yield _fabric(settings, parts, connections, admission, now)


def _fabric(settings: FabricSettings, parts: Parts, connections: Connections, admission: Admission, now: Now) -> Fabric:
    """The applications over the parts, with the listeners and background tasks of the process."""
    guard = Guard(
        trust=lambda: parts.current_trust.trust,
        checks=PeerRecords(is_revoked=connections.revoked.__contains__, nodes=parts.stores.nodes),
        now=now,
        operator_of=parts.operators.tokens.authenticate,
        closed=parts.nodes.statements.closed_answer,
        admission=admission,
        waits=parts.restored.waits,
    )
    parts.readiness.add(
        certificate_probe(lambda: connections.identity.identity.outside(now())),
        trouble_probe(
            "breakwater",
            "breakwater_unreachable",
            lambda: connections.follower.trouble,
            "Check that Breakwater runs and can be reached at `breakwater_url`. No certificate is issued meanwhile.",
        ),
    )
    services, metrics = parts.services(), Metrics("fabric")
    follower_gauges.attach(metrics, [connections.follower])
    metrics.count_refusals(admission)
    parts.events.gauges.attach(metrics)
    api, repository = make_api(guard, services, metrics), make_repository(guard, services)

    nats = make_nats_parts(
        settings.nats,
        settings.path,
        parts.stores.engine,
        parts.events.sequencer,
        "fabric",
        now,
        system_entropy,
        consumers=lambda: parts.stores.consumers.active(now()),
    )
    doorbell, room = Doorbell(parts.stores.engine, now, *nats.rings), parts.shared.wake_room
    room.listen(doorbell)
    parts.events.connect(doorbell)
    doorbell.bell("breakwater", connections.follower.wake)

    async def end_polls(stopping: Stopping) -> None:
        """End every long poll as soon as the process begins to stop."""
        await stopping.wait()
        room.close()

    served = Served(
        listeners=listeners_of(
            settings,
            {"api": api, "tuf": repository, "metrics": make_metrics_app(guard, metrics, parts.readiness)},
            connections.tls,
        ),
        tasks=(
            parts.background.run,
            end_polls,
            doorbell.run,
            parts.trust.follower.run,
            connections.follower.run,
            connections.prune_revoked,
            connections.learn_breakwater_certificate,
            connections.identity.run,
            *parts.events.tasks(),
            *nats.tasks(),
            every(STEP_SECONDS, "first events", parts.first_events.step, (StorageError,)),
        ),
        readiness=parts.readiness,
    )
    return Fabric(parts=parts, connections=connections, api=api, repository=repository, served=served)


def fabric_unit(settings_file: Path, now: Now = utc_now) -> Unit:
    """The unit that `cascade up` and `cascade serve` run. Raises SettingsError, GateRefused."""
    settings = load_settings(settings_file, FabricSettings)
    check_gates(settings)

    @asynccontextmanager
    async def serving() -> AsyncIterator[Served]:
        async with opened(settings, now) as fabric:
            yield fabric.served

    return Unit(name="fabric", open=serving)
