"""`cloud.fabric.routes.airgap`: an operator answers a request over the API, and lists the exchanges."""

from cloud.fabric import schemas
from cloud.fabric.bodies.airgap import AirgapAnswer, AirgapExchange
from protocol.airgap.forms import read_answer
from protocol.signed.statements import Lease
from tests.cloud.fabric.asgi import Api
from tests.cloud.fabric.carried import a_site
from tests.cloud.fabric.support import ALICE, World

ANSWERS, EXCHANGES = "/v1/airgap/answers", "/v1/airgap/exchanges"


async def test_an_operator_answers_and_lists(world: World, api: Api) -> None:
    token = (await world.parts.operators.tokens.create(ALICE, schemas.CreateToken("bob"))).secret
    site = a_site(world)
    text = site.text("activate", code=(await world.code()).secret)
    assert (await api.ask("POST", ANSWERS, {"request": text})).code == "operator_required"
    answer = (await api.ask("POST", ANSWERS, {"request": text}, token=token)).into(AirgapAnswer)
    assert answer.exchange is not None
    assert isinstance(site.take(read_answer(answer.answer.encode())), Lease)
    page = await api.ask("GET", f"{EXCHANGES}?node={site.machine.node}&state=answered", token=token)
    assert page.into(schemas.Page[AirgapExchange]).items == (answer.exchange,)
    detail = await api.ask("GET", f"/v1/nodes/{site.machine.node}", token=token)
    assert detail.into(schemas.NodeDetail).receipt_outstanding_since == answer.exchange.answered_at


async def test_refusals_have_codes(world: World, api: Api) -> None:
    token = (await world.parts.operators.tokens.create(ALICE, schemas.CreateToken("bob"))).secret
    site = a_site(world)
    bodies = {
        "airgap_request_invalid": {"request": "{}"},
        "code_refused": {"request": site.text("activate", code="cac_unknown")},
        "invalid": {"request": site.text("activate", code="cac_unknown"), "valid_days": 61},
    }
    for code, body in bodies.items():
        assert (await api.ask("POST", ANSWERS, body, token=token)).code == code
