"""Adapter: shows the failures of contacts with the cloud, as conditions and in the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from node.conditions import Conditions
from node.errors import NodeError
from node.exchanges.failure import Failure, failure_of
from node.exchanges.session import SessionRefused
from node.hwbind.errors import TpmError
from node.supervision import traced
from node.text import shown_error

log = logging.getLogger("cascadia.agent")

CODES_MAX = 64
"""How many causes are logged between two answers of the cloud. The code of a refusal comes from outside."""
REPEAT_SECONDS = 3600.0
"""A cause that stays is logged again after this time, with the number of failures."""


class SilenceLog:
    """Logs contacts without an answer: each cause at its first failure, and then once in REPEAT_SECONDS.

    A machine without a network tries each second or so while it starts. One line a try would fill its log.
    """

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def report(self, failures: int, failure: Failure, now: float) -> None:
        """Log the failure if it is due. `failures` counts those in a row, from 1. `now` is in seconds of one clock."""
        if failures == 1:
            self._logged.clear()
        before = self._logged.get(failure.code)
        if now < before + REPEAT_SECONDS if before is not None else len(self._logged) >= CODES_MAX:
            return
        self._logged[failure.code] = now
        log.warning("no usable answer from the cloud (%d in a row): %s", failures, failure.text)


@contextmanager
def errand(conditions: Conditions, code: str, *, raises: bool = False) -> Iterator[None]:
    """Report an exception of the block as the condition `code` instead of raising it. A block that ends clears it.

    The condition's text is the text of the exception, followed by its code in brackets. With `raises` the exception is
    raised as well.
    """
    try:
        yield
    except Exception as error:
        refused = error.refusal if isinstance(error, SessionRefused) else error
        failure = failure_of(refused, conditions.now())
        if conditions.report(code, f"{failure.text} [{failure.code}]", failure.next):
            known = isinstance(error, NodeError | TpmError | SessionRefused)
            log.warning("%s: %s%s", code, shown_error(error), "" if known else f"\n{traced(error)}")
        if raises:
            raise
    else:
        conditions.clear(code)
