"""The unit files of the agent: exit codes, limits and names are those of the code; every directive has its reason.

`make drills PART=units` runs them under the systemd of Debian 12 and 13.
"""

from pathlib import Path

import pytest

from node.config import BOUNDS, CREDENTIALS, Config
from node.exits import RUN_EXITS, Exit
from node.gating import gate
from node.hwbind import dmi
from node.hwbind.tpm import COMMAND_SECONDS_MAX, CREATION_SECONDS_MAX, DEVICE_TCTI
from node.local.place import BACKLOG, GATES, GATES_NAME, PUBLIC, Kind
from tests.system.support.sandbox_probe import copy_of_unit

HOME = Path(__file__).parent.parent.parent / "packaging/cascadia"
SERVICE, SOCKET, GATES_SOCKET = "cascadia.service", "cascadia.socket", "cascadia-gates.socket"
PATH = "cascadia-activated.path"
UNITS = (SERVICE, SOCKET, GATES_SOCKET, PATH)
Directives = dict[str, list[str]]

EVIDENT = {"Description", "ExecStart", "ListenStream", "WantedBy", "Also"}
"""Directives that need no reason."""
MORE_THAN_ONCE = {"LoadCredential", "SetCredential", "SystemCallFilter"}


def _parsed(name: str) -> dict[str, Directives]:
    section: Directives = {}
    sections: dict[str, Directives] = {}
    for line in (HOME / "systemd" / name).read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


@pytest.fixture(scope="module")
def service() -> Directives:
    return _parsed(SERVICE)["Service"]


def test_the_exits_that_are_not_restarted_are_those_that_a_start_would_repeat(service: Directives) -> None:
    codes = {int(code) for code in service["RestartPreventExitStatus"][0].split()}
    assert codes == {Exit.USAGE, Exit.UNACTIVATED, Exit.REVOKED}
    assert codes <= RUN_EXITS
    assert service["Restart"] == ["always"]


@pytest.mark.parametrize("name", UNITS)
def test_every_directive_has_its_reason_in_a_comment_above_it_or_its_group(name: str) -> None:
    explained = False
    for line in (HOME / "systemd" / name).read_text().splitlines():
        if not line or line.startswith("["):
            explained = False
        elif line.startswith("# "):
            explained = True
        else:
            assert explained or line.partition("=")[0] in EVIDENT, f"{name}: {line} has no reason"


@pytest.mark.parametrize("name", UNITS)
def test_a_directive_is_given_once_and_lines_are_short(name: str) -> None:
    text = (HOME / "systemd" / name).read_text()
    assert all(len(line) <= 120 for line in text.splitlines())
    for directives in _parsed(name).values():
        assert {key for key, values in directives.items() if len(values) > 1} <= MORE_THAN_ONCE


def test_service_and_socket_need_the_same_state() -> None:
    units = {name: _parsed(name)["Unit"] for name in (SERVICE, SOCKET, GATES_SOCKET)}
    for socket in (SOCKET, GATES_SOCKET):
        for key in ("ConditionDirectoryNotEmpty", "ConditionPathExists", "RequiresMountsFor"):
            assert units[SERVICE][key] == units[socket][key]
        assert units[socket]["StopPropagatedFrom"] == [SERVICE]
        assert socket in units[SERVICE]["Wants"][0].split()


def test_paths_are_those_of_the_settings(service: Directives) -> None:
    config = Config()
    assert _parsed(SOCKET)["Socket"]["ListenStream"] == [str(config.socket)]
    gates = _parsed(GATES_SOCKET)["Socket"]
    assert gates["ListenStream"] == [str(config.socket.with_name(GATES_NAME))] == [gate.SOCKET]
    assert gates["Service"] == [SERVICE]
    assert _parsed(PATH)["Path"] == {"PathChanged": [f"{config.state_dir}/current.json"], "Unit": [SERVICE]}
    assert [f"/var/lib/{each}" for each in service["StateDirectory"]] == [str(config.state_dir)]
    assert [f"/run/{each}" for each in service["RuntimeDirectory"]] == [str(config.socket.parent)]
    assert service["DeviceAllow"] == [f"{DEVICE_TCTI.removeprefix('device:')} rw"]


@pytest.mark.parametrize(("name", "kind"), [(SOCKET, PUBLIC), (GATES_SOCKET, GATES)])
def test_a_socket_is_as_the_agent_makes_it(name: str, kind: Kind) -> None:
    socket = _parsed(name)["Socket"]
    assert socket["SocketMode"] == [f"{kind.mode:04o}"]
    assert socket["Backlog"] == [str(BACKLOG)]


def test_the_socket_of_the_gates_is_that_of_their_user(service: Directives) -> None:
    socket = _parsed(GATES_SOCKET)["Socket"]
    assert socket["SocketUser"] == _parsed("cascadia-gate@.service")["Service"]["User"] == service["User"]


def test_the_credentials_are_those_that_the_agent_reads(service: Directives) -> None:
    names = {f"dmi-{kind.replace('_', '-')}": f"/sys/class/dmi/id/{kind}" for kind in dmi.KINDS}
    assert dict(line.split(":") for line in service["LoadCredential"]) == names
    assert service["SetCredential"] == [f"{name}:\\n" for name in names]
    page = (HOME.parent.parent / "docs/agent.md").read_text()
    for name in CREDENTIALS:
        assert f"LoadCredential={name.replace('_', '-')}:" in page


def test_a_start_may_take_what_a_slow_tpm_and_a_silent_cloud_take(service: Directives) -> None:
    least = CREATION_SECONDS_MAX + 5 * COMMAND_SECONDS_MAX + BOUNDS["settle_seconds"][1]
    assert int(service["TimeoutStartSec"][0]) > least


def test_the_agent_has_no_privilege_but_the_group_of_the_tpm(service: Directives) -> None:
    assert service["User"] == service["Group"] == ["cascadia"]
    assert service["SupplementaryGroups"] == ["tss"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == [""]
    assert service["DevicePolicy"] == ["closed"]
    assert "PrivateUsers" not in service
    assert not any(value.startswith(("+", "!")) for key, values in service.items() if "Exec" in key for value in values)


def test_the_preset_enables_what_can_be_enabled() -> None:
    lines = (HOME / "90-cascadia.preset").read_text().splitlines()
    enabled = {line.removeprefix("enable ") for line in lines if line and not line.startswith("#")}
    assert enabled == {name for name in UNITS if "Install" in _parsed(name)}


def test_every_file_is_in_the_package() -> None:
    definition = (HOME / "nfpm.yaml").read_text()
    for name in UNITS:
        assert f"dst: /usr/lib/systemd/system/{name}\n" in definition
    for target in ("sysusers.d/cascadia.conf", "tmpfiles.d/cascadia.conf", "system-preset/90-cascadia.preset"):
        assert f"{target}\n" in definition


def test_the_drill_probes_the_sandbox_of_the_unit(service: Directives) -> None:
    """The copy of the unit whose program is the probe has every directive that restricts the agent."""
    copied = copy_of_unit((HOME / "systemd" / SERVICE).read_text(), "/usr/bin/probe", 80).splitlines()
    left_out = {"Type", "NotifyAccess", "ExecStart", "TimeoutStartSec", "WatchdogSec", "Restart", "RestartSec",
                "RestartPreventExitStatus", "LoadCredential"}  # fmt: skip
    for key, values in service.items():
        if key not in left_out:
            assert {f"{key}={value}" for value in values} <= set(copied)
    assert "ExecStart=/usr/bin/probe" in copied
    assert not any(line.startswith(("Condition", "Restart", "WatchdogSec")) for line in copied)
