"""`cloud.breakwater.routes.generations`: Fabric opens and closes generations, and nodes are admitted or refused."""

import pytest

from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_DEVICE,
    PATH_GENERATIONS,
    PATH_OPEN,
    PATH_SESSION,
    GenerationOpened,
    GenerationsClosed,
    GenerationsPage,
)
from cloud.mtls.client import ProblemAnswer
from cloud.mtls.identity import make_csr
from protocol.messages.est import (
    decode_certs_only,
)
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.routes.calls import DAYS_90, refused, renew
from tests.cloud.breakwater.support import ask, closing, load, new_key, opening

pytestmark = pytest.mark.slow


async def test_the_life_of_a_generation(live: Live) -> None:
    device_key, session_key = new_key(), new_key()
    not_after = utc_now() + DAYS_90
    async with live.fabric() as fabric:
        for _ in range(2):
            assert (await fabric.call("POST", PATH_OPEN, opening())).into(GenerationOpened) == GenerationOpened(1)
        asked = ask(device_key, request="d", not_after=not_after)
        device = (await fabric.call("POST", PATH_DEVICE, asked)).into(Certificate)
        assert (await fabric.call("POST", PATH_DEVICE, asked)).into(Certificate) == device
        end = load(device.certificate_chain[0]).not_valid_after_utc
        wanted = ask(session_key, request="s", not_after=end)
        session = (await fabric.call("POST", PATH_SESSION, wanted)).into(Certificate)
        async with live.holder(session, session_key) as node:
            renewal = make_csr(device_key)
            (renewed,) = decode_certs_only((await renew(node, renewal)).body)
            assert load(renewed).public_key() == device_key.public_key()
            assert (await renew(node, make_csr(new_key()))).status == 403
            closed = (await fabric.call("POST", PATH_CLOSE, closing())).into(GenerationsClosed)
            assert closed == GenerationsClosed(2)
            listed = (await fabric.call("GET", PATH_GENERATIONS + "?cursor=")).into(GenerationsPage)
            assert ([each.closed_up_to for each in listed.nodes], listed.cursor, listed.restored) == ([1], "", 0)
            # The next request on the same connection.
            with pytest.raises(ProblemAnswer, match="generation_closed"):
                (await renew(node, renewal)).into(Certificate)
        assert (await refused(fabric, "POST", PATH_DEVICE, asked)).code == "generation_closed"
        assert (await refused(fabric, "POST", PATH_OPEN, opening())).code == "conflict"
