"""Use cases: one-time secrets with which a service gets its first certificate over EST. Only hashes are stored.

A secret is for one service and expires. The first certificate request that uses the secret binds it. A repeat of that
request gets the same certificate. A wrong, unknown, expired or used secret gets the same refusal after the same work.
This module issues no certificates.
"""

import hmac
from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.audit import AuditEntries
from cloud.breakwater.errors import EnrolmentRefused, TriedTooOften, ValueRefused
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.enrolments import EnrolmentRow, EnrolmentStore
from cloud.tasks.buckets import Buckets, Level, Rate, admit
from cloud.tasks.source import source_of
from protocol.codes import ENTROPY_BYTES, SecretFormatError, make_secret, parse_secret, secret_hash
from protocol.ids import SERVICE_NAMES, make_id

LIFE_MIN = timedelta(minutes=1)
LIFE_MAX = timedelta(days=7)
"""A person carries a secret to a machine. A week is enough for that."""
LISTED_MAX = 1000
FAILURES_PER_SOURCE = Rate(10, 60.0)
FAILURES_WHOLE = Rate(1_000, 10.0)
"""Failures that are audited: of one source (an address), and of all sources: at most 10,000 rows a day. Further failures
are answered with the time to wait and leave no row. A right secret is never refused for the failures of others, because
160 bits cannot be guessed."""
USES_PER_SECRET = Rate(20, 60.0)
"""Uses of a right secret. Each leaves up to two audit rows, and a refused request frees the secret for the next. A service
needs one use, and more if its request was refused or its answer was lost."""


class Attempts:
    """Counts failures by source and in whole, and uses by secret, in the memory of one process. Time is an argument."""

    def __init__(self) -> None:
        self._sources, self._whole, self._secrets = Buckets(), Buckets(), Buckets()

    def failed(self, source: str, now: datetime) -> timedelta:
        """Count a failure. Return zero, or how long to wait if there were too many; then nothing is counted."""
        levels = [Level(self._sources, source, FAILURES_PER_SOURCE), Level(self._whole, "", FAILURES_WHOLE)]
        return timedelta(seconds=admit(levels, now.timestamp()))

    def used(self, enrolment: str, now: datetime) -> timedelta:
        """Count a use of a right secret. Return zero, or how long to wait; then nothing is counted."""
        return timedelta(seconds=admit([Level(self._secrets, enrolment, USES_PER_SECRET)], now.timestamp()))


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
            EnrolmentRefused: the secret is not accepted. The text is the same for every reason.
            TriedTooOften: the secret is not accepted, and this source has failed too often. Or the secret is accepted
                and was used too often.
        """
        shown = secret_hash(_normal_form(secret))
        row = await self._store.find(shown)
        # Every comparison runs, so that the time does not reveal which one failed.
        right_secret = hmac.compare_digest(shown, row.secret_hash if row is not None else "")
        right_service = hmac.compare_digest(service.encode(), row.service.encode() if row is not None else b"")
        in_time = row is not None and self._now() < row.expires_at
        unused = row is not None and row.csr_sha256 in ("", csr_sha256)
        if row is None or not (right_secret and right_service and in_time and unused):
            raise await self._refused(source_of(host), service)
        wait = self._attempts.used(row.id, self._now())
        if wait > timedelta(0):
            raise TriedTooOften(wait, "this secret was used too often")
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

    async def _refused(self, source: str, service: str) -> EnrolmentRefused | TriedTooOften:
        wait = self._attempts.failed(source, self._now())
        if wait > timedelta(0):
            return TriedTooOften(wait)
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
