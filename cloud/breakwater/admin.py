"""Wiring for `cascade pki`: the issuer opened on its own host, beside a running one or alone.

It listens nowhere and starts no task. It works on the same database and keys, by the same code, so what it changes is
seen by every replica within a second. Rule: who may read keys and database may do this; the network cannot.
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
from cloud.process.settings import load_settings
from cloud.storage.database import open_database


@dataclass(frozen=True, kw_only=True)
class Admin:
    """What an operator works with. `caller` is what the audit says of who did it."""

    settings: BreakwaterSettings
    parts: Parts
    now: Callable[[], datetime]
    caller: str


@asynccontextmanager
async def opened(settings_file: Path, now: Callable[[], datetime]) -> AsyncIterator[Admin]:
    """The issuer that the settings describe. Raises SettingsError, KeyFileError, IssuerError, StorageError."""
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
    """The records alone, for what only reads: it works when no key can be used. Raises SettingsError, StorageError."""
    settings = load_settings(settings_file, BreakwaterSettings)
    check_rules(settings)
    async with open_database("breakwater", settings.database_location()) as engine:
        yield stores_over(engine)


def _user() -> str:
    """Who is at the keyboard, as far as the system knows: the account behind sudo, else the process's own."""
    name = os.environ.get("SUDO_USER", "")
    if not name:
        try:
            name = getpwuid(os.getuid()).pw_name
        except KeyError:
            name = str(os.getuid())
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:64]
