"""The socket of a running agent: requests and answers go through the agent, and its verdict changes at once."""

import json

import pytest

from node.agent import Agent
from node.config import Config
from node.local import routes
from node.local.documents import RequestDocument
from node.local.messages import PATH_IMPORT, Answer, Request
from protocol.encoding import json_encode
from tests.node.airgap.conftest import Site
from tests.simulators.carried_answers import Answerer
from tests.simulators.fabric import Fabric

pytestmark = pytest.mark.slow


@pytest.fixture
async def agent(site: Site) -> Agent:
    site.start()
    made = Agent.load(Config(state_dir=site.directory, mode="development"), site.state, site.tpm)
    await made.licence.check_hardware()
    return made


async def post(agent: Agent, path: str, body: bytes = b"", *, privileged: bool = True) -> tuple[int, dict[str, object]]:
    answer: Answer = await routes.handler(agent)(Request("POST", path, privileged, body))
    return answer.status, json.loads(json_encode(answer.body))


async def test_an_answer_changes_the_verdict_of_a_running_agent(
    agent: Agent, site: Site, operators: Answerer, quiet: Fabric
) -> None:
    status, document = await post(agent, "/v1/requests")
    assert status == 200
    assert set(document) == set(RequestDocument.__struct_fields__)
    assert (await post(agent, "/v1/requests"))[1] == document
    quiet.say(quiet.suspension())
    answer = operators.answer(str(document["file"]).encode())
    status, after = await post(agent, PATH_IMPORT, answer)
    assert (status, after["state"]) == (200, "suspended")
    assert agent.licence.verdict().state == "suspended"
    assert site.start().verdict().state == "suspended"
    status, refused = await post(agent, PATH_IMPORT, answer)
    assert (status, refused["code"], refused["exit_code"]) == (503, "airgap_answer_used", 65)
    assert operators.received[0].request.development


async def test_another_request_and_the_rights_of_the_caller(agent: Agent) -> None:
    _, first = await post(agent, "/v1/requests")
    _, second = await post(agent, "/v1/requests/new")
    assert first["request"] != second["request"]
    for path in ("/v1/requests", "/v1/requests/new", PATH_IMPORT):
        assert (await post(agent, path, privileged=False))[0] == 403
