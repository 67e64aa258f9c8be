"""Helper: several machines that have activated, and their steps in a rotation."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509

from cloud.fabric import schemas
from cloud.mtls.identity import make_csr
from cloud.mtls.peer import NodePeer, read_peer
from tests.cloud.fabric.authorities import PaperIssuer
from tests.cloud.fabric.support import Machine, World

pytestmark = pytest.mark.slow


DAY = timedelta(days=1)


async def fleet(world: World, count: int) -> list[Machine]:
    """Machines that have activated and confirmed. Each has another chip of the same maker."""
    code = await world.code(seats=count)
    machines = [Machine(world, label=f"ek {number}") for number in range(count)]
    for machine in machines:
        await machine.join(code.secret)
    return machines


async def session(machine: Machine, version: int | None = None) -> NodePeer:
    """Open a session with the machine's device certificate, and report a trust version."""
    reported: Any = {} if version is None else {"trust_version": version}
    answer = await machine.world.parts.nodes.sessions.open_session(machine.ask_for_session(**reported))
    peer = read_peer(x509.load_der_x509_certificate(answer.certificate_chain[0]), machine.world.trust)
    assert isinstance(peer, NodePeer)
    return peer


async def renewed(machine: Machine, issuer: PaperIssuer) -> None:
    """Renew the device certificate for the same key."""
    assert machine.activated is not None
    generation = machine.activated.generation
    csr = make_csr(machine.node_key)
    end = machine.world.clock() + 400 * DAY
    made = await issuer.issue_device("r", machine.activated.tenant, machine.node, generation, csr, end)
    machine.activated = msgspec.structs.replace(machine.activated, certificate_chain=made.certificate_chain)


async def counted(world: World) -> schemas.Adoption:
    await world.follower.run_once()
    return await world.parts.trust.adoption.show()
