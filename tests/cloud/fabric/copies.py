"""Helper: a machine that presents renewal tokens, and copies of it with the same TPM state and disk."""

import copy
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cloud.fabric import errors
from protocol.evidence import ClockInfo
from protocol.messages.sessions import OpenSession, Session
from protocol.signed.statements import Lease
from tests.cloud.fabric.support import Machine, World

HOUR = timedelta(hours=1)


class Box:
    """A machine that presents renewal tokens. `copy` makes another one with the same TPM and disk."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world, self.machine = world, copy.copy(machine)
        self.token: str | msgspec.UnsetType = msgspec.UNSET
        self.clock = ClockInfo(1_000_000, 3, 0, True)

    def copy(self) -> "Box":
        twin = Box(self.world, self.machine)
        twin.token, twin.clock = self.token, self.clock
        return twin

    def request(self, **changes: Any) -> OpenSession:
        return self.machine.ask_for_session(None, **{"clock": self.clock, "renewal": self.token, **changes})

    async def session(self, *, lost: bool = False, **changes: Any) -> Session:
        """A session one hour after the last. A refused holder takes its statement, as the agent does."""
        self.world.clock.forward(HOUR)
        self.clock = msgspec.structs.replace(self.clock, clock=self.clock.clock + 3_600_000)
        try:
            answer = await self.world.parts.nodes.sessions.open_session(self.request(**changes), "192.0.2.7")
        except errors.HolderRefused as refused:
            self.machine.held = refused.statement
            raise
        if not lost:
            self.token = answer.renewal or self.token
            self.machine.held = answer.current.statement
        return answer

    async def refused(self) -> errors.HolderRefused:
        with pytest.raises(errors.HolderRefused) as refusal:
            await self.session()
        return refusal.value

    @property
    def lease(self) -> Lease:
        statement = self.world.statement(self.machine.held)
        assert isinstance(statement, Lease)
        return statement
