"""`cloud.fabric.routes.renewal`: the exchange over HTTP, without a client certificate."""

from datetime import timedelta

from protocol.encoding import json_encode
from protocol.ids import make_id
from protocol.messages.renewal import PATH_RENEWALS, ProveRenewal, RenewalChallenge, Renewed, StartRenewal
from tests.cloud.fabric.asgi import Api
from tests.cloud.fabric.support import NONCE, Machine, World
from tests.simulators.forged_evidence import PaperChip


async def test_a_challenge_and_its_proof_and_the_same_answer_to_the_same_bytes(
    world: World, api: Api, machine: Machine
) -> None:
    assert machine.activated is not None
    world.clock.forward(timedelta(days=800))
    device = machine.activated.certificate_chain[0]
    started = await api.ask("POST", PATH_RENEWALS, StartRenewal(device, machine.evidence(), "1.0"))
    assert started.status == 201
    challenge, secret = started.into(RenewalChallenge), world.entropy.last[32]
    paper = PaperChip(
        ak=machine.ak, node_key=machine.node_key, nonce_secret=secret, nonce_activation=challenge.renewal
    ).prove()
    body, path = (
        json_encode(ProveRenewal(secret, paper.csr, paper.key, NONCE)),
        f"{PATH_RENEWALS}/{challenge.renewal}/proof",
    )
    first = await api.ask("POST", path, body)
    assert first.status == 200
    assert first.into(Renewed).certificate_chain[0] != device
    assert await api.ask("POST", path, body) == first
    assert (await api.ask("POST", path, body + b" ")).code == "activation_closed"
    for key in ("ren_x", machine.node, make_id("ren", 1, bytes(10))):
        assert (await api.ask("POST", f"{PATH_RENEWALS}/{key}/proof", body)).code == "not_found"
