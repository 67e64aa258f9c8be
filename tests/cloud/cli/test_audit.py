"""`cascade audit` prints the newest entries, page by page, up to the limit."""

from typing import Any

import pytest

from cloud.cli.main import main
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, TENANT


def entry(number: int) -> dict[str, Any]:
    return {
        "id": f"aud_{number}",
        "at": AT,
        "actor": f"operator:{number}",
        "action": "tenant.create",
        "object": TENANT,
        "outcome": "done",
        "detail": {},
        "tenant": TENANT,
        "request": "r",
    }


def test_list(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [{"items": [entry(1), entry(2)], "next_cursor": "c"}, {"items": [entry(3)], "next_cursor": ""}]
    calls.answer("GET", "/v1/audit", *pages)
    assert main(["audit", "list", "--tenant", TENANT, "--object", "x", "--request", "r", "--limit", "60"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        *("ACTOR", "operator:1", "operator:2", "operator:3"),
    ]
    assert [call[1] for call in calls.made] == [
        f"/v1/audit?tenant={TENANT}&object=x&request=r&limit=60",
        f"/v1/audit?tenant={TENANT}&object=x&request=r&cursor=c&limit=58",
    ]
