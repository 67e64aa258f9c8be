"""Commands on the host: a missing directory or settings file is named, with its exit code."""

import json
from pathlib import Path

import pytest

from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE
from cloud.cli.main import main
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_a_missing_directory_or_settings_file_is_named(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pki", "status", "--dir", str(tmp_path / "nowhere"), "--json"]) == EXIT_USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "settings_refused"
    (host.directory / "secrets" / "passphrase").write_text("another passphrase, as long")
    assert [row["has_key"] for row in host.pki("status")["authorities"]] == [False] * 3
    host.refused(EXIT_INTERNAL, "issuer_unusable", "renew", "fabric")
