"""Use case: operators list recovery cases, and approve or deny them.

The first decision about a case counts. A repeat changes nothing. A repeat with another reason is refused, because the
audit has the first one.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from cloud.fabric import schemas
from cloud.fabric.bodies.recovery import RecoveryCase
from cloud.fabric.errors import Conflict, Invalid
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.recovery.decisions import CaseDecisions
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import RecoveryCaseRow
from cloud.http.guard import Operator
from protocol.ids import RecoveryId
from protocol.messages.recovery import CaseState

Decision = Literal["approve", "deny"]
UNDECIDED = "undecided"
"""The filter for the cases that a person or a recovery code can still decide."""


@dataclass(frozen=True, kw_only=True)
class RecoveryDecisions:
    """Lists recovery cases, and decides about them."""

    acting: Acting
    cases: RecoveryCaseStore
    decisions: CaseDecisions
    filters: ListFilters

    async def page(self, tenant: str, node: str, state: str, cursor: str, limit: int) -> schemas.Page[RecoveryCase]:
        """A page of cases, the oldest first. An empty filter matches every case. Raises Invalid, NotFound.

        The state `undecided` matches the cases that a person or a recovery code can still decide.
        """
        if state and state not in (UNDECIDED, *get_args(CaseState)):
            raise Invalid(f"state: must be {UNDECIDED}, or one of {', '.join(get_args(CaseState))}")
        await self.filters.check(tenant=tenant)
        after, count = views.read_cursor(cursor), views.read_limit(limit) + 1
        if state == UNDECIDED:
            rows = await self.cases.undecided(tenant, node, after, count)
        else:
            rows = await self.cases.page(tenant, node, state, after, count)
        return views.page([views.recovery_case(row) for row in rows], [row.id for row in rows], limit)

    async def show(self, case: RecoveryId) -> RecoveryCase:
        """One case with its evidence. Raises NotFound."""
        return views.recovery_case(await self.decisions.find(case))

    async def decide(self, operator: Operator, case: RecoveryId, decision: Decision, reason: str) -> RecoveryCase:
        """Approve or deny a case. A repeat of the decision changes nothing.

        Raises NotFound, Invalid; Conflict if the case is finished, was decided for another reason, or if the node or the
        tenant does not admit the machine any more. A denial needs a reason: the machine shows it.
        """
        check_text("reason", reason, empty=decision == "approve")
        row = await self.decisions.find(case)
        reads = await self.decisions.reads(row)
        async with self.acting.transaction(operator, *self.decisions.keys(row), reads=reads):
            row = await self.decisions.find(case)
            if _is_done(row, decision):
                if reason and reason != row.reason:
                    raise Conflict(f"the case is {row.state} already, by {row.decided_by}; the first reason stays")
                return views.recovery_case(row)
            decide = self.decisions.approve if decision == "approve" else self.decisions.deny
            row = await decide(row, by=operator.id, actor=operator_actor(operator), reason=reason)
        self.decisions.after(row)
        return views.recovery_case(row)


def _is_done(row: RecoveryCaseRow, decision: Decision) -> bool:
    """Whether a person made this decision already. An approved case may have been completed since."""
    if row.decided_at is None:
        return False
    done = ("approved", "consumed") if decision == "approve" else ("refused",)
    return row.state in done
