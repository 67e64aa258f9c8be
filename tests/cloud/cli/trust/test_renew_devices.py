"""`cascade trust renew-devices`: the order, and invalid times."""

from datetime import UTC, datetime

import pytest

from cloud.cli.main import main
from cloud.fabric import schemas
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT
from tests.cloud.cli.trust.support import Installation, shown

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.slow
def test_a_time_that_cannot_be_read(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "renew-devices", "--after", "tomorrow", "--json"]) == 2
    assert shown(capsys)["error"]["code"] == "time_invalid"


def test_the_order_is_sent(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    order = {"after": AT, "reason": "why", "set_at": AT, "spread_seconds": 60, "nodes": 3, "woken": 0, "done": False}
    calls.answer("POST", "/v1/trust/renew-devices", order)
    for after, expected in (("now", None), ("2026-11-22T12:00:00Z", NOON), ("2026-11-22 12:00", NOON)):
        assert main(["trust", "renew-devices", "--after", after, "--reason", "why", "--spread", "60"]) == 0
        assert calls.made[-1][2] == schemas.RenewDevices(after=expected, reason="why", spread_seconds=60)
    assert "woken" in capsys.readouterr().out
