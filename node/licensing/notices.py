"""Pure functions: the notice to the owner of the machine that its licence is about to end.

The cloud chooses the dates (`notify_at` of the lease). A node that reaches the cloud gets a new lease long before them.
A final lease has a notice from its issue on, and so has the grace lease of a recovery.
"""

from datetime import datetime

import msgspec

from protocol.signed.statements import Lease


class Notice(msgspec.Struct, frozen=True):
    """A notice. `since` is the date from which it counts; a later notice of the same lease has a later date."""

    since: datetime
    text: str


def notice_of(lease: Lease, at: datetime) -> Notice | None:
    """The notice of a lease at the time `at` (`high` of trusted time); None before its first date and after its end.

    After `expires_at` the state of the licence says that the lease has expired. A final lease and a grace lease have no
    state between `expires_at` and `terminate_at`, because both are the same time.
    """
    if at >= lease.expires_at:
        return None
    recovers = lease.recovery is not msgspec.UNSET
    dates = [lease.issued_at] if lease.final is not None or recovers else []
    since = max((date for date in (*dates, *lease.notify_at) if date <= at), default=None)
    if since is None:
        return None
    if lease.final is not None:
        text = (
            f"this is the last lease ({lease.final.reason}): all licensed software stops at {_text(lease.terminate_at)}"
        )
    elif recovers:
        text = (
            f"the recovery {lease.recovery} is not approved yet: without an approval or a recovery code all licensed "
            f"software stops at {_text(lease.terminate_at)}"
        )
    else:
        text = f"no new lease has come since {_text(lease.issued_at)}: the lease expires at {_text(lease.expires_at)}"
    return Notice(since, text)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
