"""`cloud.http.plaintext`: a listener without TLS reads only."""

import asyncio

from tests.cloud.world import World, connected


def test_a_plaintext_listener_only_reads() -> None:
    async def test() -> None:
        world = World()
        async with world.serving(tls=False) as port, connected(port, None) as client:
            assert (await client.ask("/open")).status == 200
            refused = await client.ask("/orders", "POST", body=b'{"count": 1}')
            assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
            assert "server" not in refused.headers

    asyncio.run(test())
