"""The issuer put together over a database and keys, for whoever needs one: the service, `cascade init`, `cascade pki`.

Decides nothing, opens nothing, listens nowhere. The engine is the caller's; `Assembly.load` is called when it is open.
"""

import os
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from cloud.audit import AuditEntries
from cloud.breakwater.authorities import Authorities
from cloud.breakwater.issuance.issuing import Issuing, Parts
from cloud.breakwater.keys.pkcs11 import TokenSettings
from cloud.breakwater.keys.signer import Keys, Signer, open_keys
from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.revocation.crl_shards import Places, distribution
from cloud.breakwater.settings import BreakwaterSettings
from cloud.breakwater.store import AuditRow, AuthorityStore, Store
from cloud.breakwater.store.shards import ShardStore
from cloud.crypto.keyfile import read_passphrase
from cloud.http.metrics import Metrics
from cloud.storage import ServiceEngine


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where an issuer's keys lie and what it is called. `base` is where a relative `pin_file` begins."""

    directory: Path
    passphrase: bytes
    trust_domain: str
    pki_url: str
    token: TokenSettings | None = None
    base: Path = Path()


def sources_of(settings: BreakwaterSettings) -> Sources:
    """The sources that settings name. Raises KeyFileError."""
    return Sources(
        directory=settings.path(settings.ca),
        passphrase=read_passphrase(settings.path(settings.passphrase_file)),
        trust_domain=settings.trust_domain,
        pki_url=settings.pki_url,
        token=settings.token,
        base=Path(settings.base),
    )


class Assembly(msgspec.Struct, frozen=True):
    """An issuer and its parts."""

    store: Store
    keys: Keys
    signer: Signer
    authorities: Authorities
    issuing: Issuing
    metrics: IssuerMetrics
    entries: AuditEntries[AuditRow]

    async def load(self) -> None:
        """Read the authorities and open their keys, once the engine is open. Raises SignerError, StorageError."""
        await self.authorities.load()


def assemble(
    engine: ServiceEngine,
    sources: Sources,
    now: Callable[[], datetime],
    entropy: Callable[[int], bytes] = os.urandom,
    signer: Signer | None = None,
) -> Assembly:
    """Put an issuer together; nothing is read yet but the place of a PIN. Raises KeyFileError."""
    keys = open_keys(sources.directory / "keys", sources.passphrase, sources.token, sources.base)
    signer = signer or Signer()
    store = Store(engine)
    entries = AuditEntries(AuditRow, now, entropy)
    authorities = Authorities(
        AuthorityStore(engine), keys, signer, sources.trust_domain, now, entries, adopt_from=sources.directory
    )
    metrics = IssuerMetrics(Metrics("breakwater"))
    issuing = Issuing(
        Parts(
            store=store,
            authorities=authorities,
            signer=signer,
            places=Places(ShardStore(engine)),
            distribute=partial(distribution, sources.pki_url),
            trust_domain=sources.trust_domain,
            now=now,
            entropy=entropy,
            entries=entries,
            metrics=metrics,
        )
    )
    return Assembly(store, keys, signer, authorities, issuing, metrics, entries)
