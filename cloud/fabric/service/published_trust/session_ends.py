"""Use case: record, for each issuing CA, the time after which all its session certificates have expired.

The time is stored before Fabric returns a session certificate, rounded up to a full hour. Once that time has passed,
the CA has no live sessions and can be dropped.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.keys import sessions_key
from cloud.fabric.tuf.current_trust import CurrentTrust
from protocol.faults import fault_point
from protocol.limits import SESSION_LIFE_MAX

_STEP = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class SessionEnds:
    """Stores the end of the sessions of each issuing CA. The end only moves forward."""

    now: Now
    transaction: Transaction
    installation: InstallationStore
    current_trust: CurrentTrust

    async def note(self, chain: tuple[bytes, ...]) -> None:
        """Record that the issuer of `chain` has a session from now on. Call it before the certificate is returned.

        `chain` is DER, the session certificate first and its issuer second.
        """
        if len(chain) < 2:
            return
        key_id = self.current_trust.key_id(chain[1])
        until = _next_step(self.now() + SESSION_LIFE_MAX)
        known = self.current_trust.sessions_until.get(key_id)
        if known is not None and known >= until:
            return
        with fault_point("fabric.session.issuer"):
            async with self.transaction(sessions_key(key_id)):
                await self.installation.raise_sessions_until(key_id, until)
        self.current_trust.sessions_until[key_id] = until


def _next_step(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0) + _STEP
