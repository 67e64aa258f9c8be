"""`cascadia deactivate`: one document for every outcome, with and without an agent, and nothing without a yes."""

import io
import sys
from typing import Any

import pytest

from node.cli.deactivate import human
from node.state import State
from tests.node.cli.test_main import MISSING_TPM, Cli, cli, cloud, failure, installed
from tests.node.conftest import Machine
from tests.node.shells import apply, load_licence
from tests.simulators.fabric import NODE, Fabric, always

__all__ = ["cli", "cloud", "installed"]

pytestmark = pytest.mark.slow


def left(cli: Cli) -> set[str]:
    return {path.name for path in cli.state.iterdir()}


def test_a_machine_without_an_agent_is_deactivated_once(cli: Cli, installed: State, cloud: Fabric) -> None:
    code, document = cli.json("deactivate", "--yes")
    assert (code, document["seat"], document["node"], document["left"], document["next"]) == (0, "free", NODE, [], "")
    assert left(cli) == {"deactivated.json", "lock"}, "without a version an older package and agent can follow"
    assert cli.json("deactivate", "--yes") == (0, document), "a repeat says the same"
    assert left(cli) == {"deactivated.json", "lock"}
    code, error = failure(cli, "status")
    assert (code, error) == (80, "unactivated")
    assert "was deactivated at" in cli("run")[2]
    assert NODE in cli("deactivate", "--yes")[1]


def test_an_interrupted_deactivation_is_no_identity_and_is_finished(
    cli: Cli, installed: State, cloud: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("node.disk.deactivated.remove_directory", cut)
        assert cli("deactivate", "--yes")[0] == 130
    assert "identity" in left(cli)
    assert failure(cli, "run") == (80, "unactivated")
    assert left(cli) == {"deactivated.json", "version", "lock"}, "the next owner of the state has removed it"
    assert cli.json("deactivate", "--yes")[1]["left"] == []


def test_without_the_cloud_the_state_stays_unless_it_is_forgotten(cli: Cli, installed: State, cloud: Fabric) -> None:
    cloud.answers["/v1/node/nonces"] = always(503)
    assert failure(cli, "deactivate", "--yes") == (69, "cloud_unreachable")
    assert cli.json("status")[1]["license"]["state"] == "active"
    code, document = cli.json("deactivate", "--yes", "--forget")
    assert (code, document["seat"]) == (0, "taken")
    assert f"cascade node release {NODE}" in document["next"]
    assert left(cli) == {"deactivated.json", "lock"}


def test_a_damaged_state_can_be_forgotten_only(cli: Cli, installed: State, cloud: Fabric) -> None:
    for name in ("current.json", "identity/g-1/identity.json"):
        (cli.state / name).write_text("{}")
    assert failure(cli, "deactivate", "--yes") == (70, "state_damaged")
    code, document = cli.json("deactivate", "--yes", "--forget")
    assert (code, document["seat"], document["node"]) == (0, "taken", "")
    assert "cascade node list" in document["next"]
    assert "identity" not in left(cli)


def test_a_tpm_that_is_away_keeps_its_counter_until_a_repeat(
    cli: Cli, installed: State, cloud: Fabric, machine: Machine
) -> None:
    apply(load_licence(installed), cloud, cloud.revocation(1, "revoked"))
    cli.write(MISSING_TPM)
    code, document = cli.json("deactivate", "--yes")
    assert (code, document["seat"], len(document["left"])) == (87, "revoked", 1)
    assert "deactivate` again" in document["next"]
    cli.write(machine.chip.tcti)
    assert cli.json("deactivate", "--yes")[1]["left"] == []


def test_a_waiting_activation_is_removed(cli: Cli, cloud: Fabric) -> None:
    cli.state.mkdir(mode=0o700)
    assert failure(cli, "deactivate", "--yes") == (80, "unactivated")
    (cli.state / "activation.json").write_text("{}")
    assert cli.json("deactivate", "--yes")[1]["seat"] == "none"
    assert "activation.json" not in left(cli)


def test_a_machine_that_was_never_activated(cli: Cli) -> None:
    assert failure(cli, "deactivate", "--yes") == (80, "unactivated")
    assert not cli.state.exists()


def test_nothing_happens_without_a_yes(cli: Cli, installed: State, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(cli, "deactivate") == (2, "not_confirmed")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for typed, code in (("no\n", 2), ("", 2), ("yes\n", 0)):
        assert ("identity" in left(cli)) is True
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        assert cli("deactivate")[0] == code
    assert "identity" not in left(cli)


def test_the_text_names_the_seat_and_what_is_left() -> None:
    document: dict[str, Any] = {
        "deactivated_at": "2030-01-01T00:00:00Z",
        "node": "",
        "seat": "taken",
        "left": [{"index": "", "reason": "the TPM is away"}],
        "next": "do it",
    }
    text = human(document)
    assert "seat:         STILL TAKEN" in text
    assert "NV index not known: the TPM is away" in text
    assert "node:         not known" in text
