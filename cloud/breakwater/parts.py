"""Wiring: makes the parts of Breakwater over an open database, for the service, `cascade init` and `cascade pki`.

It decides nothing, opens no listener and starts no task.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from cloud.audit import AuditEntries
from cloud.breakwater.authorities import Authorities, load_authorities
from cloud.breakwater.generations import Generations
from cloud.breakwater.issuance.enrolment import Enrolments
from cloud.breakwater.issuance.est import Est
from cloud.breakwater.issuance.executor import OrderExecutor
from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.keys.pkcs11 import TokenSettings
from cloud.breakwater.keys.signer import Keys, Signer, open_keys
from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.readiness import issuer_readiness
from cloud.breakwater.revocation.crl_publisher import CrlPublisher, poll_seconds_of
from cloud.breakwater.revocation.crl_shards import Places
from cloud.breakwater.revocation.notifier import RevocationNotifier
from cloud.breakwater.revocation.ocsp_responder import OcspResponder
from cloud.breakwater.revocation.public_crls import PublicCrls
from cloud.breakwater.revocation.root_crl_watch import RootCrlWatch
from cloud.breakwater.revocation.root_crls import RootCrls
from cloud.breakwater.revocation.service_certificates import ServiceCertificates
from cloud.breakwater.settings import BreakwaterSettings, CrlSettings
from cloud.breakwater.store import Stores, stores_over
from cloud.breakwater.store.audit import AuditRow
from cloud.crypto.keyfile import read_passphrase
from cloud.events.parts import SERVICES as EVENT_SERVICES
from cloud.events.parts import EventParts, make_event_parts
from cloud.events.settings import EventSettings
from cloud.http.metrics import Metrics
from cloud.http.readiness import Readiness
from cloud.storage import ServiceEngine


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where an issuer finds its keys, its names and its CRL schedule.

    `directory` has `keys/` and `certs/`. A relative `pin_file` starts at `base`.
    """

    directory: Path
    passphrase: bytes
    trust_domain: str
    pki_url: str
    token: TokenSettings | None = None
    base: Path = Path()
    crl: CrlSettings = CrlSettings()
    limits_factor: float = 1.0
    events: EventSettings = EventSettings()


def sources_of(settings: BreakwaterSettings) -> Sources:
    """Return the sources that the settings name. Reads the passphrase. Raises KeyFileError."""
    return Sources(
        directory=settings.path(settings.ca),
        passphrase=read_passphrase(settings.path(settings.passphrase_file)),
        trust_domain=settings.trust_domain,
        pki_url=settings.pki_url,
        token=settings.token,
        base=Path(settings.base),
        crl=settings.crl,
        limits_factor=settings.admission.factor,
        events=settings.events,
    )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All parts of one Breakwater."""

    stores: Stores
    entries: AuditEntries[AuditRow]
    events: EventParts
    metrics: IssuerMetrics
    keys: Keys
    signer: Signer
    authorities: Authorities
    executor: OrderExecutor
    issuing: Issuing
    generations: Generations
    service_certificates: ServiceCertificates
    enrolments: Enrolments
    est: Est
    crl_publisher: CrlPublisher
    root_crls: RootCrls
    root_crl_watch: RootCrlWatch
    public_crls: PublicCrls
    ocsp_responder: OcspResponder
    revoked: RevocationNotifier
    readiness: Readiness

    def services(self) -> dict[str, object]:
        """Return the use cases for handlers, by the name of the handler's parameter."""
        own = {name: getattr(self, name) for name in SERVICES if name not in EVENT_SERVICES}
        return {**own, **self.events.services()}


SERVICES = (
    "authorities",
    "est",
    "generations",
    "issuing",
    "ocsp_responder",
    "public_crls",
    "readiness",
    *EVENT_SERVICES,
)
"""The names in `Parts.services`. They are known before the database is open."""


@asynccontextmanager
async def open_parts(
    engine: ServiceEngine,
    sources: Sources,
    now: Callable[[], datetime],
    entropy: Callable[[int], bytes] = os.urandom,
    signer: Signer | None = None,
) -> AsyncIterator[Parts]:
    """Open the keys, read the authorities, and make all parts over an open engine. Close the keys at the end.

    Raises:
        KeyFileError: the text names the file.
        SignerError: there is no root, or a CA certificate cannot be used.
        StorageError: the database cannot be used.
    """
    keys = open_keys(sources.directory / "keys", sources.passphrase, sources.token, sources.base)
    try:
        signer = signer or Signer()
        events = make_event_parts(engine, "breakwater", now, entropy, sources.events)
        stores = stores_over(engine, events.outbox)
        entries = AuditEntries(AuditRow, now, entropy)
        authorities = await load_authorities(
            stores.authorities, keys, signer, sources.trust_domain, now, entries, adopt_from=sources.directory
        )
        metrics = IssuerMetrics(Metrics("breakwater"))
        executor = OrderExecutor(stores.issuance, authorities, signer, metrics, now)
        issuing = _issuing(stores, sources, authorities, executor, now, entropy)
        crl_publisher = CrlPublisher(
            stores.shards, authorities, signer, sources.pki_url, sources.crl, now, poll_seconds_of(engine)
        )
        root_crls = RootCrls(stores.root_crls, authorities, entries, now)
        root_crl_watch = RootCrlWatch(root_crls, now)
        revoked = RevocationNotifier(metrics, crl_publisher)
        ocsp_responder = OcspResponder(stores.revocation_status, authorities, issuing, now)
        authorities.on_change(lambda _: ocsp_responder.wake())
        readiness = issuer_readiness(stores, issuing, authorities, ocsp_responder, now)
        readiness.add(root_crl_watch.probe)
        enrolments = Enrolments(stores.enrolments, entries, now, entropy)
        yield Parts(
            stores=stores,
            entries=entries,
            events=events,
            metrics=metrics,
            keys=keys,
            signer=signer,
            authorities=authorities,
            executor=executor,
            issuing=issuing,
            generations=Generations(stores, sources.trust_domain, entries, revoked),
            service_certificates=ServiceCertificates(stores.revocation_writes, entries, revoked),
            enrolments=enrolments,
            est=Est(issuing, enrolments, authorities.ca_certificates),
            crl_publisher=crl_publisher,
            root_crls=root_crls,
            root_crl_watch=root_crl_watch,
            public_crls=PublicCrls(crl_publisher, root_crls),
            ocsp_responder=ocsp_responder,
            revoked=revoked,
            readiness=readiness,
        )
    finally:
        await keys.aclose()


def _issuing(
    stores: Stores,
    sources: Sources,
    authorities: Authorities,
    executor: OrderExecutor,
    now: Callable[[], datetime],
    entropy: Callable[[int], bytes],
) -> Issuing:
    return Issuing(
        store=stores.issuance,
        authorities=authorities,
        places=Places(stores.shards, sources.pki_url),
        executor=executor,
        trust_domain=sources.trust_domain,
        now=now,
        entropy=entropy,
        limits_factor=sources.limits_factor,
    )
