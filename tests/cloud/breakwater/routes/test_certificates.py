"""`cloud.breakwater.routes.certificates`: certificates for nodes, requested over mTLS."""

import pytest

from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_DEVICE,
    PATH_OPEN,
)
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.generations import make_authority
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.routes.calls import DAYS_90
from tests.cloud.breakwater.support import ask, load, new_key, opening

pytestmark = pytest.mark.slow


async def test_a_new_authority_issues_without_a_restart(live: Live) -> None:
    authorities = live.running.parts.authorities
    before = authorities.peer_trust()
    made = await make_authority(live.home, live.running.parts.keys, "nodes", 2, utc_now())
    await authorities.import_prepared("operator/test", *made)
    await authorities.activate("operator/test", made[0])
    assert authorities.peer_trust() is not before
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        answer = await fabric.call("POST", PATH_DEVICE, ask(new_key(), not_after=utc_now() + DAYS_90))
    chain = answer.into(Certificate).certificate_chain
    assert "nodes CA 2" in load(chain[1]).subject.rfc4514_string()
