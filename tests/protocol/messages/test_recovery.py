"""Messages of a recovery: what an older agent leaves out, and what an older cloud refuses."""

import msgspec
import pytest

from protocol.encoding import json_decode, json_encode
from protocol.messages.activation import AwaitedApproval, StartActivation
from protocol.messages.recovery import AwaitedRecovery, RecoveryClaim
from protocol.messages.software import StartSoftwareActivation


def test_a_start_without_a_claim_has_the_bytes_of_before() -> None:
    start = StartSoftwareActivation(code="cac_x", public_key=b"key", agent_version="1")
    assert json_encode(start) == b'{"code":"cac_x","public_key":"a2V5","agent_version":"1"}'
    assert json_decode(json_encode(start), StartSoftwareActivation).recovery is msgspec.UNSET
    assert "recovery" in StartActivation.__struct_fields__


def test_a_claim_refuses_unknown_fields_and_situations() -> None:
    assert json_decode(b'{"situation":"reinstalled"}', RecoveryClaim) == RecoveryClaim(situation="reinstalled")
    naive = b'{"situation":"reinstalled","last_ran_at":"2026-11-30T12:00:00"}'
    for text in (b'{"situation":"stolen"}', b"{}", b'{"situation":"reinstalled","chip":"x"}', naive):
        with pytest.raises(msgspec.ValidationError):
            json_decode(text, RecoveryClaim)


def test_an_awaited_approval_names_its_case_or_has_the_fields_of_before() -> None:
    text = b'{"activation":"act_x","asked_at":"2026-11-30T12:00:00Z","expires_at":"2026-12-14T12:00:00Z",%b}'
    plain = json_decode(text % b'"retry_after_seconds":10', AwaitedApproval)
    assert plain.recovery is msgspec.UNSET
    assert b"recovery" not in json_encode(plain)
    case = b'"case":"rcv_x","state":"needs_operator","needs":"operator-or-code","decide_by":"2026-12-14T12:00:00Z"'
    recovery = json_decode(text % (b'"retry_after_seconds":10,"recovery":{' + case + b"}"), AwaitedApproval).recovery
    assert isinstance(recovery, AwaitedRecovery)
    assert (recovery.case, recovery.needs) == ("rcv_x", "operator-or-code")
