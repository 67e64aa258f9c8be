"""Confirmation of a stored generation: the state after it, and the state after a failure."""

from pathlib import Path

import pytest

from node.exchanges.confirmation import confirm
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence, StatementRejected
from node.link.api import CloudRefused
from node.state import State
from node.trust.current import CurrentTrust
from protocol.encoding import json_encode
from protocol.messages.sessions import StatementAnswer
from tests.node.conftest import Machine
from tests.node.shells import identity, install, trust_of
from tests.simulators.fabric import Fabric, Reply, Request, refused, utc_now

CONFIRM = "/v1/node/confirm"


class Waiting:
    """A node in generation 1. Its generation 2 is not confirmed yet."""

    def __init__(self, directory: Path, fabric: Fabric, machine: Machine, tpm: Tpm) -> None:
        self.state = install(directory, fabric, machine.ak, machine.node_key)
        self.identity = identity(fabric, machine.ak, machine.node_key, 2)
        self.state.identities.save_generation(self.identity)
        self.trust = CurrentTrust(directory, trust_of(fabric), utc_now)
        self.hardware = HardwareCheck(tpm)
        self._tpm = tpm

    async def confirm(self) -> Licence:
        try:
            return await confirm(self.state, self.identity, self.trust, self._tpm, self.hardware)
        finally:
            assert await self.state.saver.flush() is None

    def in_force(self) -> int | None:
        return State(self.state.directory).identities.current_generation()


@pytest.fixture
def waiting(tmp_path: Path, fabric: Fabric, machine: Machine, tpm: Tpm) -> Waiting:
    return Waiting(tmp_path / "state", fabric, machine, tpm)


async def test_a_confirmed_generation_is_in_force_with_a_licence(waiting: Waiting, fabric: Fabric) -> None:
    licence = await waiting.confirm()
    assert (waiting.in_force(), licence.identity.generation, licence.confirmed, fabric.confirmed) == (2, 2, True, 2)
    assert (waiting.hardware.status, licence.verdict().gate_open) == ("ours", True)
    assert licence.presented == fabric.statement
    assert [request.path.rpartition("/")[2] for request in fabric.requests] == ["nonces", "sessions", "confirm"]


async def test_a_confirmation_can_be_repeated(waiting: Waiting) -> None:
    first = await waiting.confirm()
    second = await waiting.confirm()
    assert second.presented == first.presented
    assert waiting.in_force() == 2


async def test_a_generation_that_the_cloud_has_closed_is_not_pending(waiting: Waiting, fabric: Fabric) -> None:
    fabric.closed[2] = fabric.revocation(2)
    with pytest.raises(CloudRefused):
        await waiting.confirm()
    assert waiting.in_force() == 1
    assert waiting.state.pending(waiting.trust.value) is None


async def test_after_a_refusal_without_a_signed_statement_it_stays_pending(waiting: Waiting, fabric: Fabric) -> None:
    fabric.answers[CONFIRM] = refused("activation_closed")
    with pytest.raises(CloudRefused):
        await waiting.confirm()
    assert (waiting.in_force(), waiting.state.pending(waiting.trust.value)) == (1, waiting.identity)
    assert waiting.hardware.status == "unchecked"


async def test_without_a_fresh_statement_it_is_not_in_force(waiting: Waiting, fabric: Fabric) -> None:
    async def not_fresh(_: Request) -> Reply:
        return Reply(200, json_encode(StatementAnswer(fabric.lease(2), "")))

    fabric.answers[CONFIRM] = not_fresh
    with pytest.raises(StatementRejected, match="no freshness says"):
        await waiting.confirm()
    assert (waiting.in_force(), waiting.state.pending(waiting.trust.value)) == (1, waiting.identity)
