"""`cascade trust publish`: the request to Fabric, and trust that is too large for one request."""

import pytest

from cloud.cli.main import main
from cloud.cli.trust import publish
from tests.cloud.cli.trust.support import Installation, shown

pytestmark = pytest.mark.slow


def test_everything_in_the_folder_is_sent(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--export", installation.path("now")]) == 0
    assert installation.sign("--key", installation.path("targets.pem")) == 0
    capsys.readouterr()
    assert main(["trust", "publish", installation.path("next"), "--json"]) == 0
    assert shown(capsys)["targets_version"] == 2
    ((method, path, body),) = installation.calls
    assert (method, path) == ("POST", "/v1/trust/targets")
    assert (len(body.roots), body.override, body.reason) == (1, False, "")


def test_a_folder_that_is_too_large(
    installation: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["trust", "show", "--export", installation.path("now")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(publish, "REQUEST_BODY_BYTES_MAX", 100)
    assert main(["trust", "publish", installation.path("now"), "--json"]) == 2
    assert shown(capsys)["error"]["code"] == "trust_too_large"
    assert installation.calls == []
