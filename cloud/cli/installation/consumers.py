"""Command group: `cascade consumer`, which makes, lists and revokes tenants' consumers of events, on Fabric's host.

The key that signs consumers is read by this command alone. A running service does not have it. The program of the
tenant makes its own key and gives the public key.
"""

import asyncio
import getpass
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cloud.audit import AuditEntries
from cloud.cli.arguments import id_argument
from cloud.cli.errors import EXIT_REFUSED, EXIT_TRY_AGAIN, EXIT_USAGE, CliError
from cloud.cli.options import Commands, directory_option, json_option
from cloud.cli.secret_files import refuse_existing
from cloud.cli.show import columns, emit, fields, pairs
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, read_key, read_passphrase
from cloud.events.nats import claims
from cloud.events.nats.keys import CONSUMERS_KEY
from cloud.events.nats.nkeys import public_text_of
from cloud.fabric.entropy import new_id, system_entropy
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.settings import FabricSettings
from cloud.fabric.store import Stores, stores_over
from cloud.fabric.store.rows import AuditRow
from cloud.fabric.store.tokens import ACTIVE_MAX, ConsumerRow
from cloud.process.settings import SettingsError, load_settings
from cloud.storage import StorageError
from cloud.storage.database import open_database
from protocol.ids import TenantId
from protocol.limits import NAME_CHARS_MAX

DAYS_DEFAULT, DAYS_MAX = 90, 366
PUBLIC_KEY_BYTES_MAX = 4096
LIST_MAX = 1000


def add_options(group: ArgumentParser) -> None:
    """Add the actions of the group."""
    actions = Commands(group, "action", json_option, directory_option)
    making = actions.add(
        "create",
        "make a consumer, and write the claims by which its program connects",
        "The program makes its own key: openssl genpkey -algorithm ed25519 -out consumer.pem; "
        "openssl pkey -in consumer.pem -pubout -out consumer.pub",
        run=lambda args: asyncio.run(_create(args)),
    )
    making.add_argument("name", metavar="NAME", help="purpose of the consumer; shown in the list and the audit")
    making.add_argument("--tenant", required=True, metavar="TENANT", help="id of the tenant whose events it reads")
    making.add_argument(
        "--public-key", type=Path, required=True, metavar="FILE", help="public key of the program (PEM)"
    )
    making.add_argument("--out", type=Path, required=True, metavar="FILE", help="claims to write; must not exist")
    making.add_argument(
        "--days", type=int, default=DAYS_DEFAULT, metavar="DAYS", help="days until it expires (default %(default)s)"
    )
    listing = actions.add("list", "list the consumers of a tenant", run=lambda args: asyncio.run(_list(args)))
    listing.add_argument("--tenant", required=True, metavar="TENANT", help="id of the tenant")
    closing = actions.add(
        "revoke",
        "revoke a consumer for good",
        "Fabric deletes the consumer in NATS within 30 seconds, or within 30 seconds after it reaches NATS again.",
        run=lambda args: asyncio.run(_revoke(args)),
    )
    closing.add_argument("consumer", metavar="CONSUMER", help="id of the consumer")


@asynccontextmanager
async def _opened(args: Namespace) -> AsyncIterator[tuple[FabricSettings, Stores, AuditLog]]:
    """Open Fabric's database beside the running service. Raises CliError."""
    try:
        settings = load_settings(args.dir / "fabric" / "settings.toml", FabricSettings)
        async with open_database("fabric", settings.database_location()) as engine:
            stores = stores_over(engine)
            audit = AuditLog(entries=AuditEntries(AuditRow, utc_now, system_entropy), store=stores.audit)
            yield settings, stores, audit
    except SettingsError as error:
        raise CliError(EXIT_USAGE, "settings_unusable", str(error), "Name the directory of an installation.") from error
    except StorageError as error:
        raise CliError(EXIT_TRY_AGAIN, "database_unavailable", str(error), "Repeat the command.") from error


def _actor() -> str:
    return f"host:{getpass.getuser()}"


async def _create(args: Namespace) -> None:
    tenant = cast(TenantId, id_argument("ten", args.tenant))
    refuse_existing(args.out)
    if not 1 <= args.days <= DAYS_MAX or not 1 <= len(args.name) <= NAME_CHARS_MAX:
        text = f"cannot make the consumer: DAYS is 1 to {DAYS_MAX}, and NAME has 1 to {NAME_CHARS_MAX} characters"
        raise CliError(EXIT_USAGE, "value_out_of_range", text, "Name other values.")
    public, now = _public_key(args.public_key), utc_now()
    consumer, expires_at = new_id("cns", now, system_entropy), now + timedelta(days=args.days)
    async with _opened(args) as (settings, stores, audit):
        signer = _signer(settings)
        row = ConsumerRow(consumer, tenant, args.name, public, now, expires_at, None)
        async with stores.transaction("event_consumers"):
            if await stores.tenants.find(tenant) is None:
                raise CliError(EXIT_REFUSED, "not_found", f"there is no tenant {tenant}", "List tenants.")
            if len(await stores.consumers.active(now)) >= ACTIVE_MAX:
                raise CliError(EXIT_REFUSED, "too_many", f"there are {ACTIVE_MAX} consumers", "Revoke one first.")
            await stores.consumers.insert(row)
            await audit.write(_actor(), "consumer.created", consumer, tenant, name=args.name, key=public)
    token = claims.sign(signer, "account", claims.consumer_user(public, consumer, now, expires_at))
    args.out.write_text(token + "\n", encoding="ascii")
    emit({"consumer": msgspec.to_builtins(row), "file": str(args.out)}, args.json, _human_created)


def _human_created(document: dict[str, Any]) -> str:
    made = document["consumer"]
    return pairs([("consumer", made["id"]), ("expires", made["expires_at"]), ("file", document["file"])])


def _public_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            key = load_pem_public_key(file.read(PUBLIC_KEY_BYTES_MAX))
    except (OSError, ValueError) as error:
        text = f"cannot read the public key in {path}: {error}"
        raise CliError(EXIT_USAGE, "key_unusable", text, "Name a public key in PEM.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CliError(EXIT_USAGE, "key_unusable", f"the key in {path} is not an Ed25519 key", "Make another key.")
    return public_text_of(key, "user")


def _signer(settings: FabricSettings) -> Ed25519PrivateKey:
    try:
        passphrase = read_passphrase(settings.path(settings.passphrase_file))
        key = read_key(settings.path(settings.keys) / CONSUMERS_KEY, passphrase)
    except KeyFileError as error:
        raise CliError(EXIT_USAGE, "key_unusable", str(error), "Run `cascade config nats` first.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CliError(EXIT_USAGE, "key_unusable", f"{CONSUMERS_KEY} is not an Ed25519 key", "Restore the file.")
    return key


async def _list(args: Namespace) -> None:
    tenant = id_argument("ten", args.tenant)
    async with _opened(args) as (_, stores, _audit):
        rows = await stores.consumers.page(tenant, "", LIST_MAX)
    headings = ("id", "name", "created", "expires", "revoked")
    listed = [msgspec.to_builtins(row) for row in rows]
    emit(listed, args.json, columns(headings, "id", "name", "created_at", "expires_at", "revoked_at"))


async def _revoke(args: Namespace) -> None:
    consumer = id_argument("cns", args.consumer)
    async with _opened(args) as (_, stores, audit), stores.transaction("event_consumers"):
        row = await stores.consumers.find(consumer)
        if row is None:
            raise CliError(EXIT_REFUSED, "not_found", f"there is no consumer {consumer}", "List consumers.")
        if row.revoked_at is None:
            await stores.consumers.revoke(consumer, utc_now())
            await audit.write(_actor(), "consumer.revoked", consumer, row.tenant, name=row.name)
            row = await stores.consumers.find(consumer) or row
    emit(msgspec.to_builtins(row), args.json, fields)
