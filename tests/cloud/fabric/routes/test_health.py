"""`cloud.fabric.routes.health`: whether the process runs, and whether it can serve."""

import pytest

from cloud.fabric import schemas
from cloud.mtls.client import AnswerUnusable
from protocol.messages.activation import Challenge
from tests.cloud.fabric.asgi import Api
from tests.cloud.fabric.support import World
from tests.cloud.fabric.wire import Cloud

pytestmark = pytest.mark.slow


async def test_health(cloud: Cloud) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await cloud.client().call("GET", path)).into(schemas.Health).status == "ok"
    with pytest.raises(AnswerUnusable):
        (await cloud.client().call("GET", "/healthz")).into(Challenge)


async def test_without_its_database_a_fabric_lives_and_is_not_ready(world: World, api: Api) -> None:
    await world.stores.engine.close()
    assert (await api.ask("GET", "/healthz")).status == 200
    assert (await api.ask("GET", "/readyz")).code == "unavailable"
