"""`cloud.breakwater.metrics`: the values in the answer to a scrape."""

import pytest

from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_DEVICE,
    PATH_OPEN,
)
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.routes.calls import DAYS_90
from tests.cloud.breakwater.support import ask, closing, new_key, opening

pytestmark = pytest.mark.slow


async def test_the_values_after_some_requests(live: Live) -> None:
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        asked = ask(new_key(), not_after=utc_now() + DAYS_90)
        for _ in range(2):
            await fabric.call("POST", PATH_DEVICE, asked)
        await fabric.call("POST", PATH_CLOSE, closing())
    text = (await live.running.parts.metrics.registry.render()).decode()
    for line in (
        'cascade_breakwater_issued_total{authority="nodes-1",profile="device"} 1.0',
        'cascade_breakwater_repeated_total{profile="device"} 1.0',
        'cascade_breakwater_revoked_total{kind="generation",reason="superseded"} 1.0',
        'cascade_breakwater_signatures{authority="nodes-1"} 1.0',
        "cascade_breakwater_database_up 1.0",
        'cascade_breakwater_records{state="revoked"} 1.0',
    ):
        assert line in text, line
    assert 'cascade_breakwater_authority_expires_seconds{authority="root-1"}' in text
    assert "ten_" not in text
    assert "node_" not in text
