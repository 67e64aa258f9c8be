"""`cascade pki issue` makes one-time secrets."""

import json
import stat
from pathlib import Path

import pytest

from cloud.cli.errors import EXIT_REFUSED, EXIT_USAGE
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_a_secret_is_made_once_and_kept_private(host: Host) -> None:
    out = host.scratch / "secret"
    answer = host.pki("issue", "headwaters", "--out", str(out), "--host", "pads.internal", "--hours", "2")
    assert (answer["service"], answer["file"]) == ("headwaters", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().startswith("ces_")
    assert out.read_text().strip() not in json.dumps(answer)
    assert host.pki("status")["secrets_open"] == 1
    host.refused(EXIT_USAGE, "file_in_use", "issue", "headwaters", "--out", str(out))
    other = str(host.scratch / "other")
    assert "fabric" in host.refused(EXIT_USAGE, "service_unknown", "issue", "nobody", "--out", other)
    host.refused(EXIT_REFUSED, "refused", "issue", "fabric", "--out", other, "--hours", "9999")
    assert not Path(other).exists()
