"""Real part: a whole machine in QEMU. Its kernel has the TPM as `/dev/tpmrm0`, so the agent runs in production mode.

The machine has a disk, a board, a network card, a clock and a TPM (`swtpm`). A caller can copy, replace and break each
of them. QEMU translates every instruction (TCG), so the rows run on machines without KVM too; a boot takes about 15
seconds. The guest reaches this machine's loopback as 10.0.2.2, which it calls `localhost`.

Every process ends with the block of `Guest`. Nothing needs a network of this machine, and nothing needs root.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from lab.guest_image import SHELL_PORT, Image
from lab.processes import Process, StepFailed, start_program, wait_until
from lab.tpm import STATE_FILE

BOOT_SECONDS_MAX = 900.0
"""A boot takes 15 s on an idle machine, and minutes on a busy one."""
COMMAND_SECONDS_MAX = 300.0
MEMORY_MIB = 768
CPU = "Westmere"
"""QEMU translates instructions of this old processor with a sixth less work than those of its largest model."""
KERNEL_OPTIONS = (
    "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off init_on_alloc=0 audit=0 apparmor=0 "
    "cryptomgr.notests nokaslr random.trust_cpu=on no_timer_check panic=1"
)
"""The options turn off what protects a kernel and costs time, because each translated instruction is dear. On a busy
machine the timer is late, which the kernel would take for broken hardware. A kernel that panics ends QEMU."""
PING_SECONDS = 2.0
"""The guest drops what comes before its shell runs, so the first command is repeated."""


class Board(msgspec.Struct, frozen=True):
    """What the firmware and the hardware report about themselves."""

    uuid: str = "4b1d6a52-9c1e-4e0b-8a57-2f6c1d93e0aa"
    serial: str = "LAB-7F31C0"
    board_serial: str = "BRD-90A2E4"
    chassis_serial: str = "CHS-3D08A6"
    disk_serial: str = "DSK-5512B7"
    mac: str = "00:00:5e:00:53:07"
    """A globally unique address, because the fingerprint does not count others. RFC 7042 keeps it for documentation."""


class Done(msgspec.Struct, frozen=True):
    """Exit status, output and error output of a command in the guest."""

    status: int
    out: str
    error: str

    def document(self) -> Any:
        """The output, decoded from JSON. Raises StepFailed if it is none."""
        try:
            return json.loads(self.out)
        except ValueError:
            raise StepFailed(f"the command exited {self.status} without a document: {self.error[-500:]}") from None


class Guest:
    """One machine. Its disk and the state of its TPM are in `directory`; `start` boots it."""

    drive = ""
    """QEMU's options of the disk; empty for the file `disk`."""

    def __init__(
        self, directory: Path, image: Image, chip: Path, board: Board | None = None, *, drive: str = ""
    ) -> None:
        """Boots nothing yet.

        Args:
            directory: for the disk, the sockets and the logs. Its path has at most 70 bytes.
            image: the image that the disk starts from.
            chip: a directory with the state of a software TPM. It is copied.
            board: the hardware's names.
            drive: the options of QEMU for another disk than a file made from the image, without a comma at the end.
        """
        self.directory = directory
        self.image = image
        self.drive = drive
        self.board = board or Board()
        self.disk = directory / "disk.qcow2"
        self.chip = directory / "chip"
        self._processes: list[Process] = []
        self._shell: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._rest = b""
        directory.mkdir(parents=True)
        self.chip.mkdir()
        shutil.copy2(chip / STATE_FILE, self.chip / STATE_FILE)
        self.boots = 0
        """How often the power came on."""
        self.boot_seconds: list[float] = []
        """The time of each boot that was waited for, from the power to the first command."""
        if not drive:
            _image_tool("create", "-q", "-f", "qcow2", "-b", str(image.disk), "-F", "raw", str(self.disk))

    def copied(self, directory: Path, *, chip: Path | None = None, board: Board | None = None) -> "Guest":
        """Another machine with a copy of this stopped machine's disk.

        Args:
            directory: the directory of the copy.
            chip: the state of its TPM; None copies the TPM of this machine.
            board: its hardware's names; None for the same names.
        """
        copy = Guest(directory, self.image, chip or self.chip, board or self.board)
        copy.put_disk_back(self.disk)
        return copy

    def put_disk_back(self, disk: Path) -> None:
        """Replace the disk of this stopped machine by a copy of `disk`, which must not change. The TPM stays as it is."""
        self.disk.unlink()
        _image_tool("create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "qcow2", str(self.disk))

    def copied_running(self, directory: Path, name: str) -> "Guest":
        """A copy of this stopped machine that runs on from its snapshot `name`, without a boot. Raises StepFailed.

        Its clocks go on at the time of the snapshot.
        """
        copy = Guest(directory, self.image, self.chip, self.board)
        # A snapshot belongs to the file that has it, so a layer above this file is not enough.
        shutil.copyfile(self.disk, copy.disk)
        copy._power_on([*copy._command("utc", ""), "-loadvm", name])
        copy.wait_shell()
        return copy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # Power

    def start(self, rtc: str = "utc", wait: bool = True, kernel_options: str = "") -> None:
        """Power on. With `wait` returns when the guest runs commands. Raises StepFailed.

        Args:
            rtc: the date of the real-time clock: `utc` for the present, or a date such as `1970-01-01T00:00:00`.
            wait: whether to wait.
            kernel_options: further options of the kernel's command line.
        """
        self.boots += 1
        began = time.monotonic()
        self._power_on(self._command(rtc, kernel_options))
        if wait:
            self.wait_shell()
            self.boot_seconds.append(time.monotonic() - began)

    def _power_on(self, command: list[str]) -> None:
        for name in ("tpm.sock", "qmp.sock", "shell.sock"):
            (self.directory / name).unlink(missing_ok=True)
        chip = [
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.chip}", "--terminate",
            "--ctrl", f"type=unixio,path={self.directory / 'tpm.sock'}",
        ]  # fmt: skip
        self._processes.append(start_program(self.directory, "swtpm", chip))
        wait_until("the socket of the TPM", (self.directory / "tpm.sock").exists, BOOT_SECONDS_MAX)
        self._processes.append(start_program(self.directory, "qemu", command))
        wait_until("the socket of QEMU", self._listens, BOOT_SECONDS_MAX)

    def kill(self) -> None:
        """Cut the power: the processes end at once. Bytes that the guest has not flushed to its disk are lost."""
        if self._shell is not None:
            self._shell.close()
        self._shell, self._rest = None, b""
        for process in reversed(self._processes):
            process.kill()
        self._processes.clear()

    def off(self) -> None:
        """Shut the guest down, as a person does. Raises StepFailed."""
        with contextlib.suppress(StepFailed):
            self.run("systemctl", "poweroff", "--no-block")
        self._processes[-1].wait(BOOT_SECONDS_MAX)
        self.kill()

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return bool(self._processes) and self._processes[-1].running

    def _command(self, rtc: str, kernel_options: str) -> list[str]:
        board = self.board
        return [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", CPU,
            "-smp", "1", "-m", str(MEMORY_MIB), "-display", "none", "-nodefaults", "-no-reboot", "-rtc", f"base={rtc},clock=vm",
            "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd),
            "-append", f"{KERNEL_OPTIONS} {kernel_options}",
            "-smbios", f"type=1,manufacturer=Lab,product=Guest,serial={board.serial},uuid={board.uuid}",
            "-smbios", f"type=2,manufacturer=Lab,product=Board,serial={board.board_serial}",
            "-smbios", f"type=3,manufacturer=Lab,serial={board.chassis_serial}",
            "-drive", f"if=none,id=disk,cache=writeback,{self.drive or f'file={self.disk},format=qcow2'}",
            "-device", f"virtio-blk-pci,drive=disk,serial={board.disk_serial}",
            *self._agent_disk(),
            "-netdev", "user,id=net", "-device", f"virtio-net-pci,netdev=net,mac={board.mac}",
            "-chardev", f"socket,id=tpm,path={self.directory / 'tpm.sock'}",
            "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0",
            "-device", "virtio-serial-pci", "-device", "virtio-rng-pci",
            "-chardev", f"socket,id=shell,path={self.directory / 'shell.sock'},server=on,wait=off",
            "-device", f"virtserialport,chardev=shell,name={SHELL_PORT}",
            "-qmp", f"unix:{self.directory / 'qmp.sock'},server=on,wait=off",
            "-serial", f"file:{self.directory / 'console.log'}",
        ]  # fmt: skip

    def _agent_disk(self) -> list[str]:
        if self.image.agent is None:
            return []
        drive = f"if=none,id=agent,file={self.image.agent},format=raw,readonly=on"
        return ["-drive", drive, "-device", "virtio-blk-pci,drive=agent,serial=agent"]

    def _listens(self) -> bool:
        if not self._processes[-1].running:
            raise StepFailed(f"QEMU ended:\n{self._processes[-1].report()}")
        return (self.directory / "shell.sock").exists() and (self.directory / "qmp.sock").exists()

    # Commands in the guest

    def wait_shell(self, seconds: float = BOOT_SECONDS_MAX) -> None:
        """Return when the guest runs commands. Raises StepFailed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.running:
                raise StepFailed(f"the guest ended:\n{self._console()}")
            with contextlib.suppress(StepFailed):
                self.run(seconds=PING_SECONDS)
                return
        raise StepFailed(f"the guest runs no commands after {seconds:.0f} s:\n{self._console()}")

    def run(self, *argv: str, given: str = "", seconds: float = COMMAND_SECONDS_MAX) -> Done:
        """Run a command in the guest, as root, with `given` as its input. Raises StepFailed after `seconds`.

        Without a command the guest only answers.
        """
        until = time.monotonic() + seconds
        try:
            return self._answer(self._ask(argv, given, seconds), until)
        except OSError as error:
            raise StepFailed(f"`{' '.join(argv)}` did not run in the guest: {error}") from error

    def begin(self, *argv: str, seconds: float = COMMAND_SECONDS_MAX) -> Callable[[float], Done | None]:
        """Start a command in the guest, without waiting for it. No other command may start before it has ended.

        Returns a function that waits for the answer, at most the seconds given, and returns None without one.
        Raises StepFailed.
        """
        try:
            number = self._ask(argv, "", seconds)
        except OSError as error:
            raise StepFailed(f"`{' '.join(argv)}` did not start in the guest: {error}") from error

        def answered(patience: float) -> Done | None:
            with contextlib.suppress(OSError):
                return self._answer(number, time.monotonic() + patience)
            return None

        return answered

    def _ask(self, argv: Sequence[str], given: str, seconds: float) -> int:
        """Send a command. Returns its number. Raises OSError."""
        number = next(self._numbers)
        asked = {"id": number, "argv": argv, "input": given, "seconds": seconds}
        if self._shell is None:
            self._shell = socket.socket(socket.AF_UNIX)
            self._shell.connect(str(self.directory / "shell.sock"))
        self._shell.settimeout(seconds)
        self._shell.sendall(json.dumps(asked).encode() + b"\n")
        return number

    def _answer(self, number: int, until: float) -> Done:
        """Wait for the answer of a command. Raises OSError."""
        if self._shell is None:
            raise OSError("the power is off")
        while True:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if answer["id"] == number:
                    return Done(answer["status"], answer["out"], answer["error"])
            self._shell.settimeout(max(0.01, until - time.monotonic()))
            data = self._shell.recv(65536)
            if not data:
                raise OSError("QEMU closed the connection")
            self._rest += data

    def checked(self, *argv: str, given: str = "", seconds: float = COMMAND_SECONDS_MAX) -> str:
        """The output of a command that must exit with 0. Raises StepFailed."""
        done = self.run(*argv, given=given, seconds=seconds)
        if done.status != 0:
            raise StepFailed(f"`{' '.join(argv)}` exited {done.status} in the guest: {(done.out + done.error)[-1500:]}")
        return done.out

    def write(self, path: str, content: str) -> None:
        """Write a file of the guest, and flush it to the disk."""
        self.checked("sh", "-c", 'umask 077; cat >"$0" && sync', path, given=content)

    def cascadia(self, *argv: str, seconds: float = COMMAND_SECONDS_MAX) -> Done:
        """Run a `cascadia` command with `--json` in the guest."""
        program = "/usr/bin/cascadia" if self.image.agent is None else "/opt/cascadia/cascadia"
        return self.run(program, *argv, "--json", seconds=seconds)

    def ask(self, path: str, method: str = "GET", seconds: float = COMMAND_SECONDS_MAX) -> Any:
        """A document of the agent's socket, such as `/v1/status`. None if no agent answers.

        No program starts in the guest for it, so it is the cheap way to poll.
        """
        done = self.run("ask-agent", method, path, seconds=seconds)
        return done.document() if done.status == 0 else None

    def _console(self) -> str:
        path = self.directory / "console.log"
        return path.read_text(errors="replace")[-1500:] if path.exists() else ""

    # The hypervisor

    def qmp(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run a command of the QEMU Machine Protocol. Returns its answer. Raises StepFailed."""
        answer: dict[str, Any] = {}
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(COMMAND_SECONDS_MAX)
            link.connect(str(self.directory / "qmp.sock"))
            with link.makefile("rwb") as lines:
                answers = _documents(lines)
                for asked in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments or {}}):
                    lines.write(json.dumps(asked).encode() + b"\n")
                    lines.flush()
                    # Greetings and events come in between.
                    answer = next(found for found in answers if "return" in found or "error" in found)
        if "error" in answer:
            raise StepFailed(f"QEMU refuses {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def pause(self) -> None:
        """Stop the machine where it is, as a hypervisor does. Its clock stops too."""
        self.qmp("stop")

    def resume(self) -> None:
        """Let a paused machine go on."""
        self.qmp("cont")

    def link(self, up: bool) -> None:
        """Plug the network cable in, or pull it."""
        self.qmp("set_link", {"name": "net", "up": up})

    @property
    def asleep(self) -> bool:
        """Whether the guest has suspended itself to RAM (ACPI S3)."""
        return str(self.qmp("query-status")["status"]) == "suspended"

    def wake(self) -> None:
        """Press the power button of a machine that sleeps. Its kernel goes on where it was. Raises StepFailed."""
        self.qmp("system_wakeup")

    def monitor(self, line: str) -> str:
        """Run a command of QEMU's monitor for people. Raises StepFailed if it prints an error."""
        said = str(self.qmp("human-monitor-command", {"command-line": line}))
        if said.startswith("Error"):
            raise StepFailed(f"QEMU cannot {line}: {said.strip()}")
        return said

    def save(self, name: str) -> None:
        """Keep memory, disk and TPM of the running machine as a snapshot."""
        self.monitor(f"savevm {name}")

    def restore(self, name: str) -> None:
        """Put memory, disk and TPM back to the snapshot. The machine runs on from there."""
        self.monitor(f"loadvm {name}")
        self._rest = b""


def _documents(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)
    raise StepFailed("QEMU closed its control connection")


def _image_tool(*arguments: str) -> None:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode != 0:
        raise StepFailed(f"qemu-img exited {done.returncode}: {done.stderr[-500:]}")
