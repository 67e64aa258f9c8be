"""The group `cascade trust`: every command has `--accept-expired` and a description."""

import pytest

from cloud.cli.main import main


@pytest.mark.parametrize("command", ["show", "sign", "publish", "adoption", "renew-devices"])
def test_every_command_takes_expired_trust(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["trust", command, "--help"])
    assert "--accept-expired" in capsys.readouterr().out
