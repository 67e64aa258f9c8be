"""Helper: whole machines and their cloud, for the drill `machine`. Each site starts with one activated machine.

`Past` makes the common past of all sites: a machine that is activated in its cloud, and then switched off. A `Site` has
a copy of that cloud, and copies of that machine. So no site sees what another one does.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lab.cloud import PORTS, Cloud
from lab.guest import COMMAND_SECONDS_MAX, Board, Guest
from lab.guest_image import Image
from lab.processes import StepFailed, accepts, ended, wait_until
from lab.tpm import SoftTpm

STATE_SECONDS_MAX = 600.0
"""How long an awaited state may take. On an idle machine without KVM an agent starts in about 10 s."""
POLL_SECONDS = 1.0
FILE = "/root/activation.json"
STATE_DIRECTORY = "/var/lib/cascadia"
ACTIVE = "active"
"""Name of the snapshot of the activated machine, while it runs."""


class Wrong(Exception):
    """A row saw something that must not be."""


class Seen(msgspec.Struct, frozen=True):
    """One answer of the agent's socket. `document` is the status document; None if no agent answered."""

    document: dict[str, Any] | None = None

    @property
    def licence(self) -> dict[str, Any]:
        """The licence document; empty without an answer."""
        return dict(self.document["license"]) if self.document else {}

    @property
    def state(self) -> str:
        """The state of the licence; `no agent` without an answer."""
        return str(self.licence.get("state", "no agent"))

    @property
    def open(self) -> bool:
        """Whether the gate is open."""
        return self.licence.get("gate") == "open"

    @property
    def flags(self) -> frozenset[str]:
        """The flags of the licence."""
        return frozenset(self.licence.get("flags", ()))

    @property
    def conditions(self) -> frozenset[str]:
        """The codes of what is wrong."""
        return frozenset(each["code"] for each in (self.document or {}).get("conditions", ()))

    @property
    def contact(self) -> bool:
        """Whether the cloud has answered since the agent started."""
        return bool(self.document and self.document["last_contact_at"])

    @property
    def active(self) -> bool:
        """Whether the licence is active by an answer of the cloud, and the gate open."""
        return self.contact and self.state == "active" and self.open

    @property
    def last_contact(self) -> str:
        """The time of the last answer of the cloud; empty without one."""
        return str((self.document or {}).get("last_contact_at") or "")

    @property
    def hardware(self) -> str:
        """The last answer of the TPM."""
        return str((self.document or {}).get("hardware", ""))

    @property
    def offline_bound(self) -> str:
        """The date to which the state directory could run without the cloud."""
        return str((self.document or {}).get("offline_bound_at", ""))

    @property
    def floor_raised(self) -> bool:
        """Whether the floor record is current, and the counter fits it."""
        if self.document is None:
            return False
        return self.document["floor"]["record_state"] == "current" and "floor_not_raised" not in self.conditions

    @property
    def floor_known(self) -> bool:
        """Whether the TPM has answered, so that the floor record is compared with the counter."""
        return self.document is not None and self.document["floor"]["record_state"] != "unjudged"

    def seconds_to(self, date: str) -> float:
        """The seconds until a date of the lease, by the clock of this machine."""
        return (datetime.fromisoformat(self.licence["lease"][date]) - now()).total_seconds()

    @property
    def high(self) -> datetime:
        """The time at which the lease is judged, aware. Raises Wrong without one."""
        time_document = (self.document or {}).get("time")
        if not time_document:
            raise Wrong(f"the agent has no trusted time: {self}")
        return datetime.fromisoformat(time_document["high_at"])

    @property
    def source(self) -> str:
        """What the trusted time follows."""
        return str(((self.document or {}).get("time") or {}).get("source", ""))

    def __str__(self) -> str:
        codes = ", ".join(sorted(self.flags | self.conditions))
        return f"{self.state}, gate {'open' if self.open else 'closed'}" + (f" ({codes})" if codes else "")


def seen(guest: Guest, seconds: float = COMMAND_SECONDS_MAX) -> Seen:
    """What the agent in the guest answers now, within some seconds."""
    try:
        return Seen(guest.ask("/v1/status", seconds=seconds))
    except StepFailed:  # the agent ended during the answer, or the guest is slow
        return Seen()


def wait_for(guest: Guest, what: str, good: Callable[[Seen], bool], seconds: float = STATE_SECONDS_MAX) -> Seen:
    """Ask the agent until the answer is good. Raises Wrong with the last answer."""
    until = time.monotonic() + seconds
    while True:
        last = seen(guest)
        if good(last):
            return last
        if time.monotonic() > until:
            raise Wrong(f"not {what} within {seconds:.0f} s, but {last}")
        time.sleep(POLL_SECONDS)


def wait_active(guest: Guest, seconds: float = STATE_SECONDS_MAX) -> Seen:
    """Wait until the licence is active by an answer of the cloud."""
    return wait_for(guest, "active by an answer of the cloud", lambda one: one.active, seconds)


def must(holds: bool, text: str) -> None:
    """Raise Wrong with the text unless it holds."""
    if not holds:
        raise Wrong(text)


def exit_of_status(guest: Guest, expected: int) -> str:
    """Ask the agent with which code `cascadia status` exits now. Returns what it says. Raises Wrong for another code.

    `status_exits` runs the command, which takes long in a guest.
    """
    licence = seen(guest).licence
    must(
        licence.get("exit_code") == expected, f"`cascadia status` would exit {licence.get('exit_code')}, not {expected}"
    )
    return f"exit {expected}: {licence['reason']}"


def status_exits(guest: Guest, expected: int) -> str:
    """Run `cascadia status` in the guest. Raises Wrong if it exits with another code than `expected`."""
    done = guest.cascadia("status", seconds=STATE_SECONDS_MAX)
    must(done.status == expected, f"`cascadia status` exited {done.status}, not {expected}")
    return f"`cascadia status` exits {expected}"


def renew(guest: Guest) -> None:
    """Ask the agent for a renewal: another session, which spends a renewal token. A refusal shows in the next status."""
    guest.ask("/v1/renew", "POST", STATE_SECONDS_MAX)


def now() -> datetime:
    """The time of this machine, aware."""
    return datetime.now(UTC)


class Site:
    """A cloud and its machines. `node` is the activated node. The cloud runs from `cloud_up` to `cloud_down`."""

    def __init__(self, past: "Past", directory: Path, stack: ExitStack) -> None:
        directory.mkdir()
        self.tenant, self.node, self.first = past.tenant, past.node, past.first
        self.activated_at = past.activated_at
        self.other_chip = past.other_chip.directory
        """The state of another TPM of the same maker."""
        self.cloud = Cloud(directory, seconds=STATE_SECONDS_MAX).copy_from(past.cloud)
        self._past = past
        self._directory = directory
        self._stack = stack
        stack.enter_context(ended(self.cloud))
        self._guests = 0

    def machine(self, *, chip: Path | None = None, board: Board | None = None) -> Guest:
        """A copy of the activated machine, with a copy of its TPM unless `chip` is another one. It is switched off."""
        self._guests += 1
        guest = self.first.copied(self._directory / f"m{self._guests}", chip=chip, board=board)
        self._past.guests.append(guest)
        return self._stack.enter_context(guest)

    def running(self) -> Guest:
        """A copy of the activated machine that runs on from its snapshot. The cloud runs too. Raises Wrong, StepFailed."""
        self._guests += 1
        self.cloud_up()
        guest = self._stack.enter_context(self.first.copied_running(self._directory / f"m{self._guests}", ACTIVE))
        self._past.guests.append(guest)
        renew(guest)
        wait_active(guest)
        return guest

    def cloud_up(self) -> None:
        """Start the cloud, and wait until it accepts connections."""
        self.cloud.up(wait=False)
        wait_until("the start of the cloud", self._cloud_answers, STATE_SECONDS_MAX)

    def cloud_down(self) -> None:
        """Stop the cloud."""
        self.cloud.down()

    def _cloud_answers(self) -> bool:
        return all(accepts(self.cloud.port + offset) for offset in range(PORTS))

    def case(self) -> dict[str, Any] | None:
        """The suspected clone, as `cascade node clones` shows it; None if none is suspected."""
        found = self.cloud.run("node", "clones", self.tenant)
        return dict(found[0]) if found else None

    def no_clone(self) -> str:
        """Raises Wrong if a clone is suspected."""
        case = self.case()
        must(case is None, f"a clone is suspected: {case}")
        return "no clone is suspected"

    def actions(self) -> list[str]:
        """The actions in the audit of the node."""
        return [entry["action"] for entry in self.cloud.run("audit", "list", "--object", self.node)]

    def generation(self) -> dict[str, Any]:
        """The newest generation of the node, as `cascade node show` shows it."""
        return dict(self.cloud.run("node", "show", self.node)["generations"][0])


class Past:
    """The activated machine, its cloud, and a second TPM. `close` removes nothing: the folder is the caller's."""

    def __init__(self, folder: Path, image: Image) -> None:
        self.chip = SoftTpm(folder / "chip")
        self.other_chip = SoftTpm(folder / "other", ca=self.chip.ca)
        self.cloud = Cloud(folder, seconds=STATE_SECONDS_MAX)
        self.tenant = self.node = ""
        self._folder = folder
        self._image = image
        self._sites = 0
        self.guests: list[Guest] = []
        """Every machine of this run."""

    def activate(self) -> str:
        """A machine of the shop floor: it boots, is activated with a file, and the agent starts. Then all is off.

        Returns what was seen. Raises Wrong, StepFailed.
        """
        self.chip.manufacture()
        self.other_chip.manufacture()
        self.first = Guest(self._folder / "first", self._image, self.chip.directory)
        self.guests.append(self.first)
        with ended(self.cloud), self.first as first:
            self.cloud.init("--host", "localhost", "--bind", "127.0.0.1")
            self.cloud.up(wait=False)
            first.start()
            self.cloud.wait_up()
            self.tenant = self.cloud.tenant(self.chip)
            activate(first, self.cloud, self.tenant)
            saw = wait_active(first)
            mode = str((saw.document or {})["mode"])
            must(mode == "production", f"the agent is in mode {mode}")
            self.node = str(saw.licence["node"])
            self.activated_at = datetime.fromisoformat(saw.licence["lease"]["issued_at"])
            device = first.checked("ls", "/dev/tpmrm0").strip()
            first.save(ACTIVE)
            first.off()
            self.cloud.down()
        return f"{saw}; {mode}, {device}"

    @contextmanager
    def site(self) -> Iterator[Site]:
        """A copy of the cloud, which does not run yet. Every process of the site ends with the block."""
        self._sites += 1
        directory = self._folder / f"s{self._sites}"
        with ExitStack() as stack:
            yield Site(self, directory, stack)
        shutil.rmtree(directory, ignore_errors=True)

    @property
    def boots(self) -> int:
        """How often a machine was switched on."""
        return sum(guest.boots for guest in self.guests)

    @property
    def boot_seconds(self) -> float:
        """The median time from the power to the first command."""
        times = [seconds for guest in self.guests for seconds in guest.boot_seconds]
        return statistics.median(times) if times else 0.0


def activate(guest: Guest, cloud: Cloud, tenant: str, *options: str) -> None:
    """Activate a machine with a new code, and start its agent. `options` are of `cascade code create`. Raises Wrong."""
    guest.write(FILE, cloud.code(tenant, *options).read_text())
    guest.checked("systemctl", "stop", "cascadia", seconds=STATE_SECONDS_MAX)
    done = guest.cascadia("activate", FILE, seconds=STATE_SECONDS_MAX)
    must(done.status == 0, f"`cascadia activate` exited {done.status}: {(done.out + done.error)[-600:]}")
    guest.checked("systemctl", "start", "cascadia", seconds=STATE_SECONDS_MAX)
