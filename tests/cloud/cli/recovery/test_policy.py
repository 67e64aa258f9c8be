"""`cascade recovery policy`: shown without options, set with them."""

import json

import pytest

from cloud.cli.main import main
from cloud.cli.recovery.policy import OPTIONS
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.bodies.recovery_codes import SetRecoveryPolicy
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import NODE, TENANT, error_of

PATH = f"/v1/tenants/{TENANT}/recovery-policy"


def test_the_policy_is_shown_and_set(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", PATH, RecoveryPolicy())
    calls.answer("PUT", PATH, RecoveryPolicy(grace_quota=2))
    assert main(["recovery", "policy", TENANT]) == 0
    assert "grace quota       0" in capsys.readouterr().out
    assert main(["recovery", "policy", TENANT, "--grace-quota", "2", "--case-days", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["grace_quota"] == 2
    assert calls.made == [("GET", PATH, None), ("PUT", PATH, SetRecoveryPolicy(grace_quota=2, case_days=7))]


def test_every_value_has_an_option() -> None:
    assert tuple(OPTIONS) == RecoveryPolicy.__struct_fields__


def test_another_id_is_refused_before_a_call(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recovery", "policy", NODE, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []
