"""The command line: exit codes, and one JSON document for every outcome."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from lab.processes import wait_until
from node.cli.arguments import EPILOG
from node.cli.main import _with_state, main
from node.config import Config
from node.disk.lock import StateLock
from node.exits import Exit
from node.hwbind.tpm import Mode, Tpm
from node.local.messages import Answer, LocalProblem, Request, problem
from node.local.place import listen
from node.local.server import serve
from node.state import State
from protocol.codes import make_secret
from protocol.encoding import json_encode
from protocol.messages.activation import ActivationFile, TrustPin
from tests.node.conftest import Machine
from tests.node.shells import apply, forget_floors, install, load_licence
from tests.simulators.fabric import Fabric, always, utc_now

pytestmark = pytest.mark.slow

MISSING_TPM = "tabrmd:bus_name=io.cascade.nobody,bus_type=session"


@pytest.fixture
def cloud() -> Iterator[Fabric]:
    with Fabric().in_thread() as fabric:
        yield fabric


class Cli:
    """Runs `cascadia` with its own settings file."""

    def __init__(self, directory: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.state, self.socket = directory, directory / "state", directory / "s"
        self._capsys = capsys
        self.settings = directory / "cascadia.toml"
        self.write(machine.chip.tcti)

    def write(self, tpm: str, mode: str = "development") -> None:
        self.settings.write_text(
            f'state_dir = "{self.state}"\nsocket = "{self.socket}"\ntpm = "{tpm}"\nmode = "{mode}"\nsettle_seconds = 5\n'
        )

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        try:
            code = main([arguments[0], "--config", str(self.settings), *arguments[1:]])
        except SystemExit as ended:
            code = int(str(ended.code))
        output = self._capsys.readouterr()
        return code, output.out, output.err

    def json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code, output, _ = self(*arguments, "--json")
        assert output.count("\n") == 1
        return code, json.loads(output)


@pytest.fixture
def cli(tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, machine, capsys)


@pytest.fixture
def installed(cli: Cli, cloud: Fabric, machine: Machine) -> State:
    forget_floors(machine.chip.tcti)
    return install(cli.state, cloud, machine.ak, machine.node_key)


def failure(cli: Cli, *arguments: str) -> tuple[int, str]:
    """Exit code and error code of a command. They are the same as text and as JSON."""
    code, document = cli.json(*arguments)
    error = document["error"]
    assert list(error) == ["code", "text", "next", "exit_code"]
    assert (error["exit_code"], bool(error["text"]), bool(error["next"])) == (code, True, True)
    plain, output, shown = cli(*arguments)
    assert (plain, output) == (code, "")
    assert shown.startswith("cascadia: cannot ")
    assert error["next"] in shown
    return code, error["code"]


@pytest.mark.parametrize("command", [["status"], ["license", "show"], ["renew"], ["run"]])
def test_not_activated(cli: Cli, command: list[str]) -> None:
    assert failure(cli, *command) == (80, "unactivated")
    assert not cli.state.exists()


def test_no_agent(cli: Cli, installed: State) -> None:
    assert failure(cli, "entitlement", "render") == (69, "agent_absent")


def test_a_bad_activation_file(cli: Cli) -> None:
    assert failure(cli, "activate", str(cli.directory / "missing")) == (2, "activation_file_invalid")
    assert not cli.state.exists()


@pytest.mark.parametrize("mode", ["production", "development"])
def test_the_tpm_port_gets_the_mode_of_the_settings(tmp_path: Path, mode: Mode) -> None:
    """Every session proof repeats the port's mode."""

    async def mode_of(_: State, tpm: Tpm) -> Mode:
        return tpm.mode

    config = Config(state_dir=tmp_path / "state", mode=mode)
    assert trio.run(partial(_with_state, config, mode_of, creates=True)) == mode


@pytest.mark.parametrize(("command", "code"), [(["renew"], 75), (["activate", "FILE"], 75), (["run"], 75)])
def test_another_process_owns_the_state(
    cli: Cli, installed: State, command: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state directory may be free again in a moment, so the exit code of `cascadia run` is 75 as well."""
    monkeypatch.setattr("node.cli.borrowing.FREE_SECONDS_MAX", 0.0)
    file = cli.directory / "file.json"
    made = ActivationFile(1, "http://127.0.0.1:1", TrustPin(1, "0" * 64), make_secret("cac", b"c" * 20), utc_now())
    file.write_bytes(json_encode(made))
    with StateLock(cli.state):
        assert failure(cli, *(str(file) if each == "FILE" else each for each in command)) == (code, "state_busy")


def test_status_needs_no_lock(cli: Cli, installed: State) -> None:
    """`status` reads the state without its lock, so that an agent that starts meanwhile finds the state free."""
    with StateLock(cli.state):
        code, document = cli.json("status")
    assert (code, document["license"]["state"], document["hardware"]) == (0, "active", "ours")


@pytest.mark.parametrize("command", [["run"], ["renew"]])
def test_no_tpm(cli: Cli, installed: State, command: list[str]) -> None:
    cli.write(MISSING_TPM)
    assert failure(cli, *command) == (87, "tpm-absent")


def test_status_is_shown_without_a_tpm_too(cli: Cli, installed: State) -> None:
    cli.write(MISSING_TPM)
    code, document = cli.json("status")
    assert (code, document["hardware"], document["license"]["gate"]) == (87, "unavailable", "closed")


def test_production_takes_no_other_tpm(cli: Cli, installed: State) -> None:
    cli.write(MISSING_TPM, mode="production")
    assert failure(cli, "status") == (2, "tpm-connection-refused")


def test_bad_settings(cli: Cli) -> None:
    cli.settings.write_text("sokcet = 1")
    assert failure(cli, "status") == (2, "config_invalid")


@pytest.mark.parametrize("arguments", [[], ["start"], ["activate"], ["license", "drop"], ["status", "--verbose"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: cascadia" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["--version"], ["schema"]])
def test_a_full_disk_under_the_output_is_no_traceback(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "node.cli.main", *arguments], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (70, b"cascadia: cannot write the output: No space left on device\n")


def test_the_help_names_every_exit_code() -> None:
    named = re.findall(r"\d+", EPILOG)
    assert [int(number) for number in named] == list(Exit)


def test_status_without_an_agent(cli: Cli, installed: State) -> None:
    code, document = cli.json("status")
    assert (code, document["agent_running"], document["license"]["state"]) == (0, False, "active")
    assert document["hardware"] == "ours"
    code, output, _ = cli("status")
    assert code == 0
    assert "not running" in output
    assert "mode" in output
    assert cli.json("license", "show")[1] | {"valid_until": ""} == document["license"] | {"valid_until": ""}


@pytest.mark.parametrize(("word", "exit_code"), [("revocation", 81), ("suspension", 82)])
def test_the_exit_code_tells_the_state(cli: Cli, installed: State, cloud: Fabric, word: str, exit_code: int) -> None:
    apply(load_licence(installed), cloud, cloud.revocation() if word == "revocation" else cloud.suspension())
    assert cli.json("status")[0] == cli.json("license", "show")[0] == exit_code


def test_run_does_not_start_a_revoked_node(cli: Cli, installed: State, cloud: Fabric) -> None:
    cloud.revoke()
    assert failure(cli, "run") == (81, "revoked")
    assert not cli.socket.exists()


def test_renew_without_an_agent(cli: Cli, installed: State, cloud: Fabric) -> None:
    before = installed.identities.load(1).chain
    code, document = cli.json("renew")
    assert (code, document["state"]) == (0, "active")
    assert installed.identities.load(1).chain != before
    cloud.answers["/v1/node/nonces"] = always(503)
    assert failure(cli, "renew") == (69, "cloud_unreachable")
    del cloud.answers["/v1/node/nonces"]
    cloud.revoke()
    assert cli.json("renew")[0] == 81


def test_a_rekey_without_an_agent(cli: Cli, installed: State, cloud: Fabric) -> None:
    before = installed.identities.load(1).node_key
    assert cli.json("renew", "--rekey")[0] == 0
    after = installed.identities.load(1).node_key
    assert after != before
    cloud.revoke()
    assert cli.json("renew", "--rekey")[0] == 81
    assert installed.identities.load(1).node_key == after


def files_of(directory: Path) -> dict[Path, tuple[bytes, float]]:
    """Content and time of change of each file."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime) for path in files}


def overwritten(folder: str) -> Callable[[Path], None]:
    """A damage: every file of a folder of the state has other content."""

    def damage(state: Path) -> None:
        for path in files_of(state / folder):
            path.write_text("{}")

    return damage


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """A damage: something else is in the place of the state directory."""

    def damage(state: Path) -> None:
        shutil.rmtree(state)
        make(state)

    return damage


@pytest.mark.parametrize(
    ("damage", "code", "name"),
    [
        (replaced(lambda state: None), 80, "unactivated"),
        (replaced(lambda state: state.mkdir(mode=0o700)), 80, "unactivated"),
        (replaced(lambda state: state.touch()), 70, "state_unreadable"),
        (replaced(lambda state: state.symlink_to(state)), 70, "state_damaged"),
        (overwritten("identity"), 70, "state_damaged"),
        (overwritten("trust"), 70, "state_damaged"),
        (overwritten("licence"), 0, ""),  # the copy in identity/ decides
        (overwritten("."), 70, "state_damaged"),
    ],
)
@pytest.mark.parametrize("command", [["status"], ["license", "show"]])
def test_a_damaged_state_is_reported_and_left_alone(
    cli: Cli, installed: State, command: list[str], damage: Callable[[Path], None], code: int, name: str
) -> None:
    damage(cli.state)
    before = files_of(cli.state)
    if name:
        assert failure(cli, *command) == (code, name)
    else:
        assert cli(*command)[0] == code
    assert files_of(cli.state) == before


@pytest.mark.parametrize("command", [["status"], ["license", "show"], ["renew"]])
def test_a_user_who_may_not_read_the_state_gets_the_cause(
    installed: State, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    arguments = ["--state-dir", str(installed.directory), "--socket", "/nowhere/s", "--json"]
    with pytest.raises(SystemExit):
        main([*command, "--state-dir", "/nowhere", "--json"])  # imports the modules that the other user may not read
    capsys.readouterr()
    os.seteuid(65534)
    try:
        with pytest.raises(SystemExit) as ended:
            main([*command, *arguments])
    finally:
        os.seteuid(0)
    error = json.loads(capsys.readouterr().out)["error"]
    assert ended.value.code == error["exit_code"] != 0
    assert "Permission denied" in error["text"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--state-dir", "/caf\udce9"],
        ["status", "--state-dir", "x" * 5000],
        ["status", "--state-dir", "/dev/null/x"],
        ["status", "--config", "/caf\udce9\x1b"],
        ["status", "--socket", "/" + "\udce9" * 103],
        ["status", "--socket", "/dev/null"],
        ["status", "--tpm", "device:\udce9"],
        ["run", "--socket", ""],
        ["run", "--state-dir", "x" * 5000],
        ["activate", "/caf\udce9"],
        ["activate", "/dev/zero"],
        ["activate", "x" * 5000],
        ["entitlement", "\udce9", "--socket", "/nowhere"],
    ],
    ids=lambda value: repr(value)[:50],
)
def test_odd_arguments_are_refused_with_their_cause(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    for name in ("CONFIG", "STATE_DIR", "SOCKET", "TPM"):
        monkeypatch.delenv(f"CASCADIA_{name}", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    output = capsys.readouterr()
    first = output.err.splitlines()[0]
    assert (ended.value.code in (2, 70, 80), output.out) == (True, "")
    assert first.startswith("cascadia: cannot ")
    assert first.isprintable()
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_torn_record_is_a_problem_and_stops_nothing(cli: Cli, installed: State) -> None:
    (cli.state / "current.json").write_text("{}")
    code, document = cli.json("status")
    assert (code, document["license"]["state"]) == (0, "active")
    assert [condition["code"] for condition in document["conditions"]] == ["current_generation_unknown"]


def test_a_fault_of_our_own_keeps_its_traceback(
    cli: Cli, installed: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("node.state.State.load_licence", broken)
    assert cli("status")[0] == 70
    assert "TypeError" in caplog.text or "ZeroDivisionError" in caplog.text


class FakeAgent:
    """Answers on the socket, from a thread."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path, self._answer = path, answer
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    async def _main(self) -> None:
        async def handler(_: Request) -> Answer:
            return self._answer

        self._token = trio.lowlevel.current_trio_token()
        listener = listen(self._path)
        self._started.set()
        with self._scope:
            await serve(listener, handler)

    def __enter__(self) -> None:
        self._thread.start()
        self._started.wait(5)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()


@pytest.mark.parametrize(
    ("command", "answer", "expected"),
    [
        (["renew"], problem(503, "cloud_unreachable", "no answer"), (69, "cloud_unreachable")),
        (["renew"], problem(403, "permission_denied", "not you"), (2, "permission_denied")),
        (["status"], problem(408, "too_slow", "late"), (75, "too_slow")),
        (["entitlement", "x" * 65], problem(400, "malformed", "too long"), (2, "malformed")),
    ],
)
def test_what_the_agent_refuses(cli: Cli, command: list[str], answer: Answer, expected: tuple[int, str]) -> None:
    with FakeAgent(cli.socket, answer):
        code, document = cli.json(*command)
        assert (code, document["error"]["code"]) == expected


@pytest.mark.parametrize("command", [["status"], ["license", "show"], ["entitlement", "render"], ["renew"]])
def test_an_odd_answer_is_an_error_with_its_cause(cli: Cli, command: list[str]) -> None:
    """`status` does not show the stored state then: it would say that no agent runs."""
    for body in (Other(), LocalProblem("odd", 200, "odd")):
        with FakeAgent(cli.socket, Answer(200, body)):
            code, kind = failure(cli, *command)
        assert (code, kind) == ((69, "agent_unusable") if isinstance(body, Other) else (75, "odd"))


class Other(msgspec.Struct):
    """A document of another program."""

    ok: bool = True


@pytest.mark.parametrize("name", ["", "x" * 65, "caf\udce9"])
def test_a_name_that_no_entitlement_has(cli: Cli, name: str) -> None:
    assert failure(cli, "entitlement", name) == (2, "malformed")


def test_entitlements_by_exit_code(cli: Cli) -> None:
    from node.local.documents import EntitlementDocument

    for granted, code in ((True, 0), (False, 3)):
        document = EntitlementDocument(1, "render", granted, "active", "because", utc_now())
        with FakeAgent(cli.socket, Answer(200 if granted else 403, document)):
            assert cli("entitlement", "render")[0] == code
            assert cli.json("entitlement", "render")[1]["granted"] is granted


@contextmanager
def full_pipe() -> Iterator[int]:
    """The end for writing of a pipe that is full and not read."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


def test_an_agent_with_a_full_log_pipe_answers_ignores_stray_signals_and_stops(cli: Cli, installed: State) -> None:
    command = [sys.executable, "-m", "node.cli.main", "run", "--config", str(cli.settings)]
    with full_pipe() as writer, subprocess.Popen(command, stderr=writer) as process:
        try:
            wait_until("the agent's answer", lambda: cli.socket.exists() and cli("license", "show")[0] == 0)
            for stray in (signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGIO, signal.SIGRTMIN):
                process.send_signal(stray)
            code, document = cli.json("status")
            assert (code, document["agent_running"]) == (0, True)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert time.monotonic() - began < 2
        finally:
            process.kill()
