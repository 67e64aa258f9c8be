"""`cascade tenant`: its calls, its output, and invalid ids."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloud.cli.main import main
from cloud.cli.tenant_trust.pem_parts import FILE_BYTES_MAX, PART_BLOCKS_MAX
from cloud.fabric import schemas
from cloud.fabric.bodies.clones import SetClonePolicy
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, TENANT, error_of

TENANT_SHOWN: dict[str, Any] = {"id": TENANT, "name": "acme", "tiers": ["attested"], "created_at": AT}
TRUST = {"tenant": TENANT, "tiers": ["attested", "tpm"], "ek_roots": [], "ek_allowed": []}
ROOT = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


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


def test_trust_is_extended_and_then_shown(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"/v1/tenants/{TENANT}/trust"
    for method, suffix in (("POST", "/ek-roots"), ("POST", "/ek-allowed"), ("PUT", "/tiers"), ("GET", "")):
        calls.answer(method, path + suffix, TRUST)
    (tmp_path / "root.pem").write_text("A root:\n" + ROOT)
    options = (
        "--ek-root",
        str(tmp_path / "root.pem"),
        "--allow-ek",
        "000b",
        "--note",
        "why",
        "--tiers",
        "attested, tpm",
    )
    assert main(["tenant", "trust", TENANT, *options]) == 0
    assert "tiers: attested, tpm" in capsys.readouterr().out
    assert [call[2] for call in calls.made] == [
        schemas.AddEkRoots(pem=ROOT, ek_type="rsa2048"),
        schemas.AllowEk(ek_name="000b", note="why"),
        schemas.SetTiers(("attested", "tpm")),
        None,
    ]


def test_a_large_file_is_sent_in_parts_and_what_is_refused_is_named(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"/v1/tenants/{TENANT}/trust"
    refused = [{"number": 2, "line": 4, "reason": "it cannot be read"}, {"number": 99, "line": 1, "reason": "none"}]
    calls.answer("POST", path + "/ek-roots", {**TRUST, "upload": {"added": 1, "known": 2, "refused": refused}})
    calls.answer("GET", path, TRUST)
    file = tmp_path / "many.pem"
    file.write_text(("a maker \u00ae\n" + ROOT) * (PART_BLOCKS_MAX + 2))
    options = ["tenant", "trust", TENANT, "--ek-root", str(file), "--ek-type", "ecc_p384"]
    assert main([*options, "--json"]) == 77
    shown = capsys.readouterr()
    upload = json.loads(shown.out)["upload"]
    assert (upload["added"], upload["known"]) == (2, 4)
    assert [(each["number"], each["line"]) for each in upload["refused"]] == [(2, 6), (66, 262)]
    assert f"cannot use certificate 66 of {file} (line 262): it cannot be read" in shown.err
    sent = [body.pem for _, _, body in calls.made[:-1]]
    assert [each.count("BEGIN") for each in sent] == [PART_BLOCKS_MAX, 2]
    assert {body.ek_type for _, _, body in calls.made[:-1]} == {"ecc_p384"}
    assert main(options) == 77
    assert "2 added, 4 known already, 2 refused" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no PEM", b" " * (FILE_BYTES_MAX + 1)])
def test_a_file_without_certificates_is_not_sent(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    assert main(["tenant", "trust", TENANT, "--ek-root", str(tmp_path / "file"), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "file_unreadable"
    assert calls.made == []


def test_a_root_that_cannot_be_read(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tenant", "trust", TENANT, "--ek-root", str(tmp_path / "none.pem"), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "file_unreadable"
    assert calls.made == []


@pytest.mark.parametrize("command", [("show", ""), ("show", "../nodes"), ("trust", "ten_x")])
def test_what_is_no_id_is_not_asked_for(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(["tenant", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []


def test_approval_and_dates_of_a_tier(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"/v1/tenants/{TENANT}/trust"
    terms = {"refresh_after_seconds": 1, "expires_seconds": 2, "grace_seconds": 3, "terminate_seconds": 4}
    shown = TRUST | {"approval_tiers": ["software"], "lease_terms": {"software": terms}}
    for method, suffix in (("PUT", "/approval"), ("PUT", "/lease"), ("GET", "")):
        calls.answer(method, path + suffix, shown)
    options = ("--approve-tiers", "tpm,software", "--tier-lease", "software=1,2,3,4", "--tier-lease", "tpm=default")
    assert main(["tenant", "trust", TENANT, *options]) == 0
    out = capsys.readouterr().out
    assert "approval: software\nlease of software: 1,2,3,4\n" in out
    assert [body for _, _, body in calls.made[:-1]] == [
        schemas.SetApprovalTiers(("tpm", "software")),
        schemas.SetLeaseTerms("software", schemas.LeaseTerms(1, 2, 3, 4)),
        schemas.SetLeaseTerms("tpm", None),
    ]
    calls.made.clear()
    assert main(["tenant", "trust", TENANT, "--approve-tiers", "none"]) == 0
    assert calls.made[0][2] == schemas.SetApprovalTiers(())
    assert main(["tenant", "trust", TENANT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["approval_tiers"] == ["software"]


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (("--tiers", "attested,gold"), "tiers_invalid"),
        (("--approve-tiers", "gold"), "tiers_invalid"),
        (("--tier-lease", "software"), "lease_invalid"),
        (("--tier-lease", "software=1,2"), "lease_invalid"),
        (("--tier-lease", "software,tpm=1,2,3,4"), "lease_invalid"),
    ],
)
def test_a_tier_or_dates_that_cannot_be_read(
    calls: Calls, capsys: pytest.CaptureFixture[str], option: tuple[str, str], code: str
) -> None:
    assert main(["tenant", "trust", TENANT, *option, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == code
    assert calls.made == []
