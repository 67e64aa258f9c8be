"""Background task: keeps a loop of the agent running after an unexpected exception.

An unexpected exception is a fault that no other code handles. `supervised` reports the exception and runs the loop
again after a pause. The agent goes on, so the state of the licence still follows the signed statements and their dates.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator

import trio

from node.conditions import Conditions
from node.text import shown_error

log = logging.getLogger("cascadia.agent")

PAUSE_SECONDS_MIN = 1.0
"""Pause after the first exception. The pause doubles with each exception that follows."""
PAUSE_SECONDS_MAX = 60.0
"""Longest pause. A loop that fails at once never uses the processor for long."""
STEADY_SECONDS = 120.0
"""After this time without an exception the condition ends, and the next pause is the shortest one."""
TEXT_CHARACTERS_MAX = 300
"""The text of an exception can quote an answer of any length."""
FRAMES_MAX = 16
CAUSES_MAX = 4
"""Bounds of a logged traceback: the frames of each exception, and the exceptions that led to it."""
NEXT = "The agent tries again by itself. Report the traceback in the agent's journal to the maker of Cascadia."


class UnexpectedErrors:
    """Reports unexpected exceptions: as a condition, and in the log. `where` names the loop or step that failed."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._logged: dict[str, str] = {}

    def report(self, where: str, error: BaseException) -> None:
        """Set the condition `fault_<where>`. Log the traceback if the last exception of `where` was another one.

        Of a group the first exception is reported.
        """
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = f"cannot complete the work of {where!r}: {shown_error(error, TEXT_CHARACTERS_MAX)}"
        self._conditions.report(_code(where), text, NEXT)
        # Texts often differ in a number or a name. The same exception at the same place has one traceback in the log.
        place = type(error).__name__ + "".join(traceback.format_tb(error.__traceback__, limit=-FRAMES_MAX))
        if self._logged.get(where) == place:
            log.warning("%s (again)", text)
        else:
            self._logged[where] = place
            log.error("%s\n%s", text, traced(error))

    def clear(self, where: str) -> None:
        """End the condition of `where`."""
        self._conditions.clear(_code(where))


def _code(where: str) -> str:
    return "fault_" + where.replace(" ", "_")


def traced(error: BaseException) -> str:
    """The traceback of an exception for the log, of bounded length, with every text from outside on one line."""
    return "".join(_frames(error))


def _frames(error: BaseException) -> Iterator[str]:
    """The traceback of an exception and of its causes, the last cause first. Texts are in one line each."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < CAUSES_MAX:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for each in reversed(causes):
        yield from traceback.format_tb(each.__traceback__, limit=-FRAMES_MAX)
        yield shown_error(each, TEXT_CHARACTERS_MAX) + "\n"


async def supervised(
    where: str,
    loop: Callable[[], Awaitable[None]],
    errors: UnexpectedErrors,
    *,
    ends: tuple[type[Exception], ...] = (),
    pause_seconds_max: float = PAUSE_SECONDS_MAX,
) -> None:
    """Run `loop` until it returns. Run it again after each unexpected exception, with a pause in between.

    Args:
        where: the name of the loop, for people.
        loop: the loop. It must be able to start again after it failed at any point.
        errors: gets the exceptions.
        ends: exceptions that the loop raises on purpose. They are raised.
        pause_seconds_max: the longest pause.
    """
    pause = PAUSE_SECONDS_MIN
    while True:
        started = trio.current_time()
        error = await run_once(where, loop, errors)
        if error is None:
            errors.clear(where)
            return
        if isinstance(error, ends):
            raise error
        errors.report(where, error)
        if trio.current_time() - started >= STEADY_SECONDS:
            pause = PAUSE_SECONDS_MIN
        await trio.sleep(min(pause, pause_seconds_max))
        pause = min(2 * pause, pause_seconds_max)


async def run_once(where: str, loop: Callable[[], Awaitable[None]], errors: UnexpectedErrors) -> Exception | None:
    """Run a loop or a step once. Returns the exception that ended it, or None if it returned.

    If a cancellation and an exception come together, `errors` gets the exception and the cancellation goes on.
    """

    async def clear_when_steady() -> None:
        await trio.sleep(STEADY_SECONDS)
        errors.clear(where)

    outcome: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clear_when_steady)
        try:
            await loop()
        except Exception as error:  # noqa: BLE001 (the purpose of this function)
            outcome = error
        except BaseExceptionGroup as group:
            # A nursery of the loop can raise Cancelled and an exception together. Cancelled must go on.
            cancelled, outcome = _split(group)
            if cancelled is not None:
                if outcome is not None:
                    errors.report(where, outcome)
                raise cancelled from None
        nursery.cancel_scope.cancel()
    return outcome


def _split(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException | None, Exception | None]:
    """The part of a group that is no Exception, such as Cancelled, and the rest."""
    exceptions, others = group.split(Exception)
    return others, exceptions if isinstance(exceptions, Exception) else None
