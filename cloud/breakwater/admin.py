"""The issuer opened on its own host for `cascade pki`: beside a running one, or alone.

It is no service: it listens nowhere and starts no task. It works on the same database and keys, by the same code, so
what it changes is seen by every replica within a second. Rule: who may read keys and database may do this; the network
cannot.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from pwd import getpwuid

from cloud.breakwater.issuance.enrolment import Enrolments
from cloud.breakwater.parts import Assembly, assemble, sources_of
from cloud.breakwater.revocation.crl_publisher import Publisher
from cloud.breakwater.settings import BreakwaterSettings, check_rules
from cloud.breakwater.store import AuthorityStore
from cloud.breakwater.store.checker_reads import CheckingStore
from cloud.breakwater.store.enrolments import EnrolmentStore
from cloud.breakwater.store.shards import ShardStore
from cloud.breakwater.tables import ENGINE
from cloud.process.settings import load_settings
from cloud.storage.migrate import ensure_migrated


class Admin:
    """The parts that an operator works with. `caller` is what the audit says of who did it."""

    def __init__(self, settings: BreakwaterSettings, assembly: Assembly, now: Callable[[], datetime]) -> None:
        self.settings = settings
        self.assembly = assembly
        self.now = now
        self.caller = f"operator/{_user()}"
        self.authorities = assembly.authorities
        self.issuing = assembly.issuing
        self.rows = AuthorityStore(ENGINE).rows
        self.checking = CheckingStore(ENGINE)
        self.shards = ShardStore(ENGINE)
        self.enrolments = Enrolments(EnrolmentStore(ENGINE), assembly.entries, now, os.urandom)
        self.publisher = Publisher(self.shards, self.authorities, assembly.signer, settings.pki_url, settings.crl, now)


@asynccontextmanager
async def opened(settings_file: Path, now: Callable[[], datetime], *, with_keys: bool = True) -> AsyncIterator[Admin]:
    """The issuer that the settings describe; without its keys it only reads, and takes the authorities as they are.

    Raises SettingsError, KeyFileError, IssuerError, StorageError.
    """
    settings = load_settings(settings_file, BreakwaterSettings)
    check_rules(settings)
    database = settings.database_location()
    await ensure_migrated("breakwater", database)
    ENGINE.configure(database)
    await ENGINE.open()
    try:
        assembly = assemble(ENGINE, sources_of(settings), now)
        try:
            if with_keys:
                await assembly.load()
            yield Admin(settings, assembly, now)
        finally:
            await assembly.keys.aclose()
    finally:
        await ENGINE.close()


def _user() -> str:
    """Who is at the keyboard, as far as the system knows: the account behind sudo, else the process's own."""
    name = os.environ.get("SUDO_USER", "")
    if not name:
        try:
            name = getpwuid(os.getuid()).pw_name
        except KeyError:
            name = str(os.getuid())
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:64]
