"""`cloud.fabric.routes.repository`: the TUF repository over plain HTTP."""

import httpx
import pytest

from protocol.encoding import sha256_hex
from tests.cloud.fabric.wire import Cloud

pytestmark = pytest.mark.slow


async def test_the_repository_is_read_only_and_plain(cloud: Cloud) -> None:
    async with httpx.AsyncClient(base_url=cloud.repository_url, trust_env=False) as http:
        root = await http.get("/tuf/metadata/1.root.json")
        assert (root.status_code, sha256_hex(root.content)) == (200, cloud.made.pin.sha256)
        assert (await http.get("/tuf/metadata/timestamp.json")).headers["cache-control"] == "no-cache"
        for path in ("/tuf/metadata/2.root.json", "/tuf/metadata/x", "/tuf/targets/x", "/v1/tenants", "/"):
            assert (await http.get(path)).status_code == 404
        assert (await http.post("/tuf/metadata/1.root.json")).status_code == 405
        assert (await http.get("/healthz")).json() == {"status": "ok"}
