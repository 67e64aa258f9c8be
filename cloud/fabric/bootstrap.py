"""Use case: Fabric's part of `cascade init`. Makes signing keys, TUF repository, database, server secrets, first token.

Breakwater's part of `cascade init` runs first and makes the certificates. The root and targets keys of the repository
go to the offline folder. An operator takes that folder away afterwards.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud.audit import SYSTEM, AuditEntries
from cloud.crypto.keyfile import write_secret
from cloud.fabric.entropy import system_entropy
from cloud.fabric.licensing.signing import TYPS, key_path, make_signer
from cloud.fabric.nonce import KEY_BYTES
from cloud.fabric.service.operators.tokens import new_token
from cloud.fabric.store import Stores, stores_over
from cloud.fabric.store.installation import CURSOR_KEY, RECOVERY_KEY
from cloud.fabric.store.rows import FIRST_EPOCH, AuditRow
from cloud.fabric.tuf.bootstrap import SNAPSHOT_KEY, TIMESTAMP_KEY
from cloud.fabric.tuf.bootstrap import initialise as initialise_trust
from cloud.fabric.tuf.repository import pin_of
from cloud.fabric.tuf.targets import build_targets
from cloud.mtls.identity import KEY_FILE
from cloud.process.settings import database_toml, metrics_toml
from cloud.storage import Location, PostgresLocation
from cloud.storage.database import open_database
from protocol.encoding import json_encode
from protocol.limits import CLOCK_SKEW
from protocol.messages.activation import TrustPin

SIGNING_KEY_LIFE = timedelta(days=3652)
"""Life of the published signing keys: ten years, because rotation of signing keys is not built. The last lease that a
key signs must verify until that lease ends."""
DATABASE_FILE = Path("database.sqlite")
FIRST_TOKEN_NAME = "init"  # noqa: S105  the name of a token, not its text


class AlreadyInitialised(Exception):
    """The directory holds a Fabric already; nothing was changed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions of `cascade init`.

    `directory` belongs to Fabric; Breakwater's part fills its `tls/`. `offline` is the folder for the root and targets
    keys of the repository. `root`, `nodes_ca` and `services_ca` are certificates in DER. `passphrase_file` is written
    into the settings unchanged (relative to `directory`, or absolute). `listen` is the address of the listeners for the API
    and the repository. `metrics_port` is the port of the listener for `/metrics` on 127.0.0.1, 0 for none.
    """

    directory: Path
    offline: Path
    trust_domain: str
    fabric_url: str
    breakwater_url: str
    root: bytes
    nodes_ca: bytes
    services_ca: bytes
    listen: str
    port: int
    tuf_port: int
    metrics_port: int = 0
    passphrase: bytes
    passphrase_file: str
    repository_url: str = ""
    mode: str = "development"
    database: Location = DATABASE_FILE
    """PostgreSQL, or the path of an SQLite file relative to `directory`."""


class Initialised(msgspec.Struct, frozen=True):
    """The pin that nodes start from, and the text of the first operator token. The text is a secret, shown once."""

    pin: TrustPin
    token: str


async def initialise(plan: Plan, now: Callable[[], datetime]) -> Initialised:
    """Make keys, repository, database and settings of a new Fabric.

    Raises AlreadyInitialised, KeyFileError, TargetsError, StorageError and OSError, each with a text that says what
    is wrong.
    """
    if (plan.directory / "settings.toml").exists():
        raise AlreadyInitialised(f"{plan.directory} holds a Fabric already")
    keys, certs = plan.directory / "keys", plan.directory / "certs"
    for folder in (keys, certs, plan.offline):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    started = now()
    for name, der in (("root", plan.root), ("nodes-ca", plan.nodes_ca), ("services-ca", plan.services_ca)):
        pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        write_secret(certs / f"{name}.pem", pem)
    signer = make_signer(keys, plan.passphrase, plan.trust_domain)
    targets = build_targets(
        keys=signer.published(started - CLOCK_SKEW, started + SIGNING_KEY_LIFE),
        trust_domain=plan.trust_domain,
        roots=[plan.root],
        node_issuers=[plan.nodes_ca],
        service_issuers=[plan.services_ca],
        fabric_url=plan.fabric_url,
        breakwater_url=plan.breakwater_url,
        repository_url=plan.repository_url,
    )
    publication = initialise_trust(started, plan.offline, keys, plan.passphrase, targets)
    database = plan.database if isinstance(plan.database, PostgresLocation) else plan.directory / plan.database
    async with open_database("fabric", database, is_new=True) as engine:
        stores = stores_over(engine)
        async with stores.transaction():
            await stores.repository.publish(publication)
            token = await _first_rows(stores, started)
    # The settings file is written last. Until it exists, a repeat does not find a Fabric in this directory.
    write_secret(plan.directory / "settings.toml", _settings(plan))
    return Initialised(pin_of(publication.metadata[0]), token)


async def _first_rows(stores: Stores, now: datetime) -> str:
    """Insert server secrets and the first token in the caller's transaction. Returns the token's text."""
    await stores.installation.insert("epoch", str(FIRST_EPOCH).encode())
    await stores.installation.insert("nonce_key", system_entropy(KEY_BYTES))
    await stores.installation.insert("ek_key", system_entropy(KEY_BYTES))
    await stores.installation.insert(RECOVERY_KEY, system_entropy(KEY_BYTES))
    await stores.installation.insert(CURSOR_KEY, system_entropy(KEY_BYTES))
    row, secret = new_token(system_entropy, now, FIRST_TOKEN_NAME, None)
    await stores.tokens.insert(row)
    entries = AuditEntries(AuditRow, lambda: now, system_entropy)
    await stores.audit.insert(entries.make(SYSTEM, "token.created", row.id, detail={"name": row.name}))
    return secret


def _settings(plan: Plan) -> bytes:
    # A JSON string, or a list of JSON strings, is valid TOML too.
    keys = [key_path(Path("keys"), purpose) for purpose in TYPS]
    values = {
        "mode": plan.mode,
        "trust_domain": plan.trust_domain,
        "public_url": plan.fabric_url,
        "breakwater_url": plan.breakwater_url,
        "passphrase_file": plan.passphrase_file,
        "key_files": [*map(str, keys), f"keys/{SNAPSHOT_KEY}", f"keys/{TIMESTAMP_KEY}", f"tls/{KEY_FILE}"],
    }
    lines = [f"{name} = {json_encode(value).decode()}" for name, value in values.items()]
    host = json_encode(plan.listen).decode()
    api = f"[[listeners]]\nhost = {host}\nport = {plan.port}"
    tuf = f'[[listeners]]\nhost = {host}\nport = {plan.tuf_port}\ntls = false\npurpose = "tuf"'
    text = "\n".join(["# Fabric's settings, written by `cascade init`.", *lines])
    metrics = metrics_toml(plan.metrics_port)
    return f"{text}\n\n{api}\n\n{tuf}\n\n{metrics}{database_toml(plan.database)}\n".encode()
