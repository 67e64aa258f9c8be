"""`cloud.fabric.routes.activation`: the exchange over HTTP, without a certificate."""

import msgspec

from protocol.encoding import json_encode
from protocol.ids import make_id
from protocol.messages.activation import Activated, Challenge, StartActivation
from tests.cloud.fabric.asgi import Api
from tests.cloud.fabric.support import Machine, World


async def test_a_challenge_and_its_proof_and_the_same_answer_to_the_same_bytes(world: World, api: Api) -> None:
    machine, code = Machine(world), await world.code()
    started = await api.ask("POST", "/v1/activations", StartActivation(code.secret, machine.evidence(), "1.0"))
    assert started.status == 201
    challenge = started.into(Challenge)
    machine.secret = world.entropy.last[32]
    body, path = json_encode(machine.proof(challenge)), f"/v1/activations/{challenge.activation}/proof"
    first = await api.ask("POST", path, body)
    assert first.status == 200
    assert first.into(Activated).generation == 1
    assert await api.ask("POST", path, body) == first
    # The same content in other bytes counts as another request.
    assert (await api.ask("POST", path, body + b" ")).code == "activation_closed"


async def test_a_field_of_a_later_agent_is_refused_with_the_code_at_which_the_agent_leaves_it_out(
    world: World, api: Api
) -> None:
    machine, code = Machine(world), await world.code()
    request = msgspec.to_builtins(StartActivation(code.secret, machine.evidence(), "1.0"))
    request["evidence"]["of_a_later_agent"] = []
    assert (await api.ask("POST", "/v1/activations", json_encode(request))).code == "invalid"


async def test_an_unknown_activation_is_not_found(world: World, api: Api) -> None:
    machine = Machine(world)
    body = machine.proof(await machine.start((await world.code()).secret))
    for key in ("act_x", world.tenant, make_id("act", 1, bytes(10))):
        assert (await api.ask("POST", f"/v1/activations/{key}/proof", body)).code == "not_found"
