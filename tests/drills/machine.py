"""Whole machines in QEMU, with the kernel's TPM: activation, copies, swaps, wrong clocks, power cuts, restored snapshots.

`make machine` runs this drill. The agent is installed from this checkout, and runs in production mode on
`/dev/tpmrm0`. The cloud runs on this machine. Each row says what must happen and what happened, and its time. Needs
root for debootstrap at the first run, and programs that it names if they are missing. It changes nothing outside of
its folders, and ends every process that it starts.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from lab.cloud import PORTS, Cloud
from lab.guest import Board, Guest
from lab.guest_image import CHECKOUT, Image, missing_packages
from lab.processes import StepFailed, accepts, ended, wait_until
from lab.tpm import SoftTpm
from tests.drills.frame import CannotRun, Figure, Outcome, Say

USUAL_TIME = "15 min"
MINUTES_MAX = 90.0

STATE_SECONDS_MAX = 300.0
"""How long the agent may take to reach a state. A start takes about 20 s in a guest on an idle machine."""
POLL_SECONDS = 1.0
FILE = "/root/activation.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the rows, the cache of the image and the mirror."""
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    parser.add_argument(
        "--cache", type=Path, default=CHECKOUT / "build" / "machine", help="where the Debian is kept (%(default)s)"
    )
    parser.add_argument("--mirror", default="", help="where Debian packages come from (default: debootstrap's own)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Make the image, activate one machine, and run each row on a copy of it."""
    missing = missing_packages()
    if missing:
        raise CannotRun(f"programs are missing. Run `apt-get install --no-install-recommends {' '.join(missing)}`")
    if os.geteuid() != 0:
        raise CannotRun("debootstrap needs root. Run it as root")
    # Below /tmp: the path of a unix socket is short.
    folder = Path(tempfile.mkdtemp(prefix="machine-", dir="/tmp"))
    try:
        say("the image")
        image = Image.made(options.cache.resolve(), folder, options.mirror)
        return _Rows(folder, image, options.only, say).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Seen(msgspec.Struct, frozen=True):
    """What a row saw: the state of the licence, whether the gate is open, and flags and codes of conditions."""

    state: str
    gate: bool
    conditions: frozenset[str]

    def __str__(self) -> str:
        codes = f" ({', '.join(sorted(self.conditions))})" if self.conditions else ""
        return f"{self.state}, gate {'open' if self.gate else 'closed'}{codes}"


NO_AGENT = Seen("no agent", gate=False, conditions=frozenset())


class Wrong(Exception):
    """A row saw something that must not be."""


def seen(guest: Guest) -> Seen:
    """What `cascadia status` says in the guest."""
    done = guest.cascadia("status")
    try:
        document: dict[str, Any] = done.document()
        licence = document["license"]
        codes = frozenset(str(each["code"]) for each in document.get("conditions", ()))
        return Seen(str(licence["state"]), licence["gate"] == "open", codes | frozenset(licence["flags"]))
    except (StepFailed, KeyError):
        return Seen(f"exit {done.status}", gate=False, conditions=frozenset())


def wait_for(guest: Guest, what: str, good: Callable[[Seen], bool], seconds: float = STATE_SECONDS_MAX) -> Seen:
    """Poll the status until it is good. Raises Wrong with the last status."""
    until = time.monotonic() + seconds
    while True:
        last = seen(guest)
        if good(last):
            return last
        if time.monotonic() > until:
            raise Wrong(f"not {what} within {seconds:.0f} s, but {last}")
        time.sleep(POLL_SECONDS)


def active(one: Seen) -> bool:
    """Whether the licence is active and the gate open."""
    return one.state == "active" and one.gate


class _Rows:
    """One run. `_first` is the machine that is activated and then switched off; each row gets a copy."""

    def __init__(self, folder: Path, image: Image, only: str, say: Say) -> None:
        self._folder = folder
        self._image = image
        self._only = only
        self._say = say
        self._figures: dict[str, Figure] = {}
        self._findings: list[str] = []
        self._chip = SoftTpm(folder / "chip")
        self._other_chip = SoftTpm(folder / "other", ca=self._chip.ca)
        self._cloud = Cloud(folder)
        self._number = 0

    def run(self) -> Outcome:
        self._chip.manufacture()
        self._other_chip.manufacture()
        with ExitStack() as stack:
            stack.enter_context(ended(self._cloud))
            self._cloud.init("--host", "localhost", "--bind", "127.0.0.1")
            self._cloud.up()
            self._tenant = self._cloud.tenant(self._chip)
            first = stack.enter_context(Guest(self._folder / "first", self._image, self._chip.directory))
            if self._row("first activation", self._activation, first):
                for name, row in ROWS.items():
                    if self._only in name:
                        self._row(name, row, self, first)
        return Outcome(self._figures, tuple(self._findings))

    def _row(self, name: str, row: Callable[..., str], *arguments: object) -> bool:
        began = time.monotonic()
        try:
            saw, right = row(*arguments), True
        except (Wrong, StepFailed) as error:
            saw, right = str(error), False
            self._findings.append(f"{name}: {error}")
        line = f"{'right' if right else 'WRONG'}  {time.monotonic() - began:5.0f} s  {saw}"
        self._figures[name] = line.splitlines()[0]
        self._say(f"{name}: {line}")
        return right

    def _activation(self, first: Guest) -> str:
        """A machine of the shop floor: it boots, is activated with a file, and the agent starts."""
        first.start()
        first.write(FILE, self._cloud.code(self._tenant).read_text())
        first.checked("systemctl", "stop", "cascadia")
        done = first.cascadia("activate", FILE, seconds=STATE_SECONDS_MAX)
        if done.status != 0:
            raise Wrong(f"`cascadia activate` exited {done.status}: {(done.out + done.error)[-600:]}")
        first.checked("systemctl", "start", "cascadia", seconds=STATE_SECONDS_MAX)
        saw = wait_for(first, "active", active)
        mode = str(first.cascadia("status").document()["mode"])
        device = first.checked("ls", "/dev/tpmrm0").strip()
        if mode != "production":
            raise Wrong(f"the agent is in mode {mode}")
        first.off()
        return f"{saw}; {mode}, {device}"

    @contextmanager
    def copy(self, first: Guest, *, chip: Path | None = None, board: Board | None = None) -> Iterator[Guest]:
        """A copy of the activated machine. By default its TPM is copied too."""
        self._number += 1
        with first.copied(self._folder / f"m{self._number}", chip=chip, board=board) as guest:
            yield guest
        shutil.rmtree(guest.directory, ignore_errors=True)

    @property
    def other_chip(self) -> Path:
        """The state of another TPM of the same maker."""
        return self._other_chip.directory

    @contextmanager
    def cloud_away(self) -> Iterator[None]:
        """No cloud during the block."""
        self._cloud.down()
        try:
            yield
        finally:
            self._cloud.up(wait=False)
            wait_until("the start of the cloud", self._cloud_answers, STATE_SECONDS_MAX)

    def _cloud_answers(self) -> bool:
        return all(accepts(self._cloud.port + offset) for offset in range(PORTS))


def _disk_clone(rows: _Rows, first: Guest) -> str:
    with rows.copy(first, chip=rows.other_chip) as guest:
        guest.start()
        saw = wait_for(guest, "hardware-mismatch", lambda one: one.state == "hardware-mismatch")
        if saw.gate:
            raise Wrong(f"the gate is open on another TPM: {saw}")
        return str(saw)


def _tpm_copy(rows: _Rows, first: Guest) -> str:
    """Image and TPM are copied. The bound: offline the copy runs by the lease's dates."""
    with rows.copy(first) as guest, rows.cloud_away():
        guest.start()
        saw = wait_for(guest, "active, by the dates of the lease", active)
        return f"{saw}; offline only the lease's dates bound a copy of disk and TPM"


def _board_swap(rows: _Rows, first: Guest) -> str:
    board = Board(
        uuid="9d0c4f5e-13aa-4b6c-9f0e-71c2a3d85b16",
        serial="LAB-2E77A9",
        board_serial="BRD-11F04D",
        mac="02:1c:5d:9e:12:44",
    )
    with rows.copy(first, board=board) as guest:
        guest.start()
        return f"{wait_for(guest, 'active', active)}; the TPM identifies the machine, drift is reported"


def _clock(rtc: str) -> Callable[[_Rows, Guest], str]:
    def row(rows: _Rows, first: Guest) -> str:
        with rows.copy(first) as guest:
            guest.start(rtc=rtc)
            date = guest.checked("date", "-u", "+%Y-%m-%d").strip()
            return f"{wait_for(guest, 'active', active)}; the clock says {date}"

    return row


def _clock_offline(rows: _Rows, first: Guest) -> str:
    """A clock at 1970 and no cloud: trusted time decides, and the lease still runs."""
    with rows.copy(first) as guest, rows.cloud_away():
        guest.start(rtc="1970-01-01T00:00:00")
        saw = wait_for(guest, "an open gate by trusted time", lambda one: one.gate)
        return str(saw)


def _power_cut(rows: _Rows, first: Guest) -> str:
    """The power fails during a renewal, twice. The machine boots with the same node and a valid state."""
    with rows.copy(first) as guest:
        guest.start()
        wait_for(guest, "active", active)
        node = _node(guest)
        for delay in (0.3, 2.0):
            guest.checked(
                "sh", "-c", "setsid sh -c 'while :; do /opt/cascadia/cascadia renew --rekey; done' >/dev/null 2>&1 &"
            )
            time.sleep(delay)
            guest.kill()
            guest.start()
            wait_for(guest, "active after a power cut", active)
            if _node(guest) != node:
                raise Wrong(f"it is node {_node(guest)}, and was {node}")
        return f"{seen(guest)}; the same node after 2 cuts"


def _node(guest: Guest) -> str:
    return str(guest.cascadia("status").document()["license"]["node"])


def _suspended(rows: _Rows, first: Guest) -> str:
    """A hypervisor stops the machine for a while, and lets it go on."""
    with rows.copy(first) as guest:
        guest.start()
        wait_for(guest, "active", active)
        guest.pause()
        time.sleep(30)
        guest.resume()
        guest.wait_shell()
        return f"{wait_for(guest, 'active', active)}; 30 s stopped"


def _restored(rows: _Rows, first: Guest) -> str:
    """Memory, disk and TPM go back to a snapshot. The newest holder goes on; the cloud has seen both."""
    with rows.copy(first) as guest:
        guest.start()
        wait_for(guest, "active", active)
        guest.save("before")
        guest.cascadia("renew")
        guest.restore("before")
        guest.wait_shell()
        guest.cascadia("renew", seconds=STATE_SECONDS_MAX)
        return str(wait_for(guest, "an answer of the agent", lambda one: one.state in ("active", "grace", "suspended")))


ROWS: dict[str, Callable[[_Rows, Guest], str]] = {
    "disk clone": _disk_clone,
    "TPM copy": _tpm_copy,
    "board swap": _board_swap,
    "clock at 1970": _clock("1970-01-01T00:00:00"),
    "clock 400 days ahead": _clock("2028-01-05T00:00:00"),
    "clock at 1970, offline": _clock_offline,
    "power cut": _power_cut,
    "suspended machine": _suspended,
    "restored VM": _restored,
}
