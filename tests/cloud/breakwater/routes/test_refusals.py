"""`cloud.breakwater.routes.refusals`: refusals are counted and audited."""

import httpx
import pytest

from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_DEVICE,
)
from cloud.storage import Statement
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.routes.calls import DAYS_90, refused
from tests.cloud.breakwater.support import ask, new_key

pytestmark = pytest.mark.slow


_REFUSALS = Statement("SELECT caller, object, detail FROM audit WHERE outcome = 'refused' ORDER BY at LIMIT 1000")


async def refusals(live: Live) -> list[tuple[str, str, str]]:
    rows = await live.fetch(_REFUSALS)
    return [(row["caller"], row["object"], row["detail"].partition(":")[0]) for row in rows]


async def test_every_refusal_leaves_a_line_and_is_counted(live: Live) -> None:
    async with live.fabric() as fabric, live.anonymous() as anonymous:
        await refused(fabric, "POST", PATH_DEVICE, {"request": "r" * 100_000})
        await refused(fabric, "POST", PATH_DEVICE, None)
        await refused(fabric, "POST", PATH_DEVICE, ask(new_key(), not_after=utc_now() + DAYS_90))
        await refused(anonymous, "POST", PATH_DEVICE, None)
        await refused(anonymous, "GET", "/v1/nothing%00%1b[2J")
        await anonymous.call("GET", "/readyz")
        text = (await live.running.parts.metrics.registry.render()).decode()
    assert await refusals(live) == [
        ("service/fabric", f"POST {PATH_DEVICE}", "too_large"),
        ("service/fabric", f"POST {PATH_DEVICE}", "malformed"),
        ("service/fabric", f"POST {PATH_DEVICE}", "generation_closed"),
        ("anonymous", f"POST {PATH_DEVICE}", "peer_required"),
        ("anonymous", "GET /v1/nothing??[2J", "not_found"),
    ]
    assert 'cascade_breakwater_refused_total{code="generation_closed"} 1.0' in text
    assert 'route="/v1/certificates/device"' in text


async def test_refusals_on_the_plaintext_listener_are_audited_too(live: Live) -> None:
    async with httpx.AsyncClient(trust_env=False) as stranger:
        answer = await stranger.get(f"http://127.0.0.1:{live.pki_port}/crl/people-1/1.crl")
    assert answer.status_code == 404
    assert await refusals(live) == [("anonymous", "GET /crl/people-1/1.crl", "not_found")]
