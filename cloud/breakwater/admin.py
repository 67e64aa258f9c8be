"""Wiring: opens the issuer on its host for `cascade pki`, while the service is running or not.

It opens no listener and starts no task. It uses the same database, keys and code as the service, so every replica
notices its changes within a second. Rule: These commands need read access to keys and database. They cannot be run over
the network.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from pwd import getpwuid

from cloud.breakwater.parts import Parts, open_parts, sources_of
from cloud.breakwater.settings import BreakwaterSettings, check_rules
from cloud.breakwater.store import Stores, stores_over
from cloud.clock import utc_now
from cloud.events.outbox import Outbox
from cloud.process.settings import load_settings
from cloud.storage.database import open_database


@dataclass(frozen=True, kw_only=True)
class Admin:
    """The open issuer for an operator's command. `caller` is the operator's name in the audit."""

    settings: BreakwaterSettings
    parts: Parts
    now: Callable[[], datetime]
    caller: str


@asynccontextmanager
async def opened(settings_file: Path, now: Callable[[], datetime]) -> AsyncIterator[Admin]:
    """Open the issuer that the settings describe. Raises SettingsError, KeyFileError, IssuerError or StorageError."""
    settings = load_settings(settings_file, BreakwaterSettings)
    check_rules(settings)
    sources = sources_of(settings)
    async with (
        open_database("breakwater", settings.database_location()) as engine,
        open_parts(engine, sources, now) as parts,
    ):
        yield Admin(settings=settings, parts=parts, now=now, caller=f"operator/{_user()}")


@asynccontextmanager
async def opened_stores(settings_file: Path) -> AsyncIterator[Stores]:
    """Open only the database, for commands that need no keys. Raises SettingsError or StorageError."""
    settings = load_settings(settings_file, BreakwaterSettings)
    check_rules(settings)
    async with open_database("breakwater", settings.database_location()) as engine:
        yield stores_over(engine, Outbox(engine, "breakwater", utc_now, entropy=os.urandom))


def _user() -> str:
    """Return the operator's account: the account that called sudo, or else the account of this process."""
    name = os.environ.get("SUDO_USER", "")
    if not name:
        try:
            name = getpwuid(os.getuid()).pw_name
        except KeyError:
            name = str(os.getuid())
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:64]
