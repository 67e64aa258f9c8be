"""`cascade trust adoption` prints the count and lists the nodes behind it."""

from typing import Any

import pytest

from cloud.cli.main import main
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, NODE, TENANT

ADOPTION: dict[str, Any] = {
    "trust_version": 2,
    "nodes": 3,
    "adopted": 1,
    "issuers": [{"key_id": "ab", "subject": "CN=nodes", "published": True, "nodes": 3, "sessions_until": None}],
    "services": [{"name": "fabric", "issuer": "cd", "published": True, "trust_version": 2}],
    "renewal": {
        "after": AT,
        "reason": "stolen",
        "set_at": AT,
        "spread_seconds": 60,
        "nodes": 3,
        "woken": 1,
        "done": False,
    },
}


def test_the_count(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", "/v1/trust/adoption", ADOPTION)
    assert main(["trust", "adoption"]) == 0
    printed = capsys.readouterr().out
    for text in ("1 of 3 nodes", "CN=nodes", "fabric", "stolen"):
        assert text in printed
    calls.answer("GET", "/v1/trust/adoption", {**ADOPTION, "renewal": None})
    assert main(["trust", "adoption"]) == 0
    assert "renewal" not in capsys.readouterr().out


@pytest.mark.parametrize(("option", "query"), [(("--missing",), ""), (("--issuer", "none"), "issuer=none&")])
def test_the_nodes(calls: Calls, capsys: pytest.CaptureFixture[str], option: tuple[str, ...], query: str) -> None:
    node = {"node": NODE, "tenant": TENANT, "trust_version": 1, "device_issuer": "ab", "seen_at": AT}
    calls.answer("GET", "/v1/trust/adoption/nodes", {"items": [node], "next_cursor": ""})
    assert main(["trust", "adoption", *option, "--limit", "7"]) == 0
    assert NODE in capsys.readouterr().out
    assert calls.made == [("GET", f"/v1/trust/adoption/nodes?{query}limit=7", None)]
