"""Values: why a contact with the cloud failed. `cascadia status` and `cascadia renew` show the last failure.

The failure is in the agent's memory only. The code is the code of the error that ended the contact, for example
`dns_failed`, `clock_wrong`, `tpm-absent`, `disk_full`, or the code of the cloud's refusal.
"""

from datetime import datetime

import msgspec

from node.errors import NodeError
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.text import shown, shown_error


class Failure(msgspec.Struct, frozen=True):
    """One contact that failed."""

    at: datetime
    """Time of the failure, by the wall clock."""
    code: str
    """Name of the cause, for programs. Codes are never renamed."""
    text: str
    """Cause, for people."""
    next: str
    """Next step, for people."""
    exit_code: int
    """Exit code of `cascadia renew` with this cause."""

    def error(self) -> NodeError:
        """The failure as an error, to be raised."""
        exits = {int(member): member for member in Exit}
        return NodeError.of(self.text, exit=exits.get(self.exit_code, Exit.INTERNAL), code=self.code, next=self.next)


def failure_of(error: Exception, at: datetime) -> Failure:
    """The failure that an exception of a contact describes. An exception of another tree has the code `internal`."""
    if isinstance(error, NodeError):
        code, text, step, number = error.code, error.text, error.next, int(error.exit)
    elif isinstance(error, TpmError):
        code, text, step, number = error.code, str(error), error.advice, error.exit_code
    else:
        code, text, number = (
            "internal",
            f"cannot complete the contact with the cloud: {shown_error(error)}",
            int(Exit.INTERNAL),
        )
        step = Exit.INTERNAL.next
    return Failure(at, code, shown(text), shown(step), number)
