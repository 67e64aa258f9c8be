"""`cloud.fabric.routes.access`: requests that are refused for their form, over real mutual TLS."""

from datetime import timedelta

import pytest

from cloud.clock import utc_now
from cloud.fabric import schemas
from protocol.messages.activation import StartActivation
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.asgi import api_of
from tests.cloud.fabric.support import ALICE, Machine, World
from tests.cloud.fabric.wire import Cloud, make_code, problem

pytestmark = pytest.mark.slow


async def test_bad_requests(cloud: Cloud) -> None:
    tenant, _ = await make_code(cloud)
    operator = cloud.operator()
    codes = f"/v1/tenants/{tenant.id}/codes"
    tomorrow = utc_now() + timedelta(days=1)
    for path, body in (
        ("/v1/tenants", schemas.CreateTenant(" ")),
        ("/v1/tenants", schemas.CreateTenant("x" * 129)),
        ("/v1/tenants", {"name": "x", "colour": "red"}),
        ("/v1/tenants", {"name": 1}),
        (codes, schemas.CreateCode("p", utc_now() - timedelta(days=1))),
        (codes, schemas.CreateCode("p", tomorrow, ("a", "a"))),
        (codes, schemas.CreateCode("p", tomorrow, seats=0)),
        (codes, schemas.CreateCode("p", tomorrow, lease=schemas.LeaseTerms(9, 8, 7, 6))),
        (codes, schemas.CreateCode("p", tomorrow, readmit_node=tenant.id)),  # type: ignore[arg-type]
        (f"/v1/tenants/{tenant.id}/trust/ek-roots", schemas.AddEkRoots("no certificate")),
        (f"/v1/tenants/{tenant.id}/trust/ek-allowed", schemas.AllowEk("000b12")),
        ("/v1/tokens", schemas.CreateToken("old", utc_now() - timedelta(days=1))),
    ):
        assert (await problem(operator, "POST", path, body)).code == "invalid", path
    other = tenant.id[:-1] + ("y" if tenant.id.endswith("z") else "z")
    for path in ("/v1/tenants/ten_x", f"/v1/tenants/{other}", "/v1/nodes/node_x", f"/v1/nodes/{tenant.id}"):
        assert (await problem(operator, "GET", path)).code == "not_found"
    for path in ("/v1/tenants?limit=0", "/v1/tenants?limit=x", "/v1/nodes?standing=odd"):
        assert (await problem(operator, "GET", path)).code == "invalid"
    assert (await problem(operator, "GET", "/v1/tenants?cursor=!")).code == "cursor_foreign"
    missing = await problem(
        operator, "POST", "/v1/nodes/node_01jd8xk3v5e2r9qz7w4m6n8p0a/revoke", schemas.ChangeStanding()
    )
    assert missing.code == "not_found"
    assert (await problem(cloud.client(), "GET", "/v1/node/events")).code == "peer_required"
    unknown = StartActivation("cac_nonsense", Machine(None).evidence(), "1.0")  # type: ignore[arg-type]
    assert (await problem(cloud.client(), "POST", "/v1/activations", unknown)).code == "code_refused"


LAST = "9999-12-31T23:59:59-12:00"
FIRST = "0001-01-01T00:00:00+12:00"


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_values_that_no_calendar_or_database_holds(world: World) -> None:
    api = api_of(world)
    token = (await world.parts.operators.tokens.create(ALICE, schemas.CreateToken("of the test"))).secret
    for path, body in (
        ("/v1/tokens", {"name": "a", "expires_at": LAST}),
        (f"/v1/tenants/{world.tenant}/codes", {"profile": "p", "expires_at": LAST}),
        ("/v1/trust/renew-devices", {"after": LAST}),
        ("/v1/trust/renew-devices", {"after": FIRST}),
        ("/v1/trust/targets", {"contents": {"\0": ""}}),
    ):
        assert (await api.ask("POST", path, body, token=token)).code == "invalid", (path, body)
    for query in (
        "nodes?tenant=%00",
        "audit?tenant=%00",
        "audit?object=%00",
        "audit?action=%00",
        "trust/adoption/nodes?issuer=%00",
        "tenants?cursor=%00",
    ):
        assert (await api.ask("GET", f"/v1/{query}", token=token)).code == "invalid", query
