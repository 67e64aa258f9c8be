"""`cascade recovery`: every action and step has its page."""

import pytest

from cloud.cli.main import main


@pytest.mark.parametrize(
    "command",
    [
        *((each,) for each in ("list", "show", "approve", "deny", "policy", "codes")),
        *(("codes", each) for each in ("issue", "list", "revoke")),
    ],
)
def test_every_command_has_a_page(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["recovery", *command, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out
