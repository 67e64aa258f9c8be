"""`cloud.fabric.service.airgap.requests`: bounds, age and order of requests."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from cloud.fabric.errors import AirgapExpired, AirgapInvalid, AirgapOutdated, Invalid
from cloud.fabric.licensing.request_order import Moment
from cloud.fabric.service.airgap.requests import as_claims, check_latest, check_unused, opened_at, tpm_clock
from protocol.airgap.forms import printed
from protocol.airgap.request import ClockEvidence, Receipt, Request, RequestFile
from protocol.encoding import json_encode
from protocol.evidence import ClockInfo, NvCounter
from tests.protocol.airgap.examples import MADE, REQUEST_ID, a_request, signed_request

DAY = timedelta(days=1)
EARLY = datetime(1969, 1, 1, tzinfo=UTC)


def text(**changes: object) -> str:
    return json_encode(signed_request(a_request(**changes))).decode()


def test_a_request_is_read_in_json_and_as_text() -> None:
    file: RequestFile = signed_request(a_request())
    assert opened_at(json_encode(file).decode(), MADE).request == opened_at(printed(file), MADE).request == a_request()


def test_a_damaged_text_names_its_line() -> None:
    lines = printed(signed_request(a_request())).splitlines()
    lines[3] = lines[3][:6] + ("0" if lines[3][6] != "0" else "1") + lines[3][7:]
    with pytest.raises(AirgapInvalid, match="line 3"):
        opened_at("\n".join(lines), MADE)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"agent_version": "1\n"}, Invalid, "agent_version"),
        ({"fingerprint": {"a": "\x00"}}, Invalid, "fingerprint"),
        ({"floor": NvCounter(1, "", 1)}, Invalid, "floor"),
        ({"floor": NvCounter(0x01C20000, "", 0)}, Invalid, "floor"),
        ({"clock": ClockEvidence(low=EARLY, high=MADE, wall=MADE)}, Invalid, "low"),
        ({"clock": ClockEvidence(low=MADE, high=EARLY, wall=MADE)}, Invalid, "high"),
        ({"made_at": EARLY}, Invalid, "made_at"),
        ({"receipt": Receipt(REQUEST_ID, "0" * 64, EARLY)}, Invalid, "imported_at"),
        ({"lease_version": 0}, AirgapInvalid, "lease_version"),
        ({"made_at": MADE - 15 * DAY}, AirgapExpired, "14 days"),
        ({"format": 2}, AirgapInvalid, "format 2"),
    ],
)
def test_bounds(changes: dict[str, object], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        opened_at(text(**changes), MADE)


def test_a_suspect_clock_is_not_judged() -> None:
    clock = ClockEvidence(low=MADE, high=MADE, wall=MADE, suspect=True)
    opened = opened_at(text(clock=clock, made_at=MADE - 900 * DAY), MADE)
    check_latest(opened, Moment(MADE, None), "a session")
    with pytest.raises(AirgapOutdated, match="made before a session"):
        check_latest(
            opened_at(text(clock=ClockEvidence(low=MADE, high=MADE, wall=MADE)), MADE),
            Moment(MADE + DAY, None),
            "a session",
        )


def test_a_new_request_has_no_exchange() -> None:
    check_unused(opened_at(text(), MADE), None)


def test_a_request_has_the_claims_of_a_session() -> None:
    made: Request = a_request(development=True, renewal="token", floor=NvCounter(0x01C20000, "", 4))
    claims = as_claims(opened_at(json_encode(signed_request(made)).decode(), MADE))
    assert (claims.tenant, claims.node, claims.generation, claims.nonce) == (made.tenant, made.node, 2, made.nonce)
    assert (claims.trust_version, claims.development, claims.renewal, claims.floor) == (4, True, "token", made.floor)
    assert claims.clock == tpm_clock(made) == ClockInfo(1000, 1, 0, True)
    bare = as_claims(opened_at(text(trust_version=0, clock=ClockEvidence(low=MADE, high=MADE, wall=MADE)), MADE))
    for value in (bare.trust_version, bare.development, bare.renewal, bare.floor, bare.clock):
        assert value is msgspec.UNSET
