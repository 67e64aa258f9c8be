"""`cascade reconcile`: the changes on each side, and the exit code when Breakwater refused a command."""

import json

import pytest

from cloud.cli.errors import EXIT_REFUSED
from cloud.cli.main import main
from cloud.fabric.bodies.restored import Reconcile
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import NODE, TENANT

TAKEN = {"node": NODE, "tenant": TENANT, "generation": 1, "change": "revoked"}
SENT = {"node": NODE, "tenant": TENANT, "generation": 2, "order": "open"}
FOUND = {"dry_run": True, "nodes": 3, "taken_count": 1, "sent_count": 1, "taken": [TAKEN], "sent": [SENT]}


def test_each_side_is_shown(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("POST", "/v1/reconcile", FOUND)
    assert main(["reconcile", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "3 nodes compared" in shown
    assert "changes at Fabric (dry run): 1" in shown
    assert "open" in shown
    assert calls.made == [("POST", "/v1/reconcile", Reconcile(dry_run=True))]


def test_a_refused_command_is_no_success(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("POST", "/v1/reconcile", FOUND | {"dry_run": False, "refused": [SENT]})
    assert main(["reconcile", "--json"]) == EXIT_REFUSED
    assert json.loads(capsys.readouterr().out)["refused"] == [SENT]
    assert main(["reconcile"]) == EXIT_REFUSED
    assert "Breakwater refused: 1" in capsys.readouterr().out
