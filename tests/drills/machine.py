"""Whole machines in QEMU, with the kernel's TPM: activation, copies, swaps, wrong clocks, power cuts, sleep, snapshots.

`make machine` runs this drill. The agent is installed from this checkout, and runs in production mode on
`/dev/tpmrm0`. The cloud runs on this machine. Each row says what happened, or what is wrong, and its time. Needs root
for debootstrap at the first run, and programs that it names if they are missing. It changes nothing outside of its
folders, and ends every process that it starts.

The rows with the flag `alone` start a copy of the activated machine beside a copy of its cloud. The others happen to one
machine, one after the other, without another boot. After a row that fails the next one starts on another copy.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from lab.agent_tree import CHECKOUT
from lab.guest import Board, Guest
from lab.guest_image import Image, missing_packages
from lab.processes import StepFailed, wait_until
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.whole_machines import (
    STATE_DIRECTORY,
    STATE_SECONDS_MAX,
    Past,
    Site,
    Wrong,
    activate,
    exit_of_status,
    must,
    now,
    renew,
    seen,
    status_exits,
    wait_active,
    wait_for,
)

USUAL_TIME = "15 min"
MINUTES_MAX = 120.0

OTHER_BOARD = Board(
    uuid="9d0c4f5e-13aa-4b6c-9f0e-71c2a3d85b16",
    serial="LAB-2E77A9",
    board_serial="BRD-11F04D",
    chassis_serial="CHS-77E19B",
    mac="00:00:5e:00:53:44",
)
"""Another board with its network card, in another chassis. The disk is the same."""
EPOCH = "1970-01-01T00:00:00"
CLOCK_1970 = "systemd.clock_usec=7200000000"
"""An option of the kernel's command line. Without it systemd moves a clock at 1970 to the time of its own build. With it
PID 1 then sets the clock to 1970, two hours after the epoch, because Linux refuses a time before the time since the
boot. So the agent starts in 1970, as on a system whose init does not move the clock."""
DAYS_AHEAD = 400
STOPPED_SECONDS = 30
SLEEP_LEASE = "60,150,86400,172800"
"""The dates of a lease that expires while the machine sleeps. While the cloud answers, the lease ends 90 s later at least."""
TRUSTED_SECONDS = 10.0
"""How far trusted time may be from this machine's time. The real-time clock that measures a sleep has whole seconds, and
an answer of the cloud counts from its arrival in a slow guest."""
OVERTAKEN_SECONDS = 65
"""A copy that asks within a minute of the other machine counts as overtaken (docs/threat-model.md, Copies)."""
ROUNDS_MAX = 4
DECIDED = ("active", "suspended")
"""The states of the machine that an operator keeps, and of the other one."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the rows, the cache of the image and the mirror."""
    parser.add_argument(
        "--only", default="", help="only rows whose names contain one of these texts (commas between them)"
    )
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
        began = time.monotonic()
        image = Image.made(options.cache.resolve(), folder, options.mirror)
        say(f"the image took {time.monotonic() - began:.0f} s")
        return _Run(Past(folder, image), say).run(options.only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Run:
    """One run of the drill."""

    def __init__(self, past: Past, say: Say) -> None:
        self._past = past
        self._say = say
        self._figures: dict[str, Figure] = {}
        self._findings: list[str] = []
        self._stack = ExitStack()
        """The site of the machine that runs."""
        self._shared: tuple[Site, Guest] | None = None

    def run(self, only: str) -> Outcome:
        """Run the rows whose names contain one of the texts of `only`."""
        if self._row("first activation", self._past.activate):
            with self._stack:
                for row in ROWS:
                    if any(text in row.name for text in only.split(",")):
                        self._row(row.name, self._alone if row.alone else self._together, row)
        self._figures["boots"] = self._past.boots
        self._figures["seconds of a boot"] = round(self._past.boot_seconds, 1)
        return Outcome(self._figures, tuple(self._findings))

    def _alone(self, row: "Row") -> str:
        with self._past.site() as site:
            return row.do(site, site.machine(chip=site.other_chip if row.other_chip else None, board=row.board))

    def _together(self, row: "Row") -> str:
        """Run a row on the machine that runs. After a failure the next row gets another copy of the machine."""
        if row.fresh:
            self._end_shared()
        if self._shared is None:
            site = self._stack.enter_context(self._past.site())
            self._shared = site, site.running()
        try:
            return row.do(*self._shared)
        except BaseException:
            self._end_shared()
            raise

    def _end_shared(self) -> None:
        self._stack.close()
        self._shared = None

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


def _disk_clone(site: Site, guest: Guest) -> str:
    """The disk runs in another machine, or its board is replaced together with the TPM: the agent sees the same.

    The gate is closed, the agent stays up, and the cloud gives no session. Then the machine is activated again, as
    docs/agent.md says under "Replace a TPM".
    """
    site.cloud_up()
    before = site.generation()["seen_at"]
    guest.start()
    saw = wait_for(guest, "hardware-mismatch", lambda one: one.state == "hardware-mismatch")
    must(not saw.open, f"the gate is open on another TPM: {saw}")
    must(guest.ask("/v1/entitlements/vision")["granted"] is False, "an entitlement is granted on another TPM")
    said = f"{exit_of_status(guest, 84)}; {status_exits(guest, 84)}"
    must(seen(guest).state == "hardware-mismatch", f"the agent does not stay up: {seen(guest)}")
    must(site.generation()["seen_at"] == before, "the cloud gave a session to another TPM")
    site.cloud.run("node", "release", site.node)
    guest.checked("systemctl", "stop", "cascadia")
    guest.checked("sh", "-c", f"mkdir {STATE_DIRECTORY}.old && mv {STATE_DIRECTORY}/* {STATE_DIRECTORY}.old/")
    activate(guest, site.cloud, site.tenant)
    after = wait_active(guest)
    must(after.licence["node"] != site.node, "another TPM is the same node")
    return f"{saw}; {said}; no session; activated again as another node: {after}"


def _board_swap(site: Site, guest: Guest) -> str:
    """The board is replaced, and the TPM module is moved to it. The TPM identifies the machine; drift is reported."""
    site.cloud_up()
    guest.start()
    saw = wait_active(guest)
    said = exit_of_status(guest, 0)
    drift = wait_until("the report of the drift", lambda: _drift(site), STATE_SECONDS_MAX)
    must(drift["result"] == "mismatch", f"the drift is {drift}")
    lacking = {"product_uuid", "board_serial", "chassis_serial", "mac"} - set(drift["changed"])
    must(not lacking, f"the drift does not name {lacking}: {drift}")
    must("node.fingerprint_changed" in site.actions(), "the audit has no entry of the change")
    return f"{saw}; {said}; node show: {drift['result']}, changed {', '.join(drift['changed'])}; {site.no_clone()}"


def _drift(site: Site) -> dict[str, object] | None:
    """The drift of the node, once its fingerprint is another one."""
    drift = site.generation()["drift"]
    return dict(drift) if drift is not None and drift["changed"] else None


def _clocks(guest: Guest) -> str:
    """The dates of the real-time clock and of the system's clock."""
    real = guest.checked("cat", "/sys/class/rtc/rtc0/date").strip()
    return f"RTC {real}, clock {guest.checked('date', '-u', '+%Y-%m-%d').strip()}"


def _trusted(guest: Guest) -> str:
    """Raises Wrong if the time at which the lease is judged is not that of the cloud."""
    before = now()
    saw = seen(guest)
    off = max((before - saw.high).total_seconds(), (saw.high - now()).total_seconds(), 0.0)
    must(saw.source == "signed", f"trusted time follows {saw.source}")
    must(off <= TRUSTED_SECONDS, f"trusted time is {off:.0f} s off")
    return f"trusted time {off:.1f} s off"


def _clock_back(kernel_options: str, year: str) -> Callable[[Site, Guest], str]:
    """A row: the machine boots in the past without the cloud. The floor decides, and then the cloud's time.

    `year` is the year in which the agent must start; empty if it is that of systemd's build.
    """

    def row(site: Site, guest: Guest) -> str:
        guest.start(rtc=EPOCH, kernel_options=kernel_options)
        offline = wait_for(guest, "an open gate by trusted time", lambda one: one.open)
        clocks = _clocks(guest)
        must(f"clock {year}" in clocks, f"the agent does not start in {year}: {clocks}")
        must(not offline.contact, "the cloud answered")
        must("clock-suspect" in offline.flags, f"the clock is not suspect: {offline}")
        must(offline.source == "floor", f"trusted time follows {offline.source}")
        must(site.activated_at <= offline.high <= now(), f"trusted time is {offline.high}")
        exit_of_status(guest, 0)
        site.cloud_up()
        online = wait_active(guest)
        return f"{clocks}; offline: {offline}; online: {online}, {_trusted(guest)}; {site.no_clone()}"

    return row


def _clock_ahead(site: Site, guest: Guest) -> str:
    """A boot far ahead without the cloud: the machine may really have been off. The cloud's answer opens the gate."""
    guest.start(rtc=f"{now() + timedelta(days=DAYS_AHEAD):%Y-%m-%dT%H:%M:%S}")
    offline = wait_for(guest, "terminated by the clock", lambda one: one.state == "terminated")
    clocks = _clocks(guest)
    must(not offline.open and "clock-suspect" in offline.flags, f"not closed and suspect: {offline}")
    said = exit_of_status(guest, 86)
    site.cloud_up()
    online = wait_active(guest)
    return f"{clocks}; offline: {offline}, {said}; online: {online}, {_trusted(guest)}; {site.no_clone()}"


def _asleep(site: Site, guest: Guest) -> str:
    """The machine suspends itself to RAM without the cloud, and its lease expires meanwhile. The TPM restarts."""
    activate(guest, site.cloud, site.tenant, "--lease-seconds", SLEEP_LEASE)
    wait_active(guest)
    site.cloud_down()
    before, restarts = seen(guest), _restarts(guest)
    guest.checked("systemctl", "start", "--no-block", "suspend.target")
    wait_until("the sleep of the guest", lambda: guest.asleep, STATE_SECONDS_MAX)
    slept = before.seconds_to("expires_at")
    must(slept > 0, "the lease expired before the machine slept: this machine is too slow for the row")
    time.sleep(slept + TRUSTED_SECONDS)
    must(guest.asleep, "the guest woke by itself")
    guest.wake()
    guest.wait_shell()
    after = wait_for(guest, "in grace", lambda one: one.state == "grace")
    trusted = _trusted(guest)
    must(after.open, f"the gate is closed in grace: {after}")
    must(not after.contact or after.last_contact == before.last_contact, "the cloud answered")
    must(after.licence["lease"] == before.licence["lease"], "the lease is another one")
    must(after.hardware == "ours", f"the TPM is {after.hardware} after the sleep")
    must(_restarts(guest) > restarts, "the TPM did not restart")
    exit_of_status(guest, 0)
    site.cloud_up()
    online = wait_for(guest, "active again", lambda one: one.active)
    renew(guest)
    return f"asleep past a date, the TPM restarted: {after}, {trusted}; online: {online}; {site.no_clone()}"


def _restarts(guest: Guest) -> int:
    """The restart count of the TPM: the wake-ups since its last reset."""
    lines = guest.checked("tpm2_readclock", "-T", "device:/dev/tpmrm0").splitlines()
    return next(int(line.split(":")[1]) for line in lines if "restart_count" in line)


def _stopped(site: Site, guest: Guest) -> str:
    """A hypervisor stops the machine for a while, and lets it go on. The next answer corrects trusted time."""
    guest.pause()
    time.sleep(STOPPED_SECONDS)
    guest.resume()
    guest.wait_shell()
    renew(guest)
    return f"{wait_active(guest)}; {STOPPED_SECONDS} s stopped, {_trusted(guest)}; {site.no_clone()}"


def _restored(site: Site, guest: Guest) -> str:
    """Memory, disk and TPM go back to a snapshot. The audit names the restore. One machine is no clone."""
    guest.save("before")
    renew(guest)
    renew(guest)
    time.sleep(OVERTAKEN_SECONDS)
    guest.restore("before")
    guest.wait_shell()
    renew(guest)
    saw = wait_active(guest)
    must("node.restored" in site.actions(), f"the audit has no entry of the restore: {site.actions()}")
    return f"{saw}, {_trusted(guest)}; audit node.restored; {site.no_clone()}"


POST_REKEY = (
    'import socket; link = socket.socket(socket.AF_UNIX); link.connect("/run/cascadia/cascadia.sock"); '
    'link.sendall(b"POST /v1/renew/rekey HTTP/1.1\\r\\nHost: agent\\r\\nContent-Length: 0\\r\\n\\r\\n"); link.recv(9)'
)
"""A program for the guest that starts as quickly as a guest can. It waits for the answer."""


def _power_cut(site: Site, guest: Guest) -> str:
    """The power fails during a rekey, twice. The machine boots with the same node and a valid state."""
    cuts = []
    for pause in ("", "sleep 0.5"):
        guest.checked(
            "sh",
            "-c",
            f"python3 -c '{POST_REKEY}' >/dev/null 2>&1 & until [ -e {STATE_DIRECTORY}/renewal.json ]; do sleep 0.05; done; {pause}",
            seconds=STATE_SECONDS_MAX,
        )
        guest.kill()
        guest.start()
        saw = wait_active(guest)
        must(saw.licence["node"] == site.node, f"it is node {saw.licence['node']}, and was {site.node}")
        cuts.append(str(saw))
    return f"{'; '.join(cuts)}; the same node after {len(cuts)} cuts; {site.no_clone()}"


def _tpm_copy(site: Site, guest: Guest) -> str:
    """Disk and TPM are copied. Offline only the dates bound the copy. Online both are seen, and an operator settles it."""
    copy = site.machine()
    site.cloud_down()
    copy.start()
    offline = wait_for(copy, "active, by the dates of the lease", lambda one: one.state == "active" and one.open)
    must(not offline.contact, "the cloud answered")
    site.cloud_up()
    wait_for(copy, "answered by the cloud", lambda one: one.contact)
    renew(guest)
    case = site.case()
    for _ in range(ROUNDS_MAX):
        if case:
            break
        time.sleep(OVERTAKEN_SECONDS)
        renew(copy)
        renew(guest)
        case = site.case()
    if not case:
        raise Wrong(f"`cascade node clones` shows no clone: {_contacts(guest, copy)}")
    must({"current", "older"} <= {each["state"] for each in case["evidence"]}, f"one machine is missing: {case}")
    flagged = [wait_for(each, "flagged", lambda one: "clone-suspected" in one.flags) for each in (guest, copy)]
    for each in (guest, copy):
        exit_of_status(each, 89)
    said = status_exits(copy, 89)
    kept = _settled(site, case, guest, copy)
    return (
        f"offline to {offline.offline_bound}: {offline}; online: {case['cause']}, {len(case['evidence'])} machines, "
        f"machine {flagged[0]}, copy {flagged[1]}, {said}; {kept}"
    )


def _contacts(guest: Guest, copy: Guest) -> str:
    """The two machines, and why the last contact of each failed."""
    shown = {"machine": seen(guest), "copy": seen(copy)}
    return "; ".join(
        f"{name} {one}, last failure {(one.document or {}).get('last_failure')}" for name, one in shown.items()
    )


def _copy_before_rekey(site: Site, guest: Guest) -> str:
    """The machine gets a new node key. Its copy takes the former key back once, and the machine's renewal shows both."""
    copy = site.machine()
    guest.ask("/v1/renew/rekey", "POST", STATE_SECONDS_MAX)
    renew(guest)
    wait_active(guest)
    copy.start()
    first = wait_for(copy, "active, answered by the cloud", lambda one: one.state == "active" and one.contact)
    must(site.case() is None, f"one return of the former key is a clone: {site.case()}")
    renew(guest)
    case = site.case()
    if case is None or case["cause"] != "former-key":
        raise Wrong(f"the case is {case}: {_contacts(guest, copy)}")
    renew(copy)
    flagged = [wait_for(each, "flagged", lambda one: "clone-suspected" in one.flags) for each in (guest, copy)]
    for each in (guest, copy):
        exit_of_status(each, 89)
    for _ in range(ROUNDS_MAX):
        renew(guest)
    saw = wait_for(guest, "served", lambda one: one.state == "grace" and one.open)
    shown = saw.document or {}
    failure = shown["last_failure"]
    served = failure is None or failure["at"] < shown["last_contact_at"]
    must(served, f"the machine is refused: {_contacts(guest, copy)}")
    current = next(each["id"] for each in case["evidence"] if each["state"] == "current")
    site.cloud.run("node", "settle", site.node, "--keep", current)
    renew(guest)
    wait_active(guest)
    renew(copy)
    wait_for(copy, "suspended", lambda one: one.state == "suspended" and not one.open)
    exit_of_status(copy, 82)
    copy.kill()
    return (
        f"copy {first}; then {case['cause']}, {len(case['evidence'])} machines, machine {flagged[0]}, copy {flagged[1]}; "
        f"settled: the copy is suspended; {site.no_clone()}"
    )


def _settled(site: Site, case: dict[str, Any], guest: Guest, copy: Guest) -> str:
    """Keep the current machine. If the copy is current, correct the choice. The copy is suspended at the end."""
    current, older = (
        next(each["id"] for each in case["evidence"] if each["state"] == state) for state in ("current", "older")
    )
    site.cloud.run("node", "settle", site.node, "--keep", current)
    machines = [wait_for(each, "active or suspended", lambda one: one.state in DECIDED) for each in (guest, copy)]
    corrected = machines[0].state != "active"
    if corrected:
        site.cloud.run("node", "settle", site.node, "--keep", older)
        wait_active(guest)
    wait_for(copy, "suspended", lambda one: one.state == "suspended" and not one.open)
    exit_of_status(copy, 82)
    copy.kill()
    return f"settled{', and corrected' if corrected else ''}: the copy is suspended; {site.no_clone()}"


def _floors(site: Site, guest: Guest) -> str:
    """The node is revoked. Then the disk of before is put back, and the machine boots without the cloud."""
    site.cloud.run("node", "revoke", site.node)
    wait_for(guest, "revoked, with a floor", lambda one: one.state == "revoked" and one.floor_raised)
    guest.off()
    site.cloud_down()
    guest.put_disk_back(site.first.disk)
    guest.start()
    saw = wait_for(guest, "stale", lambda one: one.state == "stale")
    must(not saw.open, f"the gate is open: {saw}")
    said = exit_of_status(guest, 85)
    site.cloud_up()
    online = wait_for(guest, "revoked", lambda one: one.state == "revoked")
    exit_of_status(guest, 81)
    guest.run("systemctl", "restart", "cascadia", seconds=STATE_SECONDS_MAX)
    wait_until("the exit of the revoked agent", lambda: _exit_of_agent(guest) == 81, STATE_SECONDS_MAX)
    return f"the disk of before the revocation: {saw}, {said}; online: {online}; its start exits 81"


def _exit_of_agent(guest: Guest) -> int:
    """The exit code with which the agent's unit ended; -1 while it runs."""
    shown = guest.checked("systemctl", "show", "cascadia", "--property=ActiveState,ExecMainStatus").split()
    values = dict(line.split("=", 1) for line in shown)
    return int(values["ExecMainStatus"]) if values["ActiveState"] in ("failed", "inactive") else -1


class Row(NamedTuple):
    """One row.

    Attributes:
        name: for people, and for `--only`.
        do: takes a site and a machine, and returns what happened. Raises Wrong, StepFailed.
        alone: whether the row has a site for itself, and the machine is switched off and the cloud does not run.
            Otherwise both run, and the rows share them.
        fresh: whether the row begins with another copy of the running machine.
        other_chip: whether the machine has another TPM.
        board: the hardware of the machine; None for that of the activation.
    """

    name: str
    do: Callable[[Site, Guest], str]
    alone: bool = True
    fresh: bool = False
    other_chip: bool = False
    board: Board | None = None


ROWS = (
    Row("disk clone, or board swap with its TPM", _disk_clone, other_chip=True, board=OTHER_BOARD),
    Row("board swap, same TPM", _board_swap, board=OTHER_BOARD),
    Row("clock at 1970", _clock_back(CLOCK_1970, "1970")),
    Row("RTC at 1970, the clock as systemd corrects it", _clock_back("", "")),
    Row(f"clock {DAYS_AHEAD} days ahead", _clock_ahead),
    Row("stopped machine", _stopped, alone=False),
    Row("restored VM", _restored, alone=False),
    Row("TPM copy", _tpm_copy, alone=False),
    Row("copy from before a rekey", _copy_before_rekey, alone=False, fresh=True),
    Row("power cut", _power_cut, alone=False),
    Row("disk of before a revocation", _floors, alone=False),
    Row("sleeping machine", _asleep, alone=False, fresh=True),
)
