"""The routes of the socket over an agent: who may ask what, and what a command does."""

import json
from pathlib import Path

import pytest
import trio

from node.agent import Agent
from node.config import Config
from node.hwbind.tpm import Tpm
from node.local import routes
from node.local.changes import WAITS_PER_USER_MAX
from node.local.documents import license_document
from node.local.messages import Answer, Request
from node.state import State
from protocol.encoding import json_encode
from protocol.messages.est import PATH_SIMPLEREENROLL
from tests.simulators.fabric import Fabric, always, utc_now
from tests.simulators.licensed import SimulatedAgent


@pytest.fixture
def agent(tmp_path: Path, state: State, tpm: Tpm) -> Agent:
    now = utc_now()
    # All clocks stand still, so that two answers are equal.
    config = Config(state_dir=tmp_path / "state", mode="development")
    agent = Agent.load(config, state, tpm, lambda: now, lambda: 0.0, lambda: 100.0)
    agent._hardware.report_ours()
    return agent


async def request(agent: Agent, path: str, method: str = "GET", *, privileged: bool = True) -> Answer:
    return await routes.handler(agent)(Request(method, path, privileged))


def members(answer: Answer) -> dict[str, object]:
    document: dict[str, object] = json.loads(json_encode(answer.body))
    return document


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
    answer = await request(agent, f"/v1/entitlements/{path}", privileged=False)
    document = members(answer)
    assert list(document)[:6] == ["format", "name", "granted", "state", "reason", "valid_until"]
    assert (answer.status, document["granted"], document["reason"]) == (status, granted, reason)


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
    answer = await request(agent, path, method)
    document = members(answer)
    assert (answer.status, document["status"], document["code"]) == (status, status, code)
    assert bool(answer.allow) == (status == 405)
    assert list(document) == ["title", "status", "code"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 200, None),
        ("?wait=0&cursor=", 200, None),
        ("?wait=60&cursor=another", 200, None),
        ("?wait=60&cursor=%ff&other=1&wait=x", 200, None),
        ("?wait=61", 400, "wait_malformed"),
        ("?wait=-1", 400, "wait_malformed"),
        ("?wait=", 400, "wait_malformed"),
        ("?wait=1.5", 400, "wait_malformed"),
        ("?wait=%D9%A3", 400, "wait_malformed"),
        ("?wait=" + "9" * 5000, 400, "wait_malformed"),
    ],
)
async def test_changes(query: str, status: int, code: str | None) -> None:
    answer = await ask(SimulatedAgent(), query)
    assert answer.status == status
    if code is None:
        assert members(answer) == {"format": 1, "cursor": "simulator-0", "changed": True}
    else:
        assert members(answer)["code"] == code


async def ask(agent: SimulatedAgent, query: str) -> Answer:
    return await routes.handler(agent)(Request("GET", f"/v1/changes{query}", privileged=False, user=1000))


async def test_a_wait_for_a_change_ends_with_it(autojump_clock: object) -> None:
    agent = SimulatedAgent()
    began = trio.current_time()
    assert members(await ask(agent, "?cursor=simulator-0&wait=60"))["changed"] is False
    assert trio.current_time() == began + 60
    agent.changes.observe(agent.snapshot())
    answer = await ask(agent, "?cursor=simulator-0&wait=60")
    assert members(answer) == {"format": 1, "cursor": "simulator-1", "changed": True}
    assert trio.current_time() == began + 60


async def test_a_user_with_too_many_waits_is_told(autojump_clock: object) -> None:
    agent = SimulatedAgent()
    statuses: list[int] = []

    async def wait() -> None:
        statuses.append((await ask(agent, "?cursor=simulator-0&wait=60")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(WAITS_PER_USER_MAX + 1):
            nursery.start_soon(wait)
    assert statuses == [503, *[200] * WAITS_PER_USER_MAX]


async def test_license(agent: Agent) -> None:
    answer = await request(agent, "/v1/license?ignored=1", privileged=False)
    assert (answer.status, answer.body) == (200, license_document(agent.snapshot()))


async def test_status(agent: Agent) -> None:
    answer = await request(agent, "/v1/status", privileged=False)
    assert (answer.status, answer.body) == (200, agent.status())


async def test_renew_is_for_root_and_the_agents_user(agent: Agent, fabric: Fabric) -> None:
    answer = await request(agent, "/v1/renew", "POST", privileged=False)
    assert (answer.status, members(answer)["code"]) == (403, "permission_denied")
    assert fabric.handshakes == []


async def test_renew(agent: Agent, fabric: Fabric) -> None:
    chain = agent.licence.identity.chain
    answer = await request(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["state"]) == (200, "active")
    assert agent.licence.identity.chain != chain
    await agent.contact.connection.close()


async def test_rekey(agent: Agent, fabric: Fabric) -> None:
    key = agent.licence.identity.node_key
    answer = await request(agent, "/v1/renew/rekey", "POST")
    assert (answer.status, members(answer)["state"]) == (200, "active")
    assert agent.licence.identity.node_key != key
    assert (await request(agent, "/v1/renew/rekey")).status == 405
    await agent.contact.connection.close()


async def test_renew_without_the_cloud(agent: Agent, fabric: Fabric) -> None:
    fabric.answers["/v1/node/nonces"] = always(503)
    answer = await request(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["code"]) == (503, "cloud_unreachable")
    assert (members(answer)["exit_code"], bool(members(answer)["next"])) == (69, True)


async def test_renew_when_only_the_certificate_fails(agent: Agent, fabric: Fabric) -> None:
    fabric.answers[PATH_SIMPLEREENROLL] = always(500)
    answer = await request(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["code"]) == (503, "cloud_unreachable")
    await agent.contact.connection.close()


async def test_renew_of_a_revoked_node_says_so(agent: Agent, fabric: Fabric) -> None:
    fabric.revoke()
    with trio.fail_after(5):
        answer = await request(agent, "/v1/renew", "POST")
    assert (answer.status, members(answer)["state"]) == (200, "revoked")
