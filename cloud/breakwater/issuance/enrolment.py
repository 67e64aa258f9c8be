"""Use cases: one-time secrets for a service's first certificate over EST. Only their hashes are kept.

A secret is for one service, has an end, and is good for one certificate request: the first that shows it. A repeat of
that request gets the same certificate. A wrong, unknown, expired or used secret is refused in one way, after the same
work. Nothing is issued here.
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
"""A secret is carried to one machine and used; a week covers a shipment of it by hand."""
LISTED_MAX = 1000
TRIES_MAX = 10
TRIES_WINDOW = timedelta(minutes=10)
"""A person mistypes thrice; 160 bits are not guessed at any rate, so this bounds noise in the audit."""
SOURCES_MAX = 4096
"""Sources remembered at once. When so many have failed within the window, new ones wait too."""


class Attempts:
    """How often each source has failed lately: in memory, for one process, and bounded. Time is an argument."""

    def __init__(self, tries: int = TRIES_MAX, window: timedelta = TRIES_WINDOW, sources: int = SOURCES_MAX) -> None:
        self._tries = tries
        self._failures: Tally[str] = Tally(window, sources)

    def wait(self, source: str, now: datetime) -> timedelta:
        """How long a source has to wait before its next try; zero if it may try now."""
        self._failures.end_all(now)
        if self._failures.count(source, now) >= self._tries:
            return self._failures.time_left(source, now)
        return timedelta(0) if self._failures.has_room(source) else self._failures.time_until_room(now)

    def failed(self, source: str, now: datetime) -> None:
        """Count a failure; the window starts with a source's first one."""
        self._failures.add(source, now)


def source_of(host: str) -> str:
    """What is counted as one source: an IPv4 address, or a network of 64 bits of IPv6, which one customer has."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)


def caller_of(enrolment: str) -> str:
    """How records and audit name a service that enrols with a secret."""
    return f"enrolment/{enrolment}"


class Enrolments:
    """The secrets of services that enrol."""

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
        """A new secret for `service`; this is the only time that it is shown. Raises ValueRefused."""
        if service not in SERVICE_NAMES:
            raise ValueRefused(f"there is no service {service[:64]!r}")
        if not LIFE_MIN <= life <= LIFE_MAX:
            raise ValueRefused(f"a secret lives between {LIFE_MIN} and {LIFE_MAX}")
        secret = make_secret("ces", self._entropy(ENTROPY_BYTES))
        now = self._now()
        identifier = make_id("enr", int(now.timestamp() * 1000), self._entropy(10))
        row = EnrolmentRow(identifier, service, secret_hash(secret), caller, now, now + life, None, "")
        detail = f"until {row.expires_at.isoformat(timespec='seconds')}"
        await self._store.add(row, self._entries.make(caller, "enrolment.create", identifier, detail=detail))
        return secret

    async def list(self) -> tuple[EnrolmentRow, ...]:
        """The newest secrets' records, newest first, at most `LISTED_MAX`."""
        return await self._store.newest(LISTED_MAX)

    async def revoke(self, enrolment: str, caller: str) -> bool:
        """Let a secret expire now, for repeats too. False if it had expired, or there is none of this id."""
        return await self._store.end(enrolment, self._entries.make(caller, "enrolment.revoke", enrolment))

    async def judge(self, service: str, secret: str, csr_sha256: str, host: str) -> EnrolmentRow:
        """The record of a secret that is good for this service and request; nothing is changed yet.

        Raises:
            TriedTooOften: this source has failed too often; the secret was not looked at.
            EnrolmentRefused: the same for every reason.
        """
        source = source_of(host)
        wait = self._attempts.wait(source, self._now())
        if wait > timedelta(0):
            raise TriedTooOften(wait)
        shown = secret_hash(_spelled(secret))
        row = await self._store.find(shown)
        # Every comparison is made, whatever the others say.
        right_secret = hmac.compare_digest(shown, row.secret_hash if row is not None else "")
        right_service = hmac.compare_digest(service.encode(), row.service.encode() if row is not None else b"")
        in_time = row is not None and self._now() < row.expires_at
        unused = row is not None and row.csr_sha256 in ("", csr_sha256)
        if row is None or not (right_secret and right_service and in_time and unused):
            raise await self._refused(source, service)
        return row

    async def bind(self, row: EnrolmentRow, csr_sha256: str, host: str) -> None:
        """Bind the secret to its request, for ever. Raises EnrolmentRefused: another one was first."""
        caller = caller_of(row.id)
        entry = self._entries.make(caller, "enrolment.use", f"service/{row.service}", detail=f"request {csr_sha256}")
        if not await self._store.bind(row.id, csr_sha256, entry):
            raise await self._refused(source_of(host), row.service)

    async def give_back(self, row: EnrolmentRow, csr_sha256: str) -> None:
        """The request was refused for what it asks: unless anything was recorded for it, another one may be sent."""
        await self._store.give_back(row.id, csr_sha256, caller_of(row.id))

    async def _refused(self, source: str, service: str) -> EnrolmentRefused:
        self._attempts.failed(source, self._now())
        name = service if service in SERVICE_NAMES else "(unknown)"
        caller, why = f"anonymous/{source}", "the secret is not accepted"
        await self._store.audit(
            self._entries.make(caller, "enrolment.use", f"service/{name}", outcome="refused", detail=why)
        )
        return EnrolmentRefused("the service's name and the secret are not accepted together, for this request")


def _spelled(secret: str) -> str:
    """The secret in its one spelling; what is none is hashed as it came, so that the work is the same."""
    try:
        return parse_secret("ces", secret)
    except SecretFormatError:
        return secret
