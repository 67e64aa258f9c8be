"""`cascade pki ceremony`: its report, and its message when a ceremony is refused."""

import json
from pathlib import Path

import pytest

from cloud.cli.main import main
from cloud.crypto.keyfile import write_secret

ROOT = """\
type = "root"
authority = "root-1"
trust_domain = "cascade.test"
passphrase_file = "passphrase"
key = "root-1.key.pem"
certificate = "root-1.pem"
"""


def test_the_command_tells_what_it_signs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_secret(tmp_path / "passphrase", b"a passphrase for tests only")
    file = tmp_path / "root.toml"
    file.write_text(ROOT)
    assert main(["pki", "ceremony", str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    for part in (
        "dry run: nothing is written",
        "would sign",
        "cascade.test root CA 1",
        "would write",
        "root-1.key.pem",
    ):
        assert part in said
    assert main(["pki", "ceremony", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / document["record"]).read_bytes())
    assert (document["type"], document["dry_run"]) == ("root", False)
    assert main(["pki", "ceremony", str(file)]) == 65
    refused = capsys.readouterr().err
    assert "a ceremony replaces no file" in refused
    assert "Nothing was written" in refused
    assert main(["pki", "ceremony", str(tmp_path / "gone.toml"), "--json"]) == 65
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "ceremony_refused"
