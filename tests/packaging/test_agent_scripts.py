"""The maintainer scripts of the agent's packages: their shell, their version of the state, and what a purge says.

`make drills PART=lifecycle` runs them in dpkg on a machine with systemd.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from node.disk.version import STATE_VERSION

PACKAGING = Path(__file__).parents[2] / "packaging" / "cascadia"
SCRIPTS = sorted((PACKAGING / "scripts").glob("*/*"))
FIRST = [(PACKAGING / "scripts/deb/preinst", "upgrade"), (PACKAGING / "scripts/rpm/pre", "2")]
NODE = "node_01k00000000000000000000000"


def run(
    script: Path, state: Path, *arguments: str, systemd: bool = True, read: str = "3"
) -> subprocess.CompletedProcess[str]:
    """Run a script with another state directory and with stand-ins for the programs of the system."""
    programs = state.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("systemctl", "deb-systemd-helper", "deb-systemd-invoke") if systemd else ():
        (programs / name).write_text("#!/bin/sh\nexit 0\n")
        (programs / name).chmod(0o755)
    for name in ("head", "sed", "tail", "cat", "rm", "timeout", "mkdir", "cp", "stat"):
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to(str(shutil.which(name)))
    text = script.read_text().replace("READ_SECONDS_MAX=3\n", f"READ_SECONDS_MAX={read}\n")
    for path in ("/var/lib/cascadia", "/usr/lib/cascadia", "/etc/cascadia", "/run/cascadia", "/run/systemd/system"):
        text = text.replace(path, f"{state.parent}{path}")
    text = text.replace(f"{state.parent}/var/lib/cascadia", str(state))
    changed = state.parent / "script"
    changed.write_text(text)
    return subprocess.run(
        ["/bin/sh", str(changed), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={"PATH": str(programs)},
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory beside the folders of a system."""
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_is_plain_shell(script: Path) -> None:
    subprocess.run(["dash", "-n", str(script)], check=True)
    assert "set -e\n" in script.read_text() or script.parent.name == "rpm", "a step of dpkg that fails must be seen"


@pytest.mark.parametrize("script", [script for script, _ in FIRST], ids=["deb", "rpm"])
def test_the_packages_know_the_version_of_the_state(script: Path) -> None:
    assert re.findall(r"(?m)^STATE_VERSION=(.*)$", script.read_text()) == [str(STATE_VERSION)]
    assert (PACKAGING / "state-version").read_text() == f"{STATE_VERSION}\n"


@pytest.mark.parametrize(("script", "argument"), FIRST, ids=["deb", "rpm"])
def test_a_newer_state_is_refused_before_anything_is_unpacked(state: Path, script: Path, argument: str) -> None:
    for content in (None, "", "\n", "x\n", "0\n", f"{STATE_VERSION}\n"):
        if content is not None:
            (state / "version").write_text(content)
        assert run(script, state, argument).returncode == 0, content
    (state / "version").unlink()
    with (state / "version").open("wb") as endless:  # the agent's user owns the file, and root reads it
        endless.truncate(1 << 40)
    assert run(script, state, argument).returncode == 0
    (state / "version").unlink()
    (state / "version").write_text(f"{STATE_VERSION + 1}\n")
    for folder in ("cascadia", "cascadia-removed"):  # of the installed package, and of one that was removed
        written = state.parent / "usr/lib" / folder / "state-version"
        written.parent.mkdir()
        written.write_text(f"{STATE_VERSION + 2}\n")
        refused = run(script, state, argument)
        assert refused.returncode == 1
        assert f"has version {STATE_VERSION + 1}, and it\nreads version {STATE_VERSION}." in refused.stderr
        assert "cascadia deactivate" in refused.stderr
        written.unlink()


@pytest.mark.parametrize("number", ["2", "999999999", "99999999999999999999"])
@pytest.mark.parametrize(("script", "argument"), FIRST, ids=["deb", "rpm"])
def test_a_number_that_no_package_here_has_written_stops_no_upgrade(
    state: Path, script: Path, argument: str, number: str
) -> None:
    """The agent's user owns the file, and may be somebody else."""
    (state / "version").write_text(f"{number}\n")
    (state.parent / "usr/lib/cascadia").mkdir()
    (state.parent / "usr/lib/cascadia/state-version").write_text(f"{STATE_VERSION}\n")
    done = run(script, state, argument)
    assert done.returncode == 0
    assert ("no package here has written that" in done.stderr) == (len(number) < 10)


@pytest.mark.parametrize(("script", "argument"), FIRST, ids=["deb", "rpm"])
def test_a_pipe_in_the_place_of_the_version_stops_no_upgrade(state: Path, script: Path, argument: str) -> None:
    os.mkfifo(state / "version")
    assert run(script, state, argument).returncode == 0


@pytest.mark.parametrize(("script", "argument"), FIRST, ids=["deb", "rpm"])
def test_a_system_without_systemd_is_refused(state: Path, script: Path, argument: str) -> None:
    refused = run(script, state, argument, systemd=False)
    assert (refused.returncode, "the agent runs under systemd" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("mode", "owner", "mended"),
    [(0o700, 0, True), (0o755, 0, True), (0o770, 0, False), (0o707, 0, False), (0o700, 65534, False), (None, 0, False)],
)
@pytest.mark.parametrize(("script", "argument"), [("deb/postinst", "configure"), ("rpm/post", "2")])
def test_a_state_that_root_alone_could_change_is_given_to_the_agent(
    state: Path, script: str, argument: str, mode: int | None, owner: int, mended: bool
) -> None:
    """`mode` None: a link to the state of another directory."""
    programs = state.parent / "programs"
    programs.mkdir()
    for name in ("systemd-sysusers", "systemd-tmpfiles", "chown"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (programs / name).chmod(0o755)
    if mode is None:
        state.rename(state.parent / "elsewhere")
        (state.parent / "elsewhere").chmod(0o700)
        state.symlink_to(state.parent / "elsewhere")
    else:
        state.chmod(mode)
        os.chown(state, owner, owner)
    done = run(PACKAGING / "scripts" / script, state, argument)
    assert (done.returncode, done.stderr) == (0, "")
    steps = ["systemd-sysusers cascadia.conf", "systemd-tmpfiles --create cascadia.conf"]
    if mended:
        steps.insert(1, f"chown -RPh cascadia:cascadia {state}")
    assert done.stdout.splitlines() == steps


def purge(state: Path, program: str, read: str = "3") -> subprocess.CompletedProcess[str]:
    """Purge a machine with an identity, after a removal that has kept this program; "" for none."""
    (state / "identity/g-1").mkdir(parents=True, exist_ok=True)
    (state / "identity/g-1/identity.json").write_text(f'{{"format":1,"node":"{NODE}","generation":1}}\n')
    kept = state.parent / "usr/lib/cascadia-removed"
    if program:
        kept.mkdir(exist_ok=True)
        (kept / "cascadia").write_text(program)
        (kept / "cascadia").chmod(0o755)
    done = run(PACKAGING / "scripts/deb/postrm", state, "purge", read=read)
    assert done.returncode == 0, "a purge never fails"
    assert not state.exists()
    assert not kept.exists()
    return done


def test_a_removal_keeps_the_state(state: Path) -> None:
    (state / "current.json").touch()
    assert run(PACKAGING / "scripts/deb/postrm", state, "remove").returncode == 0
    assert (state / "current.json").exists()


def test_a_purge_deactivates_and_leaves_the_words_to_the_program(state: Path) -> None:
    done = purge(state, '#!/bin/sh\necho "$0 $*"\n')
    assert done.stdout.endswith("/usr/lib/cascadia-removed/cascadia deactivate --yes --forget\n")
    assert done.stderr == ""


@pytest.mark.parametrize("program", ["", "#!/bin/sh\nexit 70\n", "#!/nonexistent/python3\n"])
def test_a_purge_that_cannot_deactivate_names_the_seat(state: Path, program: str) -> None:
    assert f"cascade node release {NODE}" in purge(state, program).stderr


def test_a_purge_reads_no_pipe_and_no_device_of_the_agents_user_for_ever(state: Path) -> None:
    """A user who owns the state must not keep root from removing the package."""
    for name in ("g-0", "g-2"):
        (state / "identity" / name).mkdir(parents=True)
    (state / "identity/g-0/identity.json").symlink_to("/dev/zero")
    assert f"cascade node release {NODE}" in purge(state, "").stderr
    (state / "identity/g-0").mkdir(parents=True)
    os.mkfifo(state / "identity/g-0/identity.json")
    assert purge(state, "", read="0.1").stderr == ""


def test_needrestart_restarts_the_agent_and_never_a_gate() -> None:
    """needrestart reads the file as Perl. Perl is there, because dpkg needs it."""
    program = r"""
        our %nrconf = (override_rc => {});
        do $ARGV[0] or die $@;
        for my $unit ('cascadia.service', 'cascadia-gate@vision.service', 'other.service') {
            for my $pattern (keys %{$nrconf{override_rc}}) {
                print "$unit $nrconf{override_rc}->{$pattern}\n" if $unit =~ /$pattern/;
            }
        }
    """
    done = subprocess.run(
        [
            "perl",
            "-we",
            program.replace("do $ARGV[0] or", "eval { do $ARGV[0]; 1 } or"),
            PACKAGING / "needrestart.conf",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert sorted(done.stdout.splitlines()) == ["cascadia-gate@vision.service 0", "cascadia.service 1"]
