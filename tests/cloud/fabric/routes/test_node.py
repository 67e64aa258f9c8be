"""`cloud.fabric.routes.node`: the requests of nodes, and the certificate that each needs."""

import pytest

from cloud.fabric.service.nodes.sessions import PATH_SESSIONS
from protocol.limits import EVENT_WAIT_SECONDS_MAX
from protocol.messages.sessions import Ask, Events, Nonce, Session, StatementAnswer
from tests.cloud.fabric.asgi import Api
from tests.cloud.fabric.support import NONCE, Machine, World, change

OVER_A_SESSION = [
    ("POST", "/v1/node/confirm"),
    ("POST", "/v1/node/statement"),
    ("POST", "/v1/node/release"),
    ("GET", "/v1/node/events"),
]


async def test_a_session_needs_a_proof_and_no_certificate_of_the_connection(api: Api, machine: Machine) -> None:
    nonce = (await api.ask("POST", "/v1/node/nonces")).into(Nonce)
    answer = await api.ask("POST", PATH_SESSIONS, machine.ask_for_session(nonce=nonce.nonce))
    assert answer.status == 200
    assert answer.into(Session).current.statement
    assert (await api.ask("POST", PATH_SESSIONS, machine.ask_for_session(method="PUT"))).code == "proof_refused"


@pytest.mark.parametrize(("method", "path"), OVER_A_SESSION)
async def test_all_other_requests_go_over_a_session(api: Api, machine: Machine, method: str, path: str) -> None:
    assert machine.activated is not None
    device = machine.activated.certificate_chain[0]
    assert (await api.ask(method, path, Ask(NONCE))).code == "peer_required"
    assert (await api.ask(method, path, Ask(NONCE), certificate=device)).code == "peer_refused"
    session = (await machine.session()).certificate_chain[0]
    assert (await api.ask(method, path, Ask(NONCE), certificate=session)).status == 200


async def test_a_node_confirms_fetches_and_waits(world: World, api: Api) -> None:
    machine = Machine(world)
    await machine.activate((await world.code()).secret)
    certificate = (await machine.session()).certificate_chain[0]
    assert (await api.ask("POST", "/v1/node/statement", Ask(NONCE), certificate=certificate)).code == "conflict"
    confirmed = await api.ask("POST", "/v1/node/confirm", Ask(NONCE), certificate=certificate)
    peer = await machine.peer()
    lease = world.verified(confirmed.into(StatementAnswer), peer)
    answer = await api.ask("POST", "/v1/node/statement", Ask(NONCE, trust_version=1), certificate=certificate)
    assert world.verified(answer.into(StatementAnswer), peer) == lease
    cursor = (await api.ask("GET", "/v1/node/events", certificate=certificate)).into(Events).cursor
    path = f"/v1/node/events?cursor={cursor}&wait=0"
    assert (await api.ask("GET", path, certificate=certificate)).into(Events).cursor == cursor
    await change(world, machine, "suspend")
    assert (await api.ask("GET", path, certificate=certificate)).into(Events).cursor == cursor + 1
    await change(world, machine, "revoke")
    refused = await api.ask("POST", "/v1/node/statement", Ask(NONCE), certificate=certificate)
    assert refused.code == "generation_closed"


@pytest.mark.parametrize("query", ["cursor=-1", f"wait={EVENT_WAIT_SECONDS_MAX + 1}", "cursor=x", f"cursor={2**60}"])
async def test_the_numbers_of_a_poll_are_bounded(api: Api, machine: Machine, query: str) -> None:
    certificate = (await machine.session()).certificate_chain[0]
    assert (await api.ask("GET", f"/v1/node/events?{query}", certificate=certificate)).code == "invalid"
