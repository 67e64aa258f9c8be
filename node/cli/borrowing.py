"""Command line: the lock of the state directory. A running agent lends the state to the command (`node.lending`)."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import trio

from node.config import Config
from node.errors import StateBusy
from node.local.client import AgentAbsent, AgentRefused, AgentUnusable, expect, request
from node.local.documents import LicenseDocument
from node.local.messages import PATH_LEND
from node.state import State

LEND_SECONDS_MAX = 60.0
"""How long the agent may need to end its work. It stores what waits, and gives a slow disk 10 s."""
FREE_SECONDS_MAX = 5.0
"""How long the lock may be held by the agent's own looks whether it is free."""
LOOK_SECONDS = 0.1


@asynccontextmanager
async def owned(config: Config, state: State) -> AsyncIterator[None]:
    """Hold the lock of the state directory for the length of the block. A running agent is asked to lend the state.

    Raises StateBusy if another process holds the lock and does not lend it; StateError, AgentRefused.
    """
    with ExitStack() as held:
        try:
            held.enter_context(state.owned())
        except StateBusy as busy:
            await _borrow(config, busy)
            await _enter_when_free(held, state)
        yield


async def _enter_when_free(held: ExitStack, state: State) -> None:
    deadline = trio.current_time() + FREE_SECONDS_MAX
    while True:
        try:
            held.enter_context(state.owned())
            return
        except StateBusy:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(LOOK_SECONDS)


async def _borrow(config: Config, busy: StateBusy) -> None:
    """Have the agent release the lock. Raises `busy` if no agent answers, or if it is too old to lend its state."""
    try:
        reply = await request(config.socket, "POST", PATH_LEND, seconds_max=LEND_SECONDS_MAX)
        expect(reply, {200}, LicenseDocument)
    except (AgentAbsent, AgentUnusable) as error:  # AgentUnusable: an agent that ends at this moment
        raise busy from error
    except AgentRefused as refused:
        if refused.code == "not_found":
            raise busy from None
        raise
