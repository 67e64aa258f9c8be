"""`cloud.breakwater.routes.problems`: the problem document of each error of the issuer."""

import pytest

from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_DEVICE,
    PATH_OPEN,
    PATH_SESSION,
)
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.routes.calls import DAYS_90, refused
from tests.cloud.breakwater.support import ask, new_key, opening

pytestmark = pytest.mark.slow


BAD_BODIES: dict[str, tuple[object, str]] = {
    "nothing": (None, "malformed"),
    "empty object": ({}, "invalid"),
    "a list": ([], "invalid"),
    "an unknown field": (
        {
            "request": "r",
            "tenant": "t",
            "node": "n",
            "generation": 1,
            "csr": "",
            "not_after": "2027-01-01T00:00:00Z",
            "ca": 1,
        },
        "invalid",
    ),
    "a generation in quotes": (
        {"request": "r", "tenant": "t", "node": "n", "generation": "1", "csr": "", "not_after": "2027-01-01T00:00:00Z"},
        "invalid",
    ),
    "too large": ({"request": "r" * 100_000}, "too_large"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_bodies(live: Live, name: str) -> None:
    body, code = BAD_BODIES[name]
    async with live.fabric() as fabric:
        for path in (PATH_DEVICE, PATH_SESSION):
            assert (await refused(fabric, "POST", path, body)).code == code


async def test_refusals_name_the_check(live: Live) -> None:
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        good = ask(new_key(), not_after=utc_now() + DAYS_90)
        torn = type(good)(good.request, good.tenant, good.node, 1, good.csr[:-1], good.not_after)
        problem = await refused(fabric, "POST", PATH_DEVICE, torn)
        assert (problem.status, problem.code) == (403, "csr_refused")
        assert "PKCS#10" in problem.detail
        assert problem.next
        await fabric.call("POST", PATH_DEVICE, good)
        other = ask(new_key(), not_after=utc_now() + DAYS_90)
        assert (await refused(fabric, "POST", PATH_DEVICE, other)).code == "conflict"
        assert (await refused(fabric, "POST", PATH_DEVICE, ask(new_key(), generation=0))).code == "invalid"
