"""Use case: limit the wrong recovery codes of one caller, and record them in the audit, a limited number in an hour.

A wrong code changes nothing: it uses up no code and locks none. The limits are those of a source, and of a chip at one
source. The chip is not proved when a code is presented, so a stranger can name the chip of another machine. But a
stranger at another source cannot keep the machine from its code. Each replica counts for itself.
"""

from datetime import timedelta

import msgspec

from cloud.fabric.errors import RecoveryCodeRefused, TooOften
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.keys import refusal_key
from cloud.tasks.buckets import Buckets, Rate
from cloud.tasks.tally import Tally

WRONG_PER_CHIP = Rate(10, 360.0)
"""Wrong codes of one chip at one source: ten, and ten an hour in the long run. The check in a code finds most errors of typing."""
WRONG_PER_SOURCE = Rate(100, 36.0)
"""Wrong codes of one source: a site whose machines share an address."""
AUDITED_PER_SOURCE_MAX = 20
AUDITED_MAX = 200
AUDITED_PERIOD = timedelta(hours=1)
"""Most audit entries of wrong codes in AUDITED_PERIOD: for one source, and for all sources together."""
SOURCES_MAX = 10_000
"""Most sources that are counted for the audit at a time. Wrong codes of further sources are not recorded."""
UNKNOWN = "unknown"
"""The object of the entry for a text that is no code of this installation."""


class Caller(msgspec.Struct, frozen=True):
    """The caller that presents a code: its source (`cloud.tasks.source`), and the hash that identifies its chip."""

    source: str
    chip: str

    @property
    def key(self) -> tuple[str, str]:
        """The key of the caller's own limit."""
        return self.source, self.chip


class RecoveryTries:
    """Counts wrong codes by chip and source. `factor` multiplies the limits of tries."""

    def __init__(self, *, now: Now, transaction: Transaction, audit: AuditLog, factor: float = 1.0) -> None:
        self._now = now
        self._transaction = transaction
        self._audit = audit
        self._chip_rate, self._source_rate = WRONG_PER_CHIP.times(factor), WRONG_PER_SOURCE.times(factor)
        self._chips, self._sources = Buckets(), Buckets()
        self._audited: Tally[str] = Tally(AUDITED_PERIOD, SOURCES_MAX)
        self._audited_whole: Tally[str] = Tally(AUDITED_PERIOD, 1)

    def check(self, caller: Caller) -> None:
        """Check that the caller may try a code. Raises TooOften."""
        now = self._now().timestamp()
        wait = max(
            self._chips.wait(caller.key, self._chip_rate, now),
            self._sources.wait(caller.source, self._source_rate, now),
        )
        if wait > 0:
            raise TooOften("too many wrong recovery codes", wait)

    async def note(self, caller: Caller, error: RecoveryCodeRefused) -> None:
        """Count a refused code, and record it within the limits."""
        now = self._now()
        self._chips.take(caller.key, self._chip_rate, now.timestamp())
        self._sources.take(caller.source, self._source_rate, now.timestamp())
        self._audited.end_all(now)
        if not self._audited.has_room(caller.source):
            return
        if self._audited.add(caller.source, now) > AUDITED_PER_SOURCE_MAX:
            return
        if self._audited_whole.add("", now) > AUDITED_MAX:
            return
        subject = error.code or UNKNOWN
        async with self._transaction(refusal_key(subject)):
            await self._audit.write(
                ANONYMOUS,
                "recovery.code_refused",
                subject,
                error.tenant,
                "refused",
                reason=error.detail,
                node=error.node,
                source=caller.source,
            )
