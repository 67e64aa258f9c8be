"""`cloud.fabric.routes.operator`: the requests of operators, over real mutual TLS."""

import pytest

from cloud.fabric import schemas
from tests.cloud.fabric.wire import Cloud, make_code, problem

pytestmark = pytest.mark.slow


async def test_operators(cloud: Cloud) -> None:
    tenant, code = await make_code(cloud)
    operator = cloud.operator()
    for client in (cloud.client(), cloud.client(token="cot_wrong"), cloud.client(token=code.secret)):
        assert (await problem(client, "GET", "/v1/tenants")).code == "operator_required"
    made = (await operator.call("POST", "/v1/tokens", schemas.CreateToken("ci"))).into(schemas.CreatedToken)
    other = cloud.client(token=made.secret)
    assert (await other.call("GET", f"/v1/tenants/{tenant.id}")).into(schemas.Tenant) == tenant
    revoked = (await operator.call("POST", f"/v1/tokens/{made.token.id}/revoke")).into(schemas.Token)
    assert revoked.revoked_at is not None
    assert (await problem(other, "GET", "/v1/tenants")).code == "operator_required"
    tokens = (await operator.call("GET", "/v1/tokens")).into(schemas.Page[schemas.Token])
    assert [token.name for token in tokens.items] == ["init", "ci"]
    # A token cannot revoke itself, so a valid token is always left.
    assert (await problem(operator, "POST", f"/v1/tokens/{tokens.items[0].id}/revoke")).code == "conflict"
    for number in range(4):
        await operator.call("POST", "/v1/tenants", schemas.CreateTenant(f"tenant {number}"))
    seen, cursor = [], ""
    while True:
        page = (await operator.call("GET", f"/v1/tenants?limit=2&cursor={cursor}")).into(schemas.Page[schemas.Tenant])
        seen += [item.name for item in page.items]
        if not (cursor := page.next_cursor):
            break
    assert seen == ["Presses", "tenant 0", "tenant 1", "tenant 2", "tenant 3"]
    path = f"/v1/tenants/{tenant.id}/trust"
    read = {"If-Match": (await operator.call("GET", path)).headers["etag"]}
    tiers = await operator.call("PUT", f"{path}/tiers", schemas.SetTiers(("tpm", "attested")), headers=read)
    assert tiers.into(schemas.TenantTrust).tiers == ("attested", "tpm")
    allowed = schemas.AllowEk("000B" + "aB" * 32, "the one in the hall")
    for _ in range(2):
        answer = await operator.call("POST", f"/v1/tenants/{tenant.id}/trust/ek-allowed", allowed)
        assert [entry.note for entry in answer.into(schemas.TenantTrust).ek_allowed] == ["the one in the hall"]
    codes = (await operator.call("GET", f"/v1/tenants/{tenant.id}/codes")).into(schemas.Page[schemas.Code])
    assert [(item.id, item.state) for item in codes.items] == [(code.code.id, "open")]
    answer = await operator.call("POST", f"/v1/codes/{code.code.id}/revoke", headers={"X-Request-Id": "mine"})
    back, request = answer.into(schemas.Code), answer.headers["x-request-id"]
    assert back.state == "revoked"
    assert (await operator.call("GET", "/v1/nodes")).into(schemas.Page[schemas.Node]).items == ()
    audit = (await operator.call("GET", "/v1/audit?action=code.revoked")).into(schemas.Page[schemas.AuditEntry])
    by_request = await operator.call("GET", f"/v1/audit?request={request}")
    assert by_request.into(schemas.Page[schemas.AuditEntry]).items == audit.items
    assert [entry.request for entry in audit.items] == [request]
    assert request != "mine"
    first = tokens.items[0]
    assert [(entry.actor, entry.object) for entry in audit.items] == [(f"operator:{first.id}", code.code.id)]
