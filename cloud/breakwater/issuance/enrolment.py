"""Use cases: one-time secrets with which a service gets its first certificate over EST. Only hashes are stored.

A secret is for one service and expires. The first certificate request that uses the secret binds it. A repeat of that
request gets the same certificate. A wrong, unknown, expired or used secret gets the same refusal after the same work.
This module issues no certificates.
"""

import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network

from cloud.audit import AuditEntries
from cloud.breakwater.errors import EnrolmentRefused, TriedTooOften, ValueRefused
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.enrolments import EnrolmentRow, EnrolmentStore
from cloud.tasks.tally import Tally
from protocol.codes import ENTROPY_BYTES, SecretFormatError, make_secret, parse_secret, secret_hash
from protocol.ids import SERVICE_NAMES, make_id

LIFE_MIN = timedelta(minutes=1)
LIFE_MAX = timedelta(days=7)
"""A person carries a secret to a machine. A week is enough for that."""
LISTED_MAX = 1000
TRIES_MAX = 10
TRIES_WINDOW = timedelta(minutes=10)
"""After `TRIES_MAX` failures in this time a source has to wait. This limits audit rows; 160 bits cannot be guessed."""
SOURCES_MAX = 4096
"""The number of sources that are counted. If so many have failed within the window, new sources have to wait too."""


class Attempts:
    """Counts the recent failures of each source, in the memory of one process. Time is an argument."""

    def __init__(self, tries: int = TRIES_MAX, window: timedelta = TRIES_WINDOW, sources: int = SOURCES_MAX) -> None:
        self._tries = tries
        self._failures: Tally[str] = Tally(window, sources)

    def wait(self, source: str, now: datetime) -> timedelta:
        """Return how long a source has to wait before its next try; zero if it may try now."""
        self._failures.end_all(now)
        if self._failures.count(source, now) >= self._tries:
            return self._failures.time_left(source, now)
        return timedelta(0) if self._failures.has_room(source) else self._failures.time_until_room(now)

    def failed(self, source: str, now: datetime) -> None:
        """Count a failure. A source's window begins with its first failure."""
        self._failures.add(source, now)


def source_of(host: str) -> str:
    """Return the source of a host: its IPv4 address, or its IPv6 network of 64 bits, which belongs to one customer."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)


def caller_of(enrolment: str) -> str:
    """Return the caller's name in records and audit for a service that enrols with a secret."""
    return f"enrolment/{enrolment}"


class Enrolments:
    """Makes and checks the one-time secrets of services."""

    def __init__(
        self,
        store: EnrolmentStore,
        entries: AuditEntries[AuditRow],
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._entries = entries
        self._now = now
        self._entropy = entropy
        self._attempts = Attempts()

    async def create(self, service: str, caller: str, life: timedelta) -> str:
        """Make a secret for `service` that expires after `life`. Only this call returns it. Raises ValueRefused."""
        if service not in SERVICE_NAMES:
            raise ValueRefused(f"there is no service {service[:64]!r}")
        if not LIFE_MIN <= life <= LIFE_MAX:
            raise ValueRefused(f"the life of a secret is between {LIFE_MIN} and {LIFE_MAX}")
        secret = make_secret("ces", self._entropy(ENTROPY_BYTES))
        now = self._now()
        identifier = make_id("enr", int(now.timestamp() * 1000), self._entropy(10))
        row = EnrolmentRow(identifier, service, secret_hash(secret), caller, now, now + life, None, "")
        detail = f"until {row.expires_at.isoformat(timespec='seconds')}"
        await self._store.add(row, self._entries.make(caller, "enrolment.create", identifier, detail=detail))
        return secret

    async def list(self) -> tuple[EnrolmentRow, ...]:
        """Return the records of the newest secrets, newest first, at most `LISTED_MAX`."""
        return await self._store.newest(LISTED_MAX)

    async def revoke(self, enrolment: str, caller: str) -> bool:
        """Let a secret expire now, also for repeats. Return False if it had expired or does not exist."""
        return await self._store.end(enrolment, self._entries.make(caller, "enrolment.revoke", enrolment))

    async def judge(self, service: str, secret: str, csr_sha256: str, host: str) -> EnrolmentRow:
        """Check a secret for this service and request, and return its record. Changes no record.

        `host` is the caller's address.

        Raises:
            TriedTooOften: this source has failed too often. The secret was not checked.
            EnrolmentRefused: the secret is not accepted. The text is the same for every reason.
        """
        source = source_of(host)
        wait = self._attempts.wait(source, self._now())
        if wait > timedelta(0):
            raise TriedTooOften(wait)
        shown = secret_hash(_normal_form(secret))
        row = await self._store.find(shown)
        # Every comparison runs, so that the time does not reveal which one failed.
        right_secret = hmac.compare_digest(shown, row.secret_hash if row is not None else "")
        right_service = hmac.compare_digest(service.encode(), row.service.encode() if row is not None else b"")
        in_time = row is not None and self._now() < row.expires_at
        unused = row is not None and row.csr_sha256 in ("", csr_sha256)
        if row is None or not (right_secret and right_service and in_time and unused):
            raise await self._refused(source, service)
        return row

    async def bind(self, row: EnrolmentRow, csr_sha256: str, host: str) -> None:
        """Bind the secret to its request permanently. Raises EnrolmentRefused if another request was first."""
        caller = caller_of(row.id)
        entry = self._entries.make(caller, "enrolment.use", f"service/{row.service}", detail=f"request {csr_sha256}")
        if not await self._store.bind(row.id, csr_sha256, entry):
            raise await self._refused(source_of(host), row.service)

    async def give_back(self, row: EnrolmentRow, csr_sha256: str) -> None:
        """Free the secret for another request after its request was refused, unless an issuance was recorded."""
        await self._store.give_back(row.id, csr_sha256, caller_of(row.id))

    async def _refused(self, source: str, service: str) -> EnrolmentRefused:
        self._attempts.failed(source, self._now())
        name = service if service in SERVICE_NAMES else "(unknown)"
        caller, why = f"anonymous/{source}", "the secret is not accepted"
        await self._store.audit(
            self._entries.make(caller, "enrolment.use", f"service/{name}", outcome="refused", detail=why)
        )
        return EnrolmentRefused("the secret is not accepted for this service and this request")


def _normal_form(secret: str) -> str:
    """Return the normal form of a secret. Other text is returned unchanged, so that the work is the same."""
    try:
        return parse_secret("ces", secret)
    except SecretFormatError:
        return secret
