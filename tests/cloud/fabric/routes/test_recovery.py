"""`cloud.fabric.routes.recovery`: only operators use the routes, and bodies and filters have bounds."""

from datetime import timedelta

import msgspec
import pytest

from cloud.clock import utc_now
from cloud.fabric import schemas
from cloud.fabric.bodies.recovery import RecoveryCase, RecoveryPolicy
from cloud.fabric.bodies.recovery_codes import IssuedRecoveryCodes, IssueRecoveryCodes, RecoveryCode, SetRecoveryPolicy
from protocol.ids import TenantId
from tests.cloud.fabric.at_work import Running
from tests.cloud.fabric.store import support as rows
from tests.cloud.fabric.support import ALICE
from tests.cloud.world import Connection, connected

pytestmark = pytest.mark.slow

CASE = "/v1/recovery/cases/rcv_" + "0" * 26
PATHS = (
    ("GET", "/v1/recovery/cases"),
    ("GET", CASE),
    ("POST", f"{CASE}/approve"),
    ("POST", f"{CASE}/deny"),
    ("GET", "/v1/recovery/codes"),
    ("POST", "/v1/recovery/codes"),
    ("POST", "/v1/recovery/codes/rcc_" + "0" * 26 + "/revoke"),
)


async def test_the_routes_are_the_operators(at_work: Running) -> None:
    parts = at_work.fabric.parts
    made = await parts.operators.tokens.create(ALICE, schemas.CreateToken("of the test"))
    admitted = {"authorization": f"Bearer {made.secret}"}
    tenant = await parts.operators.tenants.create(ALICE, schemas.CreateTenant("Presses"))
    policy = f"/v1/tenants/{tenant.id}/recovery-policy"
    case = rows.recovery_case(tenant=tenant.id)
    await parts.stores.recovery_cases.insert(case)
    async with connected(at_work.port, at_work.client(None)) as client:
        for method, path in (*PATHS, ("GET", policy), ("PUT", policy)):
            assert (await client.ask(path, method)).problem.code == "operator_required"
        body = msgspec.json.encode(IssueRecoveryCodes(expires_at=utc_now() + timedelta(days=1), tenant=tenant.id))
        answer = await client.ask("/v1/recovery/codes", "POST", admitted, body)
        issued = msgspec.json.decode(answer.body, type=IssuedRecoveryCodes).codes[0]
        listed = await client.ask("/v1/recovery/codes?state=", headers=admitted)
        assert msgspec.json.decode(listed.body, type=schemas.Page[RecoveryCode]).items == (issued.code,)
        assert issued.secret.encode() not in listed.body
        revoked = await client.ask(f"/v1/recovery/codes/{issued.code.id}/revoke", "POST", admitted, b"{}")
        assert msgspec.json.decode(revoked.body, type=RecoveryCode).state == "revoked"
        cases = await client.ask(f"/v1/recovery/cases?tenant={tenant.id}&state=undecided", headers=admitted)
        assert [each.id for each in msgspec.json.decode(cases.body, type=schemas.Page[RecoveryCase]).items] == [case.id]
        shown = await client.ask(f"/v1/recovery/cases/{case.id}", headers=admitted)
        assert msgspec.json.decode(shown.body, type=RecoveryCase).evidence == case.evidence
        changed = msgspec.json.encode(SetRecoveryPolicy(grace_quota=3))
        read = (await client.ask(policy, headers=admitted)).headers["etag"]
        answer = await client.ask(policy, "PUT", {**admitted, "if-match": read}, changed)
        assert msgspec.json.decode(answer.body, type=RecoveryPolicy).grace_quota == 3
        await _refused(client, admitted, tenant.id)


async def _refused(client: Connection, admitted: dict[str, str], tenant: TenantId) -> None:
    expires_at = (utc_now() + timedelta(days=1)).isoformat()
    for method, path, body, code in (
        ("POST", "/v1/recovery/codes", {"expires_at": expires_at}, "invalid"),
        ("POST", "/v1/recovery/codes", {"expires_at": expires_at, "tenant": tenant, "count": 21}, "invalid"),
        ("POST", "/v1/recovery/codes", {"expires_at": expires_at, "tenant": tenant, "more": 1}, "invalid"),
        ("POST", "/v1/recovery/codes", {"expires_at": expires_at, "node": "node_x"}, "invalid"),
        ("POST", f"{CASE}/deny", {"reason": ""}, "invalid"),
        ("POST", f"{CASE}/approve", {}, "not_found"),
        ("PUT", f"/v1/tenants/{tenant}/recovery-policy", {"case_days": 0}, "invalid"),
        ("PUT", f"/v1/tenants/{tenant}/recovery-policy", {"grace_quota": "1"}, "invalid"),
    ):
        headers = {**admitted, "if-match": '"read"'}
        answer = await client.ask(path, method, headers, msgspec.json.encode(body))
        assert answer.problem.code == code, (path, body, answer.body)
    for path in ("/v1/recovery/cases?state=closed", "/v1/recovery/codes?state=used", "/v1/recovery/cases?limit=0"):
        assert (await client.ask(path, headers=admitted)).problem.code == "invalid"
