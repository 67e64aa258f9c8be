"""`cloud.cli.hardware.imports`: bundles of makers and lists of keys in parts that fit a request, reports, and removals."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.cli.main import main
from cloud.fabric import schemas
from protocol.encoding import sha256_hex
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.hardware.test_maker_bundles import AMD, ENDED_BADLY, INFINEON, ISSUING, pem
from tests.cloud.cli.support import AT, TENANT, error_of

PATH = f"/v1/tenants/{TENANT}/trust"
TRUST: dict[str, Any] = {"tenant": TENANT, "tiers": ["attested"], "ek_roots": [], "ek_allowed": []}
HASHES = [f"{number:064x}" for number in range(1, 601)]


def root_of(der: bytes, ek_type: str = "rsa2048", **more: Any) -> dict[str, Any]:
    return {"sha256": sha256_hex(der), "subject": "CN=it", "ek_type": ek_type, "not_after": AT, "added_at": AT, **more}


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    file = tmp_path / "makers.pem"
    file.write_text(pem(INFINEON, ISSUING, AMD, ENDED_BADLY, INFINEON))
    return str(file)


def test_the_certificates_of_a_chosen_maker_are_imported(
    calls: Calls, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer("GET", PATH, {**TRUST, "ek_roots": [root_of(INFINEON.der)]})
    calls.answer("POST", PATH + "/ek-roots", {**TRUST, "upload": {"added": 1, "known": 0, "refused": []}})
    assert main(["hardware", "import-bundle", TENANT, bundle, "--maker", "IFX", "--json"]) == 77
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert [(each["role"], each["result"]) for each in report["taken"]] == [
        ("root", "known"),
        ("intermediate", "added"),
    ]
    assert [(each["maker"], each["line"], each["reason"]) for each in report["not_taken"]] == [
        ("infineon", pem(INFINEON, ISSUING, AMD).count("\n") + 3, "it is not a CA certificate")
    ]
    assert (report["files"], report["blocks"], report["repeated"], report["dry_run"]) == (1, 5, 1, False)
    assert "cannot use the certificate in" in shown.err
    (sent,) = [body for method, _, body in calls.made if method == "POST"]
    assert sent == schemas.AddEkRoots(pem=ISSUING.pem.decode(), ek_type="rsa2048")


def test_a_dry_run_shows_the_makers_and_sends_nothing(
    calls: Calls, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer("GET", PATH, TRUST)
    assert main(["hardware", "import-bundle", TENANT, bundle, "--dry-run", "--maker", "amd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith(("MAKER", "amd", "infineon"))] == [
        ["MAKER", "ROOTS", "INTERMEDIATES", "UNUSABLE", "CHOSEN"],
        ["amd", "1", "0", "0", "yes"],
        ["infineon", "1", "1", "1", "no"],
    ]
    assert "1 would be added, 0 known already. Nothing was changed: 1 roots, 0 intermediates; 0 cannot be used" in lines
    assert {method for method, _, _ in calls.made} == {"GET"}


def test_what_fabric_refuses_is_in_the_report(calls: Calls, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = [{"number": 1, "line": 1, "reason": "the root is trusted already, for EKs of the type ecc_p256"}]
    calls.answer("GET", PATH, {**TRUST, "ek_roots": [root_of(AMD.der, "ecc_p256")]})
    calls.answer("POST", PATH + "/ek-roots", {**TRUST, "upload": {"added": 0, "known": 0, "refused": refused}})
    assert main(["hardware", "import-bundle", TENANT, bundle, "--maker", "amd", "--json"]) == 77
    report = json.loads(capsys.readouterr().out)
    assert report["taken"] == []
    assert report["not_taken"][0]["reason"] == refused[0]["reason"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["import-bundle", TENANT, "B", "--maker", "nobody"], "maker_unknown"),
        (["import-bundle", TENANT, "B", "--maker", "samsung"], "maker_not_in_bundle"),
        (["allow-eks", TENANT, "B"], "file_unreadable"),
        (["allow-eks", TENANT, "/nonexistent"], "file_unreadable"),
        (["allow-eks", TENANT, "B", "--column", "x"], "file_unreadable"),
        (["remove-root", TENANT, "../x"], "arguments_invalid"),
    ],
)
def test_what_cannot_be_done_is_not_sent(
    calls: Calls, bundle: str, capsys: pytest.CaptureFixture[str], options: list[str], code: str
) -> None:
    asked = [bundle if option == "B" else option for option in options]
    assert main(["hardware", *asked, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == code
    assert calls.made == []


def test_a_list_of_keys_is_sent_in_parts(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("serial;EK SHA-256\n" + "".join(f"{at};{each}\n" for at, each in enumerate(HASHES)) + "x;nothing\n")
    answers = [{"added": 512, "known": 0, "total": 512}, {"added": 80, "known": 8, "total": 600}]
    calls.answer("POST", PATH + "/ek-allowed/import", *answers)
    options = ["hardware", "allow-eks", TENANT, str(file), "--ek-hash", "spki", "--note", "hall 3"]
    assert main(options) == 77
    shown = capsys.readouterr()
    assert "592 EKs added, 8 known already, 0 repeated in the file, 1 bad lines; the tenant allows 600" in shown.out
    assert f"cannot use line 602 of {file}: it is no number in hex" in shown.err
    sent = [body for method, _, body in calls.made if method == "POST"]
    assert [(len(body.eks), body.note) for body in sent] == [(512, "hall 3"), (88, "hall 3")]
    assert sent[0].eks[0] == f"spki:{HASHES[0]}"
    assert max(len(msgspec.json.encode(body)) for body in sent) < 60 * 1024


def test_many_bad_lines_are_counted(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text(HASHES[0] + "\n" + "bad\n" * 130)
    calls.answer("POST", PATH + "/ek-allowed/import", {"added": 1, "known": 0, "total": 1})
    assert main(["hardware", "allow-eks", TENANT, str(tmp_path / "keys"), "--json"]) == 77
    shown = capsys.readouterr()
    listed = json.loads(shown.out)
    assert (listed["bad_lines"], len(listed["bad"])) == (130, 100)
    assert "and 30 more lines" in shown.err


def test_the_progress_of_a_long_import_is_shown_to_people(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").write_text("\n".join(HASHES))
    calls.answer("POST", PATH + "/ek-allowed/import", {"added": 1, "known": 0, "total": 1})
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    command = ["hardware", "allow-eks", TENANT, str(tmp_path / "keys")]
    assert main(command) == 0
    assert capsys.readouterr().err == "\rEKs: 512 of 600\rEKs: 600 of 600\n"
    assert main([*command, "--json"]) == 0
    assert capsys.readouterr().err == ""
