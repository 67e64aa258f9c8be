"""`cloud.fabric.routes.trust`: only operators may use the routes of the published trust."""

import msgspec
import pytest

from cloud.fabric import schemas
from protocol.limits import REQUEST_BODY_BYTES_MAX
from tests.cloud.fabric.at_work import Running
from tests.cloud.fabric.support import ALICE
from tests.cloud.world import connected

pytestmark = pytest.mark.slow


async def test_the_routes_are_the_operators(at_work: Running) -> None:
    parts = at_work.fabric.parts
    made = await parts.operators.tokens.create(ALICE, schemas.CreateToken("of the test"))
    admitted = {"authorization": f"Bearer {made.secret}"}
    newest = await parts.stores.repository.latest("targets")
    assert newest is not None
    repeat = msgspec.json.encode(schemas.PublishTrust(targets=newest.data))
    async with connected(at_work.port, at_work.client(None)) as client:
        for path in ("/v1/trust", "/v1/trust/adoption", "/v1/trust/adoption/nodes"):
            assert (await client.ask(path)).problem.code == "operator_required"
            assert (await client.ask(path, headers=admitted)).status == 200
        answer = await client.ask("/v1/trust/targets", "POST", admitted, repeat)
        assert msgspec.json.decode(answer.body, type=schemas.Trust).targets_version == 1
        assert (await client.ask("/v1/trust/targets", "POST", admitted, b"{}")).problem.code == "trust_refused"
        order = await client.ask("/v1/trust/renew-devices", "POST", admitted, b'{"reason":"a test"}')
        assert msgspec.json.decode(order.body, type=schemas.RenewalOrder).nodes == 0
        assert (await client.ask("/v1/trust/renew-devices", "POST", admitted, b'{"after":1}')).problem.code == "invalid"
        naive = b'{"after":"2027-01-01T00:00:00"}'
        assert (await client.ask("/v1/trust/renew-devices", "POST", admitted, naive)).problem.code == "invalid"
        shown = await client.ask("/v1/trust/adoption", headers=admitted)
        assert msgspec.json.decode(shown.body, type=schemas.Adoption).renewal is not None
        large = msgspec.json.encode(schemas.PublishTrust(targets=b"x" * REQUEST_BODY_BYTES_MAX))
        assert (await client.ask("/v1/trust/targets", "POST", admitted, large)).problem.code == "too_large"
