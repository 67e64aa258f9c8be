"""Use case: check that an object is still what the operator has read. The refusal says who changed it.

The caller checks in the transaction of its change, which holds the object's key.
"""

from dataclasses import dataclass
from typing import Any

from cloud.fabric.errors import ChangedSinceRead
from cloud.fabric.store.audit import FIRST_PAGE, AuditStore
from cloud.fabric.store.rows import AuditRow
from cloud.fabric.store.tokens import TokenStore
from cloud.http.conditions import IfMatch, matches
from protocol.ids import TokenId

ENTRIES_READ = 20
"""Newest audit entries of the object that are searched for its last change. Refusals stand between changes."""
_OPERATOR = "operator:"


@dataclass(frozen=True, kw_only=True)
class Unchanged:
    """Compares objects with what operators have read."""

    audit: AuditStore
    tokens: TokenStore

    async def check(self, if_match: IfMatch, subject: str, document: Any) -> None:
        """Check that `document`, the object's current representation, has one of the tags. `subject` is its id.

        Raises ChangedSinceRead.
        """
        if matches(if_match, document):
            return
        entries = await self.audit.page("", subject, "", FIRST_PAGE, ENTRIES_READ)
        for entry in entries:
            if entry.outcome == "done":
                raise ChangedSinceRead(await self._described(entry))
        raise ChangedSinceRead("the audit has no recent change of the object")

    async def _described(self, entry: AuditRow) -> str:
        who = entry.actor
        if who.startswith(_OPERATOR):
            token = TokenId(who.removeprefix(_OPERATOR))
            who = f"operator {await self.tokens.name_of(token)!r} ({token})"
        what = ", ".join(f"{name}={value}" for name, value in sorted(entry.detail.items()))
        at = entry.at.isoformat(timespec="seconds").replace("+00:00", "Z")
        return f"the last change is `{entry.action}` by {who} at {at}" + (f": {what}" if what else "")
