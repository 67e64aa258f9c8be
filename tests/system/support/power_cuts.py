"""Helper: machines whose power fails, for the drill `power-cut`. Each cut is followed by a boot and by checks.

A cut happens while one step runs: at a random time of the step, or before a random write of the step to the disk. What
the agent has answered before the cut must hold after it: the node, the generation, the order of the lease, the counter.
"""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from lab.cloud import Cloud
from lab.cut_disk import CutDisk
from lab.guest import Guest
from lab.guest_image import Image
from lab.processes import StepFailed, ended, wait_until
from lab.tpm import SoftTpm
from tests.drills.frame import Say
from tests.system.support.package_server import served
from tests.system.support.package_versions import REINSTALL
from tests.system.support.power_cut_results import (
    FATES,
    KERNEL_OPTIONS,
    LATE,
    POLL_STEP_SECONDS,
    PREPARE,
    STEP_SECONDS_MAX,
    STEPS,
    USABLE,
    Before,
    Ended,
    Result,
    Step,
)
from tests.system.support.whole_machines import FILE, Seen, must, seen, wait_for


class Supply:
    """The cloud, and the machines that follow one another. `machines` counts them."""

    def __init__(self, folder: Path, image: Image, debs: Sequence[Path], choose: random.Random, say: Say) -> None:
        self.image, self.debs, self.choose, self.say = image, debs, choose, say
        self.folder = folder
        self.cloud = Cloud(folder, seconds=STEP_SECONDS_MAX)
        self.machines = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(ended(self.cloud))
        self.cloud.init("--host", "localhost", "--bind", "127.0.0.1")
        self.cloud.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def machine(self) -> "CutMachine":
        """A machine with the agent, activated and running. Every step was measured once. Raises Wrong, StepFailed."""
        self.machines += 1
        self.say(f"machine {self.machines}")
        machine = CutMachine(self, self.folder / f"m{self.machines}")
        self._stack.callback(machine.close)
        machine.begin()
        return machine


class CutMachine:
    """One machine, its disk and its TPM."""

    def __init__(self, supply: Supply, directory: Path) -> None:
        self._supply = supply
        self._cloud, self._choose = supply.cloud, supply.choose
        self._stack = ExitStack()
        self._chip = SoftTpm(directory / "maker")
        self._disk = self._stack.enter_context(CutDisk(directory / "disk", supply.image.disk))
        self._directory = directory
        self._deb = 0
        self._saw = Seen()
        """The last answer of the agent."""
        self._steps = {
            "activate": Step(self._activating),
            "activate again": Step(self._activating),
            "renew": Step(lambda: self._begun("ask-agent", "POST", "/v1/renew")),
            "rekey": Step(lambda: self._begun("ask-agent", "POST", "/v1/renew/rekey")),
            "suspend": Step(self._suspending),
            "upgrade": Step(lambda: self._begun("dpkg", "-i", f"/root/{self._deb}.deb")),
        }

    def close(self) -> None:
        """End every process of the machine."""
        self._stack.close()

    def told(self) -> str:
        """The last lines of the guest's journal, and what the agent answers. Empty if the guest does not answer."""
        with suppress(StepFailed):
            journal = self._guest.run("journalctl", "--no-pager", "--lines=60", "--output=short-monotonic", seconds=30)
            return f"{journal.out[-8000:]}\n{seen(self._guest, 10).document}"
        return ""

    # The steps without a cut

    def begin(self) -> None:
        """Install, activate, and measure the steps. The installation stands for an upgrade. Raises Wrong, StepFailed."""
        self._chip.manufacture()
        drive = f"driver=nbd,server.type=unix,server.path={self._disk.socket}"
        self._guest = self._stack.enter_context(
            Guest(self._directory / "g", self._supply.image, self._chip.directory, drive=drive)
        )
        self._tenant = self._cloud.tenant(self._chip, f"acme-{self._supply.machines}")
        self._disk.plug()
        self._guest.start(kernel_options=KERNEL_OPTIONS)
        with served(self._supply.debs[0].parent) as port:
            for number, deb in enumerate(self._supply.debs):
                get = "import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])"
                url = f"http://10.0.2.2:{port}/{deb.name}"
                wait_until("the copy of the deb", lambda: self._done("python3", "-c", get, url, f"/root/{number}.deb"))  # noqa: B023 - called at once
        self._measure("upgrade")
        self._guest.checked("sh", "-ec", PREPARE)
        self._new_code()
        self._measure("activate")
        self._active()
        self._steps["activate again"] = msgspec.structs.replace(self._steps["activate"])
        for name in ("renew", "rekey", "suspend"):
            self._measure(name)
            if name == "suspend":
                self._cloud.run("node", "resume", self._node)
            self._active()

    def _measure(self, name: str) -> None:
        step, writes = self._steps[name], self._disk.writes
        ended_well, began = step.start(), time.monotonic()
        if not ended_well(STEP_SECONDS_MAX):
            raise StepFailed(f"{name} did not end within {STEP_SECONDS_MAX:.0f} s")
        step.seconds, step.writes = time.monotonic() - began, max(1, self._disk.writes - writes)
        self._supply.say(f"{name} takes {step.seconds:.1f} s and {step.writes} writes")

    def _prepare(self, name: str) -> None:
        """Bring the active machine to where a step can begin."""
        if name == "activate":
            done = self._guest.cascadia("deactivate", "--yes", seconds=STEP_SECONDS_MAX)
            must(done.status == 0, f"`cascadia deactivate` exited {done.status}: {done.out + done.error}")
            self._saw = Seen()
            self._new_code()
        elif name == "activate again":
            self._guest.checked("systemctl", "stop", "cascadia", seconds=STEP_SECONDS_MAX)
            self._new_code()
        elif name == "upgrade":
            self._deb = 1 - self._deb

    def _new_code(self) -> None:
        self._guest.write(FILE, self._cloud.code(self._tenant).read_text())

    def _done(self, *argv: str) -> bool:
        return self._guest.run(*argv, seconds=STEP_SECONDS_MAX).status == 0

    def _begun(self, *argv: str) -> Ended:
        """Start a command in the guest. Raises Wrong at its end if it has failed."""
        answered = self._guest.begin(*argv, seconds=STEP_SECONDS_MAX)

        def ended_well(seconds: float) -> bool:
            done = answered(seconds)
            must(done is None or done.status == 0, f"`{' '.join(argv)}`: {done}")
            return done is not None

        return ended_well

    def _activating(self) -> Ended:
        return self._begun("cascadia", "activate", FILE)

    def _suspending(self) -> Ended:
        """Suspend the node in the cloud, and begin. The step ends when the agent has raised its floor for it."""
        self._cloud.run("node", "suspend", self._node)

        def raised(seconds: float) -> bool:
            until = time.monotonic() + seconds
            while not self._disk.stopped.is_set() and time.monotonic() < until:
                saw = seen(self._guest, 1.0)
                self._saw = saw if saw.document else self._saw
                if saw.state == "suspended" and saw.floor_raised:
                    return True
            return False

        return raised

    def _active(self) -> Seen:
        """Wait until the licence is active by an answer of the cloud, and its floor record fits. Raises Wrong."""
        self._saw = wait_for(
            self._guest, "active with a floor", lambda one: one.active and one.floor_raised, STEP_SECONDS_MAX
        )
        return self._saw

    @property
    def _node(self) -> str:
        return Before.of(self._saw).node

    # A cut

    def cut(self, phase: str) -> Result:
        """Cut the power in a step of the phase, boot, check, and bring the machine back to active.

        Raises Wrong, StepFailed.
        """
        name = self._choose.choice(STEPS[phase])
        self._prepare(name)
        former = Before.of(self._saw).generation
        moment, within = self._until_cut(self._steps[name])
        self._guest.kill()
        disk = self._disk.cut(self._choose, self._choose.choice(FATES))
        before = Before.of(self._saw)
        offline = phase != "activation" and self._choose.random() < 0.5
        began = time.monotonic()
        self._disk.plug()
        self._guest.start(wait=False, kernel_options=KERNEL_OPTIONS)
        if offline:
            self._guest.link(up=False)
        self._guest.wait_shell()
        boot_seconds = time.monotonic() - began
        errors = self._guest.checked("sh", "-c", "dmesg | grep -E 'EXT4-fs (error|warning)|I/O error' || true")
        must(errors == "", f"the file system is damaged: {errors}")
        if phase == "activation":
            found = self._activated(name, former)
        else:
            found = self._judged(before, offline, suspended=name == "suspend")
        seconds = time.monotonic() - began
        if offline:
            self._guest.link(up=True)
        if name == "upgrade":
            found += self._repaired()
        if name == "suspend":
            saw = wait_for(self._guest, "suspended with a floor", _suspended, STEP_SECONDS_MAX)
            self._check(before, saw)
            self._cloud.run("node", "resume", before.node)
        self._check(before, self._active())
        return Result(phase, name, moment, within, disk, offline, found, boot_seconds, seconds)

    def _until_cut(self, step: Step) -> tuple[str, bool]:
        """Run a step to the moment of the cut. Returns the moment, and whether the step still ran."""
        seconds, writes = STEP_SECONDS_MAX, 0
        if self._choose.random() < 0.5:
            seconds = self._choose.uniform(0.0, step.seconds * LATE)
            moment = f"{seconds:.2f} s of {step.seconds:.1f} s"
        else:
            writes = self._choose.randint(1, round(step.writes * LATE))
            self._disk.stop_at(writes)
            moment = f"at write {writes} of {step.writes}"
        ended_well, until = step.start(), time.monotonic() + seconds
        while not self._disk.stopped.is_set() and (left := until - time.monotonic()) > 0:
            if ended_well(min(left, POLL_STEP_SECONDS)):
                saw = seen(self._guest, 5.0)
                self._saw = saw if saw.document else self._saw
                return moment, False
        must(writes == 0 or self._disk.stopped.is_set(), f"the step did not end within {STEP_SECONDS_MAX:.0f} s")
        return moment, True

    def _repaired(self) -> str:
        """Finish the upgrade as a person does. Returns what was needed."""
        state = self._package_state()
        if state == "ii" and self._guest.checked("dpkg", "--audit") == "":
            return ""
        done = self._guest.run("dpkg", "--configure", "-a", seconds=STEP_SECONDS_MAX)
        must(done.status == 0 or REINSTALL in done.error, f"`dpkg --configure -a` exited {done.status}: {done.error}")
        if self._package_state() == "ii":
            return f", and dpkg configured a package in state {state}"
        # A package that was unpacked in part is unpacked again.
        self._guest.checked("dpkg", "-i", f"/root/{self._deb}.deb", seconds=STEP_SECONDS_MAX)
        must(self._package_state() == "ii", f"the package is in state {self._package_state()}")
        return f", and dpkg installed a package in state {state} again"

    def _package_state(self) -> str:
        return self._guest.checked("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "cascadia").strip()

    def _judged(self, before: Before, offline: bool, *, suspended: bool) -> str:
        """Wait until the agent has judged the licence by itself. Raises Wrong if the judgement is not right."""
        good: tuple[str, ...] = () if before.state == "suspended" else USABLE
        if suspended:
            good = (*good, "suspended", "stale")
        saw = wait_for(
            self._guest,
            f"judged as {' or '.join(good)}",
            lambda one: one.state in good and one.floor_known and (offline or one.contact),
            STEP_SECONDS_MAX,
        )
        must(not (offline and saw.contact), "the cloud answered without a network")
        must(saw.open == (saw.state in USABLE), f"the gate does not fit: {saw}")
        self._check(before, saw)
        return f"{saw.state}{' without a network' if offline else ''}"

    def _activated(self, name: str, former: int) -> str:
        """Wait until the agent is active, by itself or by a repeat of the command. Raises Wrong.

        `former` is the generation before the step.
        """
        unit = wait_until("the start of the agent, or its end", self._settled, STEP_SECONDS_MAX)
        found = "active by itself"
        if unit != "active":
            must(name == "activate", f"the agent of an activated machine is {unit}")
            found = f"{unit}, and the same command activated it"
            self._activate_by_hand()
        elif self._active().licence["generation"] == former:
            found = "active in the former generation, and the same command activated it"
            self._guest.checked("systemctl", "stop", "cascadia", seconds=STEP_SECONDS_MAX)
            self._activate_by_hand()
        taken = self._cloud.rows("fabric", "SELECT sum(seats_taken) FROM code WHERE tenant = ?", self._tenant)
        must(taken == [(1,)], f"{taken} seats are taken")
        return found

    def _activate_by_hand(self) -> None:
        done = self._guest.cascadia("activate", FILE, seconds=STEP_SECONDS_MAX)
        must(done.status == 0, f"`cascadia activate` exited {done.status}: {(done.out + done.error)[-1500:]}")
        self._active()

    def _settled(self) -> str:
        """The state of the agent's unit; empty while it starts."""
        shown = self._guest.checked("systemctl", "show", "cascadia", "-p", "ActiveState,ConditionResult,ExecMainStatus")
        values = dict(line.split("=", 1) for line in shown.split())
        if values["ActiveState"] == "active":
            return "active"
        if values["ActiveState"] == "failed":
            return f"failed ({values['ExecMainStatus']})"
        return "not activated" if values["ActiveState"] == "inactive" and self._booted() else ""

    def _booted(self) -> bool:
        """Whether the boot has started all that it starts."""
        return self._guest.run("systemctl", "is-system-running").out.strip() in ("running", "degraded")

    def _check(self, before: Before, saw: Seen) -> None:
        """Raise Wrong if something of before the cut is lost."""
        after = Before.of(saw)
        if before.node:
            must(after.node == before.node, f"it was node {before.node}, and is {after.node}")
        must(after.generation >= before.generation, f"generation {before.generation} became {after.generation}")
        must(after.counter >= before.counter, f"the counter went from {before.counter} to {after.counter}")
        if after.order != (0, 0):
            must(after.order >= before.order, f"the lease {before.order} became {after.order}")
        must("state-damaged" not in saw.flags and not (saw.document or {})["damaged"], f"damaged: {saw.document}")

    def check_end(self) -> None:
        """Raise Wrong if the cloud has seen something that is wrong in the life of the machine."""
        found = self._cloud.run("node", "clones", self._tenant)
        must(not found, f"a clone is suspected: {found}")


def _suspended(saw: Seen) -> bool:
    """Whether the cloud has said that the node is suspended, and the floor has it."""
    return saw.contact and saw.state == "suspended" and saw.floor_raised
