"""The socket's documents, member by member: licensed software is built on them."""

from pathlib import Path

import pytest
import trio

from node.agent import Agent
from node.config import AGENT_VERSION, Config
from node.hwbind.tpm import Tpm
from node.local import routes
from node.local.server import Answer, Request
from node.state import State
from protocol.encoding import json_encode
from protocol.messages.est import PATH_SIMPLEREENROLL
from tests.node.conftest import Machine
from tests.node.shells import apply, install
from tests.simulators.fabric import NODE, TENANT, Fabric, always, utc_now

LICENSE = {
    "format": 1,
    "state": "active",
    "gate": "open",
    "new_work": True,
    "reason": "the lease is current",
    "next": "",
    "exit_code": 0,
    "flags": [],
    "tenant": TENANT,
    "node": NODE,
    "generation": 1,
}
LEASE_MEMBERS = [
    "trust_domain",
    "tenant",
    "node",
    "generation",
    "epoch",
    "seq",
    "issued_at",
    "tier",
    "profile",
    "entitlements",
    "not_before",
    "refresh_after",
    "expires_at",
    "grace_until",
    "terminate_at",
    "notify_at",
]


@pytest.fixture
def state(tmp_path: Path, fabric: Fabric, machine: Machine) -> State:
    return install(tmp_path / "state", fabric, machine.ak, machine.node_key)


@pytest.fixture
def agent(tmp_path: Path, state: State, tpm: Tpm) -> Agent:
    agent = Agent(Config(state_dir=tmp_path / "state", mode="development"), state, tpm, state.load_licence(utc_now))
    agent.licence.hardware = "ours"
    return agent


async def ask(agent: Agent, path: str, method: str = "GET", *, privileged: bool = True) -> Answer:
    return await routes.handler(agent)(Request(method, path, privileged))


def members(answer: Answer) -> dict[str, object]:
    import json

    document: dict[str, object] = json.loads(json_encode(answer.body))
    return document


async def test_license(agent: Agent) -> None:
    answer = await ask(agent, "/v1/license?ignored=1")
    document = members(answer)
    lease, valid_until = document.pop("lease"), document.pop("valid_until")
    assert (answer.status, document) == (200, LICENSE)
    assert isinstance(lease, dict)
    assert list(lease) == LEASE_MEMBERS
    assert isinstance(valid_until, str)
    assert valid_until.endswith("Z")


async def test_license_without_a_lease(agent: Agent, fabric: Fabric) -> None:
    apply(agent.licence, fabric, fabric.revocation())
    document = members(await ask(agent, "/v1/license"))
    assert (document["state"], document["gate"], document["exit_code"], document["lease"]) == (
        "revoked",
        "closed",
        81,
        None,
    )
    assert document["next"]


async def test_status(agent: Agent) -> None:
    document = members(await ask(agent, "/v1/status"))
    assert list(document) == (
        [
            "format",
            "version",
            "mode",
            "license",
            "hardware",
            "agent_running",
            "last_contact_at",
            "failures",
            "offline_bound_at",
            "limits",
            "damaged",
        ]
    )
    assert (document["version"], document["mode"], document["hardware"]) == (AGENT_VERSION, "development", "ours")
    lease = agent.licence.lease
    assert lease is not None
    assert document["offline_bound_at"] == lease.terminate_at.isoformat().replace("+00:00", "Z")


async def test_damage_and_a_failing_tpm_are_told_of(agent: Agent, state: State) -> None:
    agent.licence.hardware = "unavailable"
    assert members(await ask(agent, "/v1/license"))["flags"] == ["tpm-failing"]
    path = state.licences.statement_path(1)
    path.write_bytes(b"torn")
    agent.licence = state.load_licence(utc_now)
    document = members(await ask(agent, "/v1/status"))
    assert isinstance(document["license"], dict)
    assert document["license"]["flags"] == ["state-damaged"]
    assert isinstance(document["damaged"], list)
    assert str(path) in document["damaged"][0]


@pytest.mark.parametrize(
    ("path", "status", "granted", "reason"),
    [
        ("render", 200, True, "the lease is current"),
        ("r%65nder", 200, True, "the lease is current"),
        ("export", 403, False, "the licence does not include 'export'"),
        ("a%2Fb", 403, False, "the licence does not include 'a/b'"),
    ],
)
async def test_entitlement(agent: Agent, path: str, status: int, granted: bool, reason: str) -> None:
    answer = await ask(agent, f"/v1/entitlements/{path}", privileged=False)
    document = members(answer)
    assert list(document) == ["format", "name", "granted", "state", "reason", "valid_until"]
    assert (answer.status, document["granted"], document["reason"]) == (status, granted, reason)


async def test_no_entitlement_while_the_gate_is_closed(agent: Agent, fabric: Fabric) -> None:
    apply(agent.licence, fabric, fabric.suspension())
    answer = await ask(agent, "/v1/entitlements/render")
    assert (answer.status, members(answer)["reason"]) == (403, "the cloud has suspended the licence (unpaid)")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/licenses", 404, "not_found"),
        ("GET", "/v1/license/", 404, "not_found"),
        ("GET", "//v1/license", 404, "not_found"),
        ("GET", "http://cascadia/v1/license", 404, "not_found"),
        ("GET", "/v1/entitlements/a/b", 404, "not_found"),
        ("GET", "/v1/entitlements/", 400, "malformed"),
        ("GET", "/v1/entitlements/" + "x" * 65, 400, "malformed"),
        ("POST", "/v1/license", 405, "method_not_allowed"),
        ("HEAD", "/v1/status", 405, "method_not_allowed"),
        ("DELETE", "/v1/entitlements/render", 405, "method_not_allowed"),
        ("GET", "/v1/renew", 405, "method_not_allowed"),
    ],
)
async def test_everything_else(agent: Agent, method: str, path: str, status: int, code: str) -> None:
    answer = await ask(agent, path, method)
    document = members(answer)
    assert (answer.status, document["status"], document["code"]) == (status, status, code)
    assert list(document) == ["title", "status", "code"]


async def test_renew_is_for_root_and_the_agents_user(agent: Agent, fabric: Fabric) -> None:
    answer = await ask(agent, "/v1/renew", "POST", privileged=False)
    assert (answer.status, members(answer)["code"]) == (403, "permission_denied")
    assert fabric.handshakes == []


async def test_renew(agent: Agent, fabric: Fabric) -> None:
    chain = agent.licence.identity.chain
    answer = await ask(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["state"]) == (200, "active")
    assert agent.licence.identity.chain != chain
    await agent.new_session()


async def test_rekey(agent: Agent, fabric: Fabric) -> None:
    key = agent.licence.identity.node_key
    answer = await ask(agent, "/v1/renew/rekey", "POST")
    assert (answer.status, members(answer)["state"]) == (200, "active")
    assert agent.licence.identity.node_key != key
    assert (await ask(agent, "/v1/renew/rekey")).status == 405
    await agent.new_session()


async def test_renew_without_the_cloud(agent: Agent, fabric: Fabric) -> None:
    fabric.answers["/v1/node/nonces"] = always(503)
    answer = await ask(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["code"]) == (503, "cloud_unreachable")


async def test_renew_when_only_the_certificate_fails(agent: Agent, fabric: Fabric) -> None:
    fabric.answers[PATH_SIMPLEREENROLL] = always(500)
    answer = await ask(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["code"]) == (503, "cloud_unreachable")
    await agent.new_session()


async def test_renew_of_a_revoked_node_tells_so(agent: Agent, fabric: Fabric) -> None:
    fabric.revoke()
    with trio.fail_after(5):
        answer = await ask(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["state"]) == (200, "revoked")
