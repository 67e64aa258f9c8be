"""`cascadia request` and `cascadia license import` without an agent: exit codes, files and documents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.cli.main import main
from protocol.encoding import json_encode
from protocol.messages.activation import ActivationFile
from tests.node.airgap.conftest import URL, Site, activation_file
from tests.node.conftest import Machine
from tests.simulators.carried_answers import Answerer
from tests.simulators.fabric import NODE, Fabric

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(tmp_path: Path, site: Site, machine: Machine, capsys: pytest.CaptureFixture[str]) -> Run:
    settings = tmp_path / "cascadia.toml"
    lines = (f'state_dir = "{site.directory}"', f'socket = "{tmp_path}/s"', f'tpm = "{machine.chip.tcti}"')
    settings.write_text("\n".join((*lines, 'mode = "development"')))

    def command(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        try:
            code = main([arguments[0], "--config", str(settings), *arguments[1:], "--json"])
        except SystemExit as ended:
            code = int(str(ended.code))
        return code, json.loads(capsys.readouterr().out)

    return command


def test_a_refresh_and_its_misuse(run: Run, operators: Answerer, quiet: Fabric, tmp_path: Path) -> None:
    request, answer = tmp_path / "request", tmp_path / "answer"
    code, document = run("request", "--out", str(request))
    assert (code, document["kind"]) == (0, "refresh")
    quiet.say(quiet.suspension())
    answer.write_bytes(operators.answer(request.read_bytes()))
    code, licence = run("license", "import", str(answer))
    assert (code, licence["state"]) == (82, "suspended")
    code, refused = run("license", "import", str(answer))
    assert (code, refused["error"]["code"]) == (65, "airgap_answer_used")
    code, refused = run("license", "import")
    assert (code, refused["error"]["code"]) == (2, "file_unusable")


def test_activation_and_recovery(run: Run, operators: Answerer, tmp_path: Path) -> None:
    file, request = tmp_path / "activation.json", tmp_path / "request"
    made: ActivationFile = activation_file(operators)[0]
    file.write_bytes(json_encode(made))
    code, document = run("request", "--file", str(file), "--text", "--out", str(request))
    assert (code, document["kind"]) == (0, "activate")
    assert request.read_text().startswith("CASCADE-REQUEST")
    code, refused = run("request", "--recover", "--node", NODE)
    assert (code, refused["error"]["code"]) == (2, "recovery_not_needed")
    code, refused = run("request")
    assert (code, refused["error"]["code"]) == (2, "airgap_request_outstanding")
    code, refused = run("request", "--recover", "--file", str(file), "--state-dir", str(tmp_path / "lost"))
    assert (code, refused["error"]["code"]) == (2, "node_needed")
    assert URL in file.read_text()
