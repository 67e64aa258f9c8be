"""Real part: a software TPM behind a resource manager. It takes the place of a machine's ``/dev/tpmrm0``.

`SoftTpm` runs ``swtpm`` (the chip) and ``tpm2-abrmd`` (the resource manager). Clients reach the resource manager over a
private D-Bus session. The caller gives the session, or `SoftTpm` starts one. The chip has an RSA-2048 endorsement
certificate at its standard NV index. A certificate authority in a directory of the caller issues it. `SoftTpm` writes
only to the given directories and to one temporary directory for sockets.

It is not a mock: keys, certificates, time-outs and errors come from the TPM 2.0 reference code.

Rules:

- It ends only processes that it started. A watchdog ends them when the starting process dies, even by SIGKILL.
- A TCTI string cannot have the address of a bus (``tabrmd`` knows only ``bus_type`` and ``bus_name``). So a client
  needs `SoftTpm.env` in its environment. The ``bus_name`` in `SoftTpm.tcti` selects one of several chips on a bus. A
  process can use only one bus: GLib keeps the first bus, even after it has ended. So test processes use `shared_bus`.
"""

import functools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS_MAX = 20.0
"""How long a daemon may take to answer. It takes 20 ms; a loaded build machine takes longer."""

STOP_SECONDS_MAX = 5.0
"""How long a daemon may take to end after SIGTERM, before it is killed."""

SETUP_SECONDS_MAX = 120.0
"""How long it may take to make a chip. It takes 1-2 s, mostly for three RSA keys."""

UNIX_PATH_BYTES_MAX = 107
"""Longest path of a unix socket on Linux (sun_path less its final zero)."""

STATE_FILE = "tpm2-00.permall"
"""The file that holds a chip's seeds, keys and NV memory."""

_BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""

_WATCHDOG = 'while read -r pids; do set -- $pids; done; [ $# -eq 0 ] || kill -KILL "$@"; rm -rf -- "$0"'
"""Stores the last line of its input: the pids. Its input ends with the starting process; then it kills these pids."""


class SoftTpmError(Exception):
    """A part of the software TPM did not start, answer or stop."""


class _Daemons:
    """Child processes of one owner, and the watchdog that ends them after the owner has died.

    ``PR_SET_PDEATHSIG`` is not used: it fires when the starting *thread* ends, and worker threads do.
    """

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, str(runtime)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start `command` in a new session, so that Ctrl-C reaches only the owner. Its output goes to NAME.log."""
        with (self._runtime / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self._tell_watchdog()

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def ended(self, name: str) -> bool:
        return self._children[name].poll() is not None

    def log(self, name: str) -> str:
        return (self._runtime / f"{name}.log").read_text(errors="replace")[-2000:]

    def stop(self, name: str) -> None:
        """End one child. SIGCONT comes first, because a stopped process does not handle SIGTERM."""
        child = self._children.pop(name, None)
        if child is None:
            return
        self._tell_watchdog()
        if child.poll() is None:
            child.send_signal(signal.SIGCONT)
            child.terminate()
            try:
                child.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(STOP_SECONDS_MAX)

    def close(self) -> None:
        """End all children, last started first, then the watchdog, which removes the runtime directory."""
        for name in reversed(list(self._children)):
            self.stop(name)
        if self._watchdog.stdin is not None and not self._watchdog.stdin.closed:
            self._watchdog.stdin.close()
            self._watchdog.wait(STOP_SECONDS_MAX)

    def _tell_watchdog(self) -> None:
        pipe = self._watchdog.stdin
        if pipe is None:
            raise SoftTpmError("the watchdog has no input")
        pipe.write((" ".join(str(child.pid) for child in self._children.values()) + "\n").encode())
        pipe.flush()


class PrivateBus:
    """A private D-Bus session bus."""

    def __init__(self) -> None:
        self._runtime = _runtime_directory()
        self._daemons = _Daemons(self._runtime)
        path = self._runtime / "bus"
        config = self._runtime / "bus.conf"
        config.write_text(_BUS_CONFIG.format(path=path))
        self.address = f"unix:path={path}"
        self._daemons.start("dbus", [_program("dbus-daemon"), "--nofork", "--nopidfile", f"--config-file={config}"])
        _wait("the D-Bus session", path.exists, lambda: self._daemons.ended("dbus"), lambda: self._daemons.log("dbus"))

    @property
    def env(self) -> dict[str, str]:
        return {"DBUS_SESSION_BUS_ADDRESS": self.address}

    def has(self, name: str) -> bool:
        """Whether a process owns `name` on the bus."""
        answer = subprocess.run(
            [
                _program("dbus-send"),
                f"--bus={self.address}",
                "--print-reply=literal",
                "--dest=org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus.NameHasOwner",
                f"string:{name}",
            ],
            capture_output=True,
            check=False,
            timeout=START_SECONDS_MAX,
        )
        return b"true" in answer.stdout

    def stop(self) -> None:
        self._daemons.close()


@functools.cache
def shared_bus() -> PrivateBus:
    """The bus of this process. Its address is in the environment. The watchdog ends the bus after the process."""
    bus = PrivateBus()
    os.environ.update(bus.env)
    return bus


class SoftTpm:
    """One software TPM. Use it as a context manager, or with `start` and `stop`. A second start is a power cycle.

    `directory` has the chip; it is made if it is missing. `ca` has the certificate authority of the maker: chips with
    the same `ca` have the same maker. A copy of a stopped chip's directory is a copy of the chip with the same EK
    (`copy_to`). Tests use copies because they are quick to make, and because they are clones.
    """

    def __init__(self, directory: Path, *, ca: Path | None = None, bus: PrivateBus | None = None) -> None:
        self.directory = directory.absolute()
        self.ca = (ca or directory / "ca").absolute()
        self._given_bus = bus
        self._bus: PrivateBus | None = None
        self._daemons: _Daemons | None = None
        self._name = f"io.cascade.softtpm.n{secrets.token_hex(6)}"
        self._data: Path | None = None

    @property
    def tcti(self) -> str:
        """The connection string for the node's configuration."""
        return f"tabrmd:bus_name={self._name},bus_type=session"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that a process needs to use `tcti`."""
        return self._running()[0].env

    @property
    def raw_socket(self) -> Path:
        """The socket of the chip itself. Use it only while no resource manager runs, one client at a time."""
        return self._socket_path()

    @property
    def ek_roots_pem(self) -> Path:
        """The maker's root certificate, for a tenant to trust."""
        return self.ca / "swtpm-localca-rootca-cert.pem"

    @property
    def ek_intermediates_pem(self) -> Path:
        """The maker's intermediate certificate, which signs endorsement certificates. The chip does not have it."""
        return self.ca / "issuercert.pem"

    def manufacture(self) -> None:
        """Make the chip: seeds, EK, EK certificate. Takes about 2 s; does nothing if the chip exists."""
        if (self.directory / STATE_FILE).exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca.mkdir(parents=True, exist_ok=True)
        config = self.directory / "setup"
        config.mkdir(exist_ok=True)
        (config / "localca.conf").write_text(
            f"statedir = {self.ca}\nsigningkey = {self.ca}/signkey.pem\n"
            f"issuercert = {self.ca}/issuercert.pem\ncertserial = {self.ca}/certserial\n"
        )
        (config / "localca.options").write_text(
            "--platform-manufacturer Cascade\n--platform-version 1.0\n--platform-model SoftTPM\n"
        )
        (config / "setup.conf").write_text(
            f"create_certs_tool = {_program('swtpm_localca')}\n"
            f"create_certs_tool_config = {config}/localca.conf\n"
            f"create_certs_tool_options = {config}/localca.options\n"
            "active_pcr_banks = sha256\n"
        )
        made = subprocess.run(
            [
                _program("swtpm_setup"),
                "--tpm2",
                "--tpm-state",
                str(self.directory),
                "--create-ek-cert",
                "--config",
                str(config / "setup.conf"),
                "--overwrite",
            ],
            capture_output=True,
            check=False,
            timeout=SETUP_SECONDS_MAX,
            env={**os.environ, "XDG_CONFIG_HOME": str(config)},
        )
        if made.returncode != 0:
            raise SoftTpmError(f"swtpm_setup failed: {(made.stdout + made.stderr).decode(errors='replace')[-2000:]}")

    def copy_to(self, directory: Path) -> "SoftTpm":
        """Copy this stopped chip to `directory`; return the copy, which has the same maker."""
        if self._daemons is not None:
            raise SoftTpmError("only a stopped chip can be copied")
        self.manufacture()
        directory.mkdir(parents=True)
        shutil.copy2(self.directory / STATE_FILE, directory / STATE_FILE)
        return SoftTpm(directory, ca=self.ca, bus=self._given_bus)

    def start(self) -> Self:
        """Power on. Makes the chip first if it is missing."""
        if self._daemons is not None:
            raise SoftTpmError("already started")
        self.manufacture()
        self._bus = self._given_bus or PrivateBus()
        runtime = _runtime_directory()
        self._data = runtime / "data"
        self._daemons = _Daemons(runtime)
        try:
            self._start_chip()
            self._start_manager()
        except BaseException:  # after any error, also a cancellation, no started process may stay behind
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Power off."""
        daemons, self._daemons = self._daemons, None
        if daemons is not None:
            daemons.close()
        bus, self._bus = self._bus, None
        if bus is not None and self._given_bus is None:
            bus.stop()

    def reset(self) -> None:
        """Power cycle: transient objects and sessions are lost, and the reset count rises."""
        _, daemons = self._running()
        daemons.stop("abrmd")
        daemons.stop("swtpm")
        self._start_chip()
        self._start_manager()

    def restart_resource_manager(self) -> None:
        """Restart the resource manager, as its update does: every connection is lost, the chip stays on."""
        _, daemons = self._running()
        daemons.stop("abrmd")
        self._start_manager()

    def stop_resource_manager(self) -> None:
        """Stop the resource manager until `restart_resource_manager`."""
        self._running()[1].stop("abrmd")

    def freeze(self) -> None:
        """Make the chip stop answering. Connections stay open and commands wait."""
        os.kill(self._running()[1].pid("swtpm"), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._running()[1].pid("swtpm"), signal.SIGCONT)

    def clear(self) -> None:
        """``TPM2_Clear``, as from the firmware's menu: storage keys are lost; EK and its certificate stay."""
        self.administer("tpm2_clear", "-c", "p")

    def administer(self, tool: str, *arguments: str) -> str:
        """Run a tool of tpm2-tools on this chip, as an administrator does. Returns what the tool printed."""
        done = subprocess.run(
            [_program(tool), "-T", self.tcti, *arguments],
            capture_output=True,
            check=False,
            timeout=SETUP_SECONDS_MAX,
            env={**os.environ, **self.env},
        )
        if done.returncode != 0:
            raise SoftTpmError(f"{tool} failed: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> tuple[PrivateBus, _Daemons]:
        if self._bus is None or self._daemons is None:
            raise SoftTpmError("not started")
        return self._bus, self._daemons

    def _start_chip(self) -> None:
        _, daemons = self._running()
        data = self._socket_path()
        control = data.with_name(f"{data.name}.ctrl")
        for path in (data, control):
            path.unlink(missing_ok=True)
        daemons.start(
            "swtpm",
            [
                _program("swtpm"),
                "socket",
                "--tpm2",
                "--tpmstate",
                f"dir={self.directory}",
                "--server",
                f"type=unixio,path={data}",
                "--ctrl",
                f"type=unixio,path={control}",
                "--flags",
                "not-need-init,startup-clear",
            ],
        )
        _wait(
            "swtpm",
            lambda: _listening(data, control),
            lambda: daemons.ended("swtpm"),
            lambda: daemons.log("swtpm"),
        )

    def _start_manager(self) -> None:
        bus, daemons = self._running()
        daemons.start(
            "abrmd",
            [
                _program("tpm2-abrmd"),
                "--allow-root",
                "--session",
                "--flush-all",
                f"--dbus-name={self._name}",
                f"--tcti=swtpm:path={self._socket_path()}",
            ],
            bus.env,
        )
        _wait(
            "tpm2-abrmd",
            lambda: bus.has(self._name),
            lambda: daemons.ended("abrmd"),
            lambda: daemons.log("abrmd"),
        )

    def _socket_path(self) -> Path:
        if self._data is None:
            raise SoftTpmError("not started")
        return self._data


def _runtime_directory() -> Path:
    """A new directory for sockets and logs, whose path is short enough even if TMPDIR is long."""
    path = Path(tempfile.mkdtemp(prefix="softtpm-"))
    if len(os.fsencode(path / "data.ctrl")) > UNIX_PATH_BYTES_MAX:
        path.rmdir()
        path = Path(tempfile.mkdtemp(prefix="softtpm-", dir="/tmp"))
    return path


def _listening(*paths: Path) -> bool:
    """Whether a process listens on each socket. A socket's file appears earlier, and refuses connections until then."""
    # /proc/net/unix (proc(5)): the fourth column has the flags, __SO_ACCEPTCON is 10000; the path is the last column.
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    listening = {row[7] for row in rows if len(row) == 8 and row[3] == "00010000"}
    return all(str(path) in listening for path in paths)


def _program(name: str) -> str:
    """The path of a daemon. System directories are searched too, because a user's PATH often lacks them."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin")
    if found is None:
        raise SoftTpmError(f"{name} is not installed (Debian packages: swtpm swtpm-tools tpm2-abrmd tpm2-tools dbus)")
    return found


def _wait(what: str, ready: Callable[[], bool], ended: Callable[[], bool], log: Callable[[], str]) -> None:
    """Poll until `ready`; the daemons give no other sign. Raises SoftTpmError if one ends or is late."""
    until = time.monotonic() + START_SECONDS_MAX
    while not ready():
        if ended():
            raise SoftTpmError(f"{what} ended at its start: {log()}")
        if time.monotonic() > until:
            raise SoftTpmError(f"{what} did not answer within {START_SECONDS_MAX:.0f} s: {log()}")
        time.sleep(0.01)
