"""`cloud.breakwater.routes.revocations`: the route of the feed, and the revoked set of a service that polls it."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime

import pytest
from cryptography import x509

from cloud.clock import utc_now
from cloud.contracts.breakwater import PATH_REVOCATIONS, Revocations, RevokedSerial
from cloud.mtls.client import ProblemAnswer
from cloud.mtls.revoked import RevokedSet
from cloud.tasks.stopping import Stopping
from protocol.limits import EVENT_WAIT_SECONDS_MAX
from tests.cloud.breakwater.live import Live
from tests.waiting import until

pytestmark = pytest.mark.slow


class Disk:
    """The revoked set of a service."""

    def __init__(self) -> None:
        self.entries: dict[str, RevokedSerial] = {}

    async def load(self) -> Iterable[RevokedSerial]:
        return self.entries.values()

    async def save(self, entries: Sequence[RevokedSerial]) -> None:
        # The feed may contain an entry again.
        self.entries.update({entry.serial: entry for entry in entries})

    async def forget(self, now: datetime) -> None:
        self.entries = {serial: entry for serial, entry in self.entries.items() if entry.not_after > now}


async def test_the_route_and_the_set_at_the_other_end(live: Live) -> None:
    disk = Disk()
    follower = RevokedSet(load=disk.load, save=disk.save, forget=disk.forget, now=utc_now, entropy=bytes)
    async with live.fabric() as client:
        start = (await client.call("GET", f"{PATH_REVOCATIONS}?cursor=0&wait=0")).into(Revocations)
        stopping = Stopping()
        tasks = [
            asyncio.create_task(live.running.parts.feed.run(stopping)),
            asyncio.create_task(follower.follow(lambda: client, stopping)),
        ]
        identity = x509.load_pem_x509_certificate((live.home / "breakwater" / "tls" / "chain.pem").read_bytes())
        assert identity.serial_number not in follower
        begun = asyncio.get_running_loop().time()
        await live.running.parts.service_certificates.revoke("test", identity.serial_number, "keyCompromise")
        await until("the revocation at the other end", lambda: identity.serial_number in follower)
        assert asyncio.get_running_loop().time() - begun < 1
        assert len(disk.entries) == len(start.entries) + 1
        stopping.request()
        async with asyncio.timeout(1):
            await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "query", ["cursor=-1", "cursor=x", f"cursor={2**63}", "wait=-1", f"wait={EVENT_WAIT_SECONDS_MAX + 1}", "wait=1.5"]
)
async def test_a_query_out_of_bounds(live: Live, query: str) -> None:
    async with live.fabric() as client:
        with pytest.raises(ProblemAnswer) as refused:
            (await client.call("GET", f"{PATH_REVOCATIONS}?{query}")).into(Revocations)
        assert refused.value.problem.code == "invalid"


async def test_only_services_may_poll(live: Live) -> None:
    async with live.anonymous() as client:
        with pytest.raises(ProblemAnswer) as refused:
            (await client.call("GET", PATH_REVOCATIONS)).into(Revocations)
        assert refused.value.problem.code == "peer_required"
