"""Units and settings of the package cascade-cloud: what each of them must say to systemd. Drills run them."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cloud.cli.main import parser
from cloud.cli.owner import INSTALLATION

PACKAGE = Path(__file__).parent.parent.parent / "packaging/cascade-cloud"
UNITS = PACKAGE / "systemd"
SERVICES = ("cascade", "cascade-breakwater", "cascade-fabric")
TIMED = ("cascade-backup", "cascade-pki-check")
Directives = dict[str, list[str]]


def directives(name: str) -> Directives:
    """The values of each directive of a unit, in order."""
    found: Directives = {}
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def sandbox(unit: Directives) -> Directives:
    """The directives that bound what a process may do."""
    names = re.compile(
        "Protect|Private|Restrict|SystemCall|Capability|Ambient|NoNew|Lock|Memory|Device|UMask|User|Group"
    )
    return {key: values for key, values in unit.items() if names.match(key) and key != "RestartPreventExitStatus"}


@pytest.mark.parametrize("name", [*SERVICES, *TIMED])
def test_every_unit_has_one_sandbox_and_waits_for_an_installation(name: str) -> None:
    unit = directives(f"{name}.service")
    assert sandbox(unit) == sandbox(directives("cascade.service"))
    assert unit["User"] == ["cascade"]
    assert unit["CapabilityBoundingSet"] == [""]
    (condition,) = unit["ConditionPathExists"]
    assert condition in [f"{INSTALLATION}/{service}/settings.toml" for service in ("fabric", "breakwater")]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_reports_and_is_not_started_again_with_wrong_settings(name: str) -> None:
    unit = directives(f"{name}.service")
    assert (unit["Type"], unit["Restart"], unit["RestartPreventExitStatus"]) == (["notify"], ["on-failure"], ["2"])
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert int(unit["RestartSec"][0]) >= 10
    assert "WatchdogSec" in unit


def test_both_forms_exclude_each_other() -> None:
    assert directives("cascade.service")["Conflicts"] == ["cascade-breakwater.service cascade-fabric.service"]
    for name in ("cascade-breakwater", "cascade-fabric"):
        assert directives(f"{name}.service")["Conflicts"] == ["cascade.service"]
    # Without an order the one would start while the other still stops (systemd.unit(5), Conflicts=).
    assert set(directives("cascade.service")["Conflicts"][0].split()) <= set(
        directives("cascade.service")["After"][0].split()
    )
    assert "cascade-breakwater.service" in directives("cascade-fabric.service")["After"][0]


@pytest.mark.parametrize("name", [*SERVICES, *TIMED])
def test_the_command_of_a_unit_exists_and_uses_the_default_directory(name: str) -> None:
    settings = dict(
        line.split("=", 1) for line in (PACKAGE / "backup.conf").read_text().splitlines() if line.startswith("CASCADE_")
    )
    (command,) = directives(f"{name}.service")["ExecStart"]
    for variable, value in settings.items():
        command = command.replace(f"${{{variable}}}", value)
    program, *arguments = shlex.split(command)
    assert program == "/usr/bin/cascade"
    assert parser().parse_args(arguments).dir == INSTALLATION


def test_the_preset_starts_no_service_and_every_unit_is_named() -> None:
    lines = (PACKAGE / "90-cascade-cloud.preset").read_text().splitlines()
    preset = {line.split()[1]: line.split()[0] for line in lines if not line.startswith("#")}
    assert preset == {
        **{f"{name}.service": "disable" for name in SERVICES},
        **{f"{name}.timer": "enable" for name in TIMED},
    }
    assert sorted(each.name for each in UNITS.iterdir()) == sorted(
        [*(f"{name}.service" for name in (*SERVICES, *TIMED)), *(f"{name}.timer" for name in TIMED)]
    )


def test_every_file_of_the_package_is_named_in_its_definition() -> None:
    definition = (PACKAGE / "nfpm.yaml").read_text()
    files = [each for each in PACKAGE.rglob("*") if each.is_file() and each.name != "nfpm.yaml"]
    assert len(files) > 15
    for file in files:
        assert f"${{PACKAGING}}/{file.relative_to(PACKAGE)}" in definition


@pytest.mark.parametrize(
    "script", sorted((PACKAGE / "scripts").rglob("*/*")), ids=lambda each: f"{each.parent.name}/{each.name}"
)
def test_a_script_is_posix_shell_and_never_removes_an_installation(script: Path) -> None:
    subprocess.run(["/bin/sh", "-n", str(script)], check=True)
    text = "\n".join(line for line in script.read_text().splitlines() if not line.lstrip().startswith(("#", "echo")))
    assert not re.search(r"\brm\s+-[a-z]*r", text)
