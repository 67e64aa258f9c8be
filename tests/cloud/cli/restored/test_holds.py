"""`cascade node list --conflicting`, `accept` and `confirm`: nodes that get no new lease after a restore or a rebuild."""

from pathlib import Path

import pytest

from cloud.cli.errors import EXIT_USAGE
from cloud.cli.main import main
from cloud.fabric.bodies.restored import AcceptNode
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import NODE, TENANT, error_of
from tests.cloud.cli.test_nodes import SHOWN

OTHER = "node_01jd8xk3v5e2r9qz7w4m6n8p0b"
HELD = SHOWN | {"hold": "conflicting"}


@pytest.mark.parametrize("state", ["conflicting", "unconfirmed", "unpresented"])
def test_nodes_that_wait_are_listed(calls: Calls, capsys: pytest.CaptureFixture[str], state: str) -> None:
    calls.answer("GET", "/v1/holds", {"items": [HELD], "next_cursor": ""})
    assert main(["node", "list", f"--{state}", "--tenant", TENANT]) == 0
    assert "conflicting" in capsys.readouterr().out
    assert f"state={state}&tenant={TENANT}" in calls.made[0][1]


@pytest.mark.parametrize(
    ("command", "state"),
    [
        (["accept"], "conflicting"),
        (["accept", "--unpresented"], "unpresented"),
        (["confirm", "--reason", "seen"], "unconfirmed"),
    ],
)
def test_nodes_are_named_listed_or_all_of_a_tenant(
    calls: Calls, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str], state: str
) -> None:
    calls.answer("GET", "/v1/holds", {"items": [SHOWN | {"id": OTHER}], "next_cursor": ""})
    for node in (NODE, OTHER):
        calls.answer("POST", f"/v1/nodes/{node}/accept", SHOWN | {"id": node})
    listed = tmp_path / "nodes"
    listed.write_text(f"# of the first site\n\n{NODE}\n")
    assert main(["node", *command, NODE, "--list", str(listed), "--all-of", TENANT]) == 0
    posted = [(path, body) for method, path, body in calls.made if method == "POST"]
    body = AcceptNode(state, "seen" if "--reason" in command else "")  # type: ignore[arg-type]  # names of states
    assert posted == [(f"/v1/nodes/{node}/accept", body) for node in (NODE, OTHER)]
    assert OTHER in capsys.readouterr().out


def test_no_node_is_named(calls: Calls, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["node", "confirm", "--json"]) == EXIT_USAGE
    assert error_of(capsys.readouterr().out)["code"] == "nodes_missing"
    assert main(["node", "accept", "--json", "--list", str(tmp_path / "none")]) == EXIT_USAGE
    assert error_of(capsys.readouterr().out)["code"] == "list_unusable"
    (tmp_path / "list").write_text("../tokens\n")
    assert main(["node", "accept", "--json", "--list", str(tmp_path / "list")]) == EXIT_USAGE
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []
