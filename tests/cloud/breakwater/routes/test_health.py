"""`cloud.breakwater.routes.health`: liveness, and readiness to issue."""

import pytest

from cloud.mtls.client import ProblemAnswer
from tests.cloud.breakwater.live import Live

pytestmark = pytest.mark.slow


async def test_a_process_that_can_issue_is_ready(live: Live) -> None:
    async with live.anonymous() as client:
        for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
            answer = await client.call("GET", path)
            assert (answer.status, answer.into(dict[str, str])) == (200, {"status": status})


async def test_a_process_without_the_key_of_a_ca_lives_and_is_not_ready(live: Live) -> None:
    live.running.parts.signer.remove("nodes-1")
    async with live.anonymous() as client:
        assert (await client.call("GET", "/healthz")).status == 200
        with pytest.raises(ProblemAnswer) as caught:
            (await client.call("GET", "/readyz")).into(dict[str, str])
    assert (caught.value.problem.status, caught.value.problem.code) == (503, "unavailable")
