"""Use case: operators answer requests of nodes without a network, and list the exchanges.

The operator's computer need not be on the node's network, and the node needs none. A repeat of the same request gets the
stored answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import get_args

import msgspec

from cloud.fabric import schemas
from cloud.fabric.bodies.airgap import (
    VALID_DAYS_MAX,
    AirgapAnswer,
    AirgapExchange,
    AnswerAirgapRequest,
    ExchangeState,
)
from cloud.fabric.errors import AirgapInvalid, Invalid, IssuerUnavailable
from cloud.fabric.service import views
from cloud.fabric.service.airgap.activations import FileActivations
from cloud.fabric.service.airgap.contacts import Contacts
from cloud.fabric.service.airgap.exchanges import Exchanges
from cloud.fabric.service.airgap.requests import opened_at
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.ports import Now
from cloud.fabric.store.airgap import AirgapStore
from cloud.fabric.store.exchange_rows import AirgapExchangeRow
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.carried import CarriedError, HeldTrust, files_for
from cloud.http.guard import Operator
from protocol.airgap.answer import ANSWER_LIFE
from protocol.airgap.request import OpenedRequest
from protocol.messages.activation import AwaitedApproval
from protocol.messages.recovery import AwaitedRecovery


@dataclass(frozen=True, kw_only=True)
class AirgapAnswers:
    """Answers requests, and lists exchanges. `waits` says why no node is served now; empty if nodes are served."""

    now: Now
    waits: Callable[[], str]
    airgap: AirgapStore
    repository: RepositoryStore
    exchanges: Exchanges
    contacts: Contacts
    file_activations: FileActivations
    filters: ListFilters

    async def answer(self, operator: Operator, body: AnswerAirgapRequest) -> AirgapAnswer:
        """Answer a request, or say which activation an operator must approve first.

        1 the request can be read, and its node key signed it; 2 it is not too old; 3 it was not answered before: if it
        was, and the answer still holds, the answer is returned; 4 its trust pin is ours; 5 the checks of its kind
        (`Contacts`, `FileActivations`); 6 the answer is stored with the statement. After a restore no request is answered
        before the closed generations are taken from Breakwater.
        Raises IssuerUnavailable, AirgapInvalid, AirgapExpired, AirgapUsed, AirgapOutdated, Invalid, Conflict, and as
        the checks of its kind.
        """
        if cause := self.waits():
            raise IssuerUnavailable(cause)
        life = _life(body)
        opened = opened_at(body.request, self.now())
        stored = await self.exchanges.stored(opened)
        if stored is not None:
            return AirgapAnswer(stored.answer, exchange(stored))
        trust = await self._trust(opened)
        if opened.request.kind == "refresh":
            content = await self.contacts.content(opened, trust)
        else:
            made = await self.file_activations.content(operator, opened, trust)
            if isinstance(made, AwaitedApproval):
                return _waiting(made)
            content = made
        row = await self.exchanges.store(operator, opened, content, life)
        return AirgapAnswer(row.answer, exchange(row))

    async def page(self, tenant: str, node: str, state: str, cursor: str, limit: int) -> schemas.Page[AirgapExchange]:
        """A page of exchanges, in order of their ids. An empty filter matches every exchange. Raises Invalid, NotFound."""
        if state and state not in get_args(ExchangeState):
            raise Invalid(f"state: must be one of {', '.join(get_args(ExchangeState))}")
        await self.filters.check(tenant=tenant)
        after = views.read_cursor(cursor)
        rows = await self.airgap.page(tenant, node, state, after, views.read_limit(limit) + 1)
        return views.page([exchange(row) for row in rows], [row.id for row in rows], limit)

    async def _trust(self, opened: OpenedRequest) -> dict[str, str]:
        """The files of the published trust that the node lacks. Raises AirgapInvalid."""
        request = opened.request
        try:
            return await files_for(HeldTrust(request.root_version, request.trust_version, request.pin), self.repository)
        except CarriedError as error:
            raise AirgapInvalid(str(error)) from error


def _waiting(made: AwaitedApproval) -> AirgapAnswer:
    """The answer while a person must approve an activation, or decide about a recovery."""
    case = made.recovery if isinstance(made.recovery, AwaitedRecovery) else None
    return AirgapAnswer(
        "",
        activation=made.activation,
        approve_by=made.expires_at,
        recovery=case.case if case is not None else None,
        needs=case.needs if case is not None else "",
    )


def _life(body: AnswerAirgapRequest) -> timedelta:
    """How long the answer can be imported. Raises Invalid."""
    if isinstance(body.valid_days, msgspec.UnsetType):
        return ANSWER_LIFE
    if not 1 <= body.valid_days <= VALID_DAYS_MAX:
        raise Invalid(f"valid_days: 1 to {VALID_DAYS_MAX}")
    return timedelta(days=body.valid_days)


def exchange(row: AirgapExchangeRow) -> AirgapExchange:
    """An exchange as operators see it."""
    return AirgapExchange(
        request=row.id,
        kind=row.kind,
        state=row.state,
        tenant=row.tenant,
        node=row.node,
        generation=row.generation,
        made_at=row.made_at,
        answered_at=row.answered_at,
        valid_until=row.valid_until,
        statement=row.statement_type,
        answered_by=row.answered_by,
        received_at=row.received_at,
        imported_at=row.imported_at,
    )
