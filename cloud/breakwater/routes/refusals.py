"""Hook of the application: counts refusals by code, and audits each with the name of the caller."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from litestar.types import Scope

from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.refusal_audit import RefusalAudit
from cloud.breakwater.routes.access import caller_of
from cloud.breakwater.routes.problems import refusal
from cloud.mtls.peer import PeerTrust

UNAUDITED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths polled by monitoring; refusals here are not audited."""


class RefusalRecorder:
    """Gets each exception of a handler or of the guard before it is answered (`cloud.http.app.OnError`)."""

    def __init__(
        self,
        audit: RefusalAudit,
        metrics: IssuerMetrics,
        trust: Callable[[], PeerTrust],
        now: Callable[[], datetime],
    ) -> None:
        self._audit = audit
        self._metrics = metrics
        self._trust = trust
        self._now = now

    async def __call__(self, error: Exception, scope: Scope) -> None:
        view: Any = scope
        path = str(view["path"])
        if path in UNAUDITED_PATHS:
            return
        known = refusal(error)
        self._metrics.refused.add(known.code)
        caller = caller_of(view, self._trust(), self._now())
        await self._audit.record(caller, known.code, f"{view['method']} {path}", known.detail)
