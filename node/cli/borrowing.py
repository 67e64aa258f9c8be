"""Command line: the lock of the state directory. A running agent lends the state to the command (`node.lending`)."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import trio

from node.config import Config
from node.errors import NodeError, StateBusy
from node.lending import StateLent
from node.local.client import AgentAbsent, AgentRefused, AgentUnusable, expect, request
from node.local.documents import LicenseDocument
from node.local.messages import PATH_LEND
from node.state import State

LEND_SECONDS_MAX = 60.0
"""How long the agent may need to end its work. It stores what waits, and gives a slow disk 10 s."""
FREE_SECONDS_MAX = 10.0
"""How long the lock may be busy without an agent that lends the state: the agent starts again after each command that
used the state, and it looks itself whether the lock is free."""
LOOK_SECONDS = 0.1


@asynccontextmanager
async def owned(config: Config, state: State) -> AsyncIterator[None]:
    """Hold the lock of the state directory for the length of the block. A running agent is asked to lend the state.

    Raises StateBusy if another process holds the lock and does not lend it; StateError, AgentRefused.
    """
    with ExitStack() as held:
        await _enter(held, config, state)
        yield


async def _enter(held: ExitStack, config: Config, state: State) -> None:
    deadline = trio.current_time() + FREE_SECONDS_MAX
    is_lent, refusal = False, None
    while True:
        try:
            held.enter_context(state.owned())
            return
        except StateBusy as busy:
            if not is_lent:
                refusal = await _borrow(config, busy)
                is_lent = refusal is None
                if is_lent:
                    deadline = trio.current_time() + FREE_SECONDS_MAX
            if trio.current_time() >= deadline:
                raise refusal or busy from None
        await trio.sleep(LOOK_SECONDS)


async def _borrow(config: Config, busy: StateBusy) -> NodeError | None:
    """Have the agent release the lock. Returns None if it does, or why it does not at the moment.

    Raises `busy` if the agent is too old to lend its state; AgentRefused.
    """
    try:
        reply = await request(config.socket, "POST", PATH_LEND, seconds_max=LEND_SECONDS_MAX)
        expect(reply, {200}, LicenseDocument)
    except (AgentAbsent, AgentUnusable):  # also of an agent that ends or starts at this moment
        return busy
    except AgentRefused as refused:
        if refused.code == StateLent.code:
            return refused
        if refused.code == "not_found":
            raise busy from None
        raise
    return None
