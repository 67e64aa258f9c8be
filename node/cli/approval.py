"""Command line: the wait for an operator's approval. A command that waits does not hold the state directory.

The activation that waits is stored, with its proof. The command gives the state back, so a running agent hears from the
cloud and keeps its licence. It asks the cloud with the bytes of the stored proof, which needs neither the state nor the
TPM. Once the cloud has decided, the command takes the state again and carries the activation out.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from node.cli.borrowing import owned
from node.config import Config
from node.disk.pending import ApprovalWait
from node.disk.thread import on_disk
from node.exchanges.approval import ApprovalPending, until_approved
from node.link.api import CloudRefused
from node.state import State

T = TypeVar("T")


async def carried_out(config: Config, attempt: Callable[[], Awaitable[T]], say: Callable[[str], None]) -> T:
    """The result of `attempt`, repeated when the cloud has decided what it waits for.

    `attempt` takes the state, raises ApprovalPending if an operator must approve, and has given the state back then.
    Raises the errors of `attempt` and of `until_decided`.
    """
    while True:
        try:
            return await attempt()
        except ApprovalPending as pending:
            await until_decided(config, pending, say)


async def until_decided(config: Config, pending: ApprovalPending, say: Callable[[str], None]) -> None:
    """Ask until the cloud has approved what `pending` waits for. The caller does not own the state.

    Raises as `until_approved`; CloudRefused once the refused activation is removed.
    """
    if pending.ask is None:
        raise pending
    try:
        await until_approved(pending.ask, partial(_store, config), say, wait=True, after=pending)
    except CloudRefused:
        await _change(config, pending.waits, None)
        raise


async def _store(config: Config, waits: ApprovalWait) -> None:
    await _change(config, waits, waits)


async def _change(config: Config, waits: ApprovalWait, now: ApprovalWait | None) -> None:
    """Store what the activation waits for now; None removes it. Another activation that is stored is left alone."""
    state = State(config.state_dir)

    def change() -> None:
        stored = state.identities.load_activation()
        if stored is None or stored.activation != waits.activation:
            return
        if now is None:
            state.identities.clear_activation()
        else:
            state.identities.save_activation(msgspec.structs.replace(stored, approval=now))

    async with owned(config, state):
        await on_disk(change)
