"""`cascade hardware`: each command is one operation, and prints what the tenant trusts or what was taken."""

import json
from pathlib import Path

import pytest

from cloud.cli.hardware.pem_parts import FILE_BYTES_MAX, PART_BLOCKS_MAX
from cloud.cli.main import main
from cloud.fabric import schemas
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.hardware.test_imports import PATH, TRUST, root_of
from tests.cloud.cli.support import AT, TENANT, error_of

ROOT = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_one_root_and_one_ek(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upload = {"added": 1, "known": 0, "refused": []}
    calls.answer("GET", PATH, TRUST)
    calls.answer("POST", PATH + "/ek-roots", {**TRUST, "upload": upload})
    calls.answer("POST", PATH + "/ek-allowed", TRUST)
    (tmp_path / "root.pem").write_text("A root:\n" + ROOT)
    assert main(["hardware", "add-root", TENANT, str(tmp_path / "root.pem")]) == 0
    assert capsys.readouterr().out == "1 added, 0 known already, 0 refused\n"
    assert main(["hardware", "allow-ek", TENANT, "000b", "--note", "why"]) == 0
    assert main(["hardware", "show", TENANT]) == 0
    assert capsys.readouterr().out.count("tiers: attested") == 2
    assert [call[2] for call in calls.made] == [
        schemas.AddEkRoots(pem=ROOT, ek_type="rsa2048"),
        schemas.AllowEk(ek_name="000b", note="why"),
        None,
    ]


def test_a_large_file_is_sent_in_parts_and_what_is_refused_is_named(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = [{"number": 2, "line": 4, "reason": "it cannot be read"}, {"number": 99, "line": 1, "reason": "none"}]
    roots = [root_of(b"1", maker="amd"), root_of(b"2", "ecc_p384", maker="amd")]
    upload = {"added": 1, "known": 2, "refused": refused}
    calls.answer("POST", PATH + "/ek-roots", {**TRUST, "ek_roots": roots, "upload": upload})
    file = tmp_path / "many.pem"
    file.write_text(("a maker \u00ae\n" + ROOT) * (PART_BLOCKS_MAX + 2))
    command = ["hardware", "add-root", TENANT, str(file), "--ek-type", "ecc_p384"]
    assert main([*command, "--json"]) == 77
    shown = capsys.readouterr()
    added = json.loads(shown.out)
    assert (added["added"], added["known"]) == (2, 4)
    assert [(each["number"], each["line"]) for each in added["refused"]] == [(2, 6), (66, 262)]
    assert f"cannot use certificate 66 of {file} (line 262): it cannot be read" in shown.err
    assert "the roots of amd name several EK types" in shown.err
    sent = [body.pem for _, _, body in calls.made]
    assert [each.count("BEGIN") for each in sent] == [PART_BLOCKS_MAX, 2]
    assert {body.ek_type for _, _, body in calls.made} == {"ecc_p384"}
    assert main(command) == 77
    assert "2 added, 4 known already, 2 refused" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"no PEM", b" " * (FILE_BYTES_MAX + 1)])
def test_a_file_without_certificates_is_not_sent(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert main(["hardware", "add-root", TENANT, str(tmp_path / "file"), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "file_unreadable"
    assert calls.made == []


def test_removals_and_the_list(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    removed, listed = f"{PATH}/ek-roots/{'ab' * 32}/remove", f"{PATH}/ek-allowed"
    shown = {"sha256": "ab" * 32, "subject": "CN=it", "ek_type": "rsa2048", "not_after": AT, "added_at": AT}
    calls.answer("GET", PATH, {**TRUST, "ek_roots": [shown]})
    calls.answer("POST", removed, TRUST)
    calls.answer("POST", f"{listed}/remove", TRUST)
    calls.answer("GET", listed, {"items": [{"ek_name": "spki:x", "note": "n", "added_at": AT}], "next_cursor": ""})
    assert main(["hardware", "remove-root", TENANT, "AB:" * 31 + "AB"]) == 0
    assert main(["hardware", "remove-ek", TENANT, "spki:x"]) == 0
    assert [call for call in calls.made if call[0] == "POST"] == [
        ("POST", removed, None),
        ("POST", f"{listed}/remove", schemas.RemoveEk(ek="spki:x")),
    ]
    assert main(["hardware", "remove-root", TENANT, "cd" * 32]) == 77
    assert "the tenant trusts no CA certificate with this SHA-256" in capsys.readouterr().err
    assert main(["hardware", "list-eks", TENANT]) == 0
    assert "spki:x" in capsys.readouterr().out


def test_what_is_no_id_is_not_asked_for(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "show", "ten_x", "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []
