"""`cascade tenant`: its calls, its output, and invalid ids."""

import json
from typing import Any

import pytest

from cloud.cli.main import main
from cloud.fabric import schemas
from cloud.fabric.bodies.clones import SetClonePolicy
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, TENANT, error_of

TENANT_SHOWN: dict[str, Any] = {"id": TENANT, "name": "acme", "tiers": ["attested"], "created_at": AT}
TRUST = {"tenant": TENANT, "tiers": ["attested", "tpm"], "ek_roots": [], "ek_allowed": []}


def test_create_list_and_show(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("POST", "/v1/tenants", TENANT_SHOWN)
    calls.answer("GET", "/v1/tenants", {"items": [TENANT_SHOWN], "next_cursor": ""})
    calls.answer("GET", f"/v1/tenants/{TENANT}", TENANT_SHOWN)
    assert main(["tenant", "create", "acme", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == TENANT
    assert main(["tenant", "list"]) == 0
    assert main(["tenant", "show", TENANT]) == 0
    assert capsys.readouterr().out.count("acme") == 2
    assert calls.made[0] == ("POST", "/v1/tenants", schemas.CreateTenant(name="acme"))


def test_the_policy_for_suspected_clones(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"/v1/tenants/{TENANT}/clone-policy"
    calls.answer("PUT", path, TENANT_SHOWN | {"clone_policy": "suspend-both"})
    assert main(["tenant", "clone-policy", TENANT, "suspend-both", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clone_policy"] == "suspend-both"
    assert calls.made == [("PUT", path, SetClonePolicy(policy="suspend-both"))]


@pytest.mark.parametrize("command", [("show", ""), ("show", "../nodes"), ("tiers", "ten_x", "tpm")])
def test_what_is_no_id_is_not_asked_for(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(["tenant", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []


SETTINGS: list[tuple[tuple[str, ...], str, object]] = [
    (("tiers", TENANT, "attested, tpm"), "tiers", schemas.SetTiers(("attested", "tpm"))),
    (("approve-tiers", TENANT, "tpm,software"), "approval", schemas.SetApprovalTiers(("tpm", "software"))),
    (("approve-tiers", TENANT, "none"), "approval", schemas.SetApprovalTiers(())),
    (
        ("lease", TENANT, "software", "1,2,3,4"),
        "lease",
        schemas.SetLeaseTerms("software", schemas.LeaseTerms(1, 2, 3, 4)),
    ),
    (("lease", TENANT, "tpm", "default"), "lease", schemas.SetLeaseTerms("tpm", None)),
    (("pcr-policy", TENANT, "require"), "pcr-policy", schemas.SetPcrPolicy("require", "")),
    (("pcr-policy", TENANT, "ignore", "--profile", "press"), "pcr-policy", schemas.SetPcrPolicy("ignore", "press")),
]


@pytest.mark.parametrize(("command", "setting", "body"), SETTINGS)
def test_a_policy_is_set_by_one_request_and_then_shown(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], setting: str, body: object
) -> None:
    terms = {"refresh_after_seconds": 1, "expires_seconds": 2, "grace_seconds": 3, "terminate_seconds": 4}
    shown = TRUST | {"approval_tiers": ["software"], "lease_terms": {"software": terms}}
    path = f"/v1/tenants/{TENANT}/trust/{setting}"
    calls.answer("PUT", path, shown)
    assert main(["tenant", *command]) == 0
    out = capsys.readouterr().out
    assert out == (
        "tiers: attested, tpm\napproval: software\nlease of software: 1,2,3,4\n"
        "PCR quotes: every other profile: report\n"
    )
    assert main(["tenant", *command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["approval_tiers"] == ["software"]
    assert calls.made == [("PUT", path, body)] * 2


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("tiers", TENANT, "attested,gold"), "tiers_invalid"),
        (("approve-tiers", TENANT, "gold"), "tiers_invalid"),
        (("lease", TENANT, "software", "1,2"), "lease_invalid"),
        (("lease", TENANT, "software,tpm", "1,2,3,4"), "tiers_invalid"),
        (("lease", TENANT, "", "1,2,3,4"), "tiers_invalid"),
    ],
)
def test_a_tier_or_dates_that_cannot_be_read(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], code: str
) -> None:
    assert main(["tenant", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == code
    assert calls.made == []
