"""Helper: what the drill `power-cut` cuts, and what it writes down: steps, the answers before a cut, results."""

from collections.abc import Callable
from typing import Self

import msgspec

from lab.cut_disk import Cut, Fate
from tests.system.support.whole_machines import Seen

STEPS = {
    "activation": ("activate", "activate again"),
    "refresh": ("renew", "rekey"),
    "floor": ("suspend",),
    "upgrade": ("upgrade",),
}
"""Phase -> its steps."""
PHASES = tuple(STEPS)
STEP_SECONDS_MAX = 900.0
"""How long a step or an awaited state may take on a busy machine."""
POLL_STEP_SECONDS = 0.05
LATE = 1.15
"""The last moment of a cut, as a share of the step's usual time: some cuts come just after the step."""
FATES: tuple[Fate, ...] = ("lost", "mixed", "mixed", "kept")
USABLE = ("active", "refresh-due")
PREPARE = """
printf 'heartbeat_seconds = 5\\nsettle_seconds = 30\\n' >/etc/cascadia/conf.d/lab.toml
chown root:cascadia /etc/cascadia/conf.d/lab.toml
mkdir /etc/systemd/system/cascadia.service.d
printf '[Service]\\nCPUQuota=\\n' >/etc/systemd/system/cascadia.service.d/lab.conf
systemctl daemon-reload
sync
"""
"""Short pauses between contacts, and no limit of the processor: the guest is ten to thirty times slower than a machine."""

_UNNEEDED = (
    "dbus.service", "dbus.socket", "dev-hugepages.mount", "dev-mqueue.mount", "e2scrub_reap.service", "getty.target",
    "kmod-static-nodes.service", "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service",
    "modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service",
    "proc-sys-fs-binfmt_misc.automount", "serial-getty@ttyS0.service", "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-binfmt.service",
    "systemd-logind.service", "systemd-modules-load.service", "systemd-pstore.service", "systemd-sysusers.service",
    "systemd-update-utmp-runlevel.service", "systemd-update-utmp.service",
)  # fmt: skip
KERNEL_OPTIONS = " ".join(f"systemd.mask={unit}" for unit in _UNNEEDED)
"""The agent needs none of these units. Without them a boot needs a third less of the processor."""


class Before(msgspec.Struct, frozen=True):
    """What the machine had answered before a cut."""

    node: str
    generation: int
    order: tuple[int, int]
    """Epoch and number of the lease."""
    counter: int
    state: str
    """State of the licence."""

    @classmethod
    def of(cls, saw: Seen) -> Self:
        licence, document = saw.licence, saw.document or {"floor": {"value": 0}}
        lease = licence.get("lease") or {"epoch": 0, "seq": 0}
        return cls(
            node=str(licence.get("node", "")),
            generation=int(licence.get("generation", 0)),
            order=(lease["epoch"], lease["seq"]),
            counter=int(document["floor"]["value"]),
            state=saw.state,
        )


Ended = Callable[[float], bool]
"""Waits at most these seconds for the end of a step. Returns whether it has ended."""


class Step(msgspec.Struct):
    """A step of a phase: how it starts, and its usual seconds and writes, measured without a cut."""

    start: Callable[[], Ended]
    seconds: float = 0.0
    writes: int = 0


class Result(msgspec.Struct, frozen=True):
    """A cut after which all was right."""

    phase: str
    step: str
    moment: str
    within: bool
    """Whether the step still ran."""
    disk: Cut
    offline: bool
    found: str
    """What the boot found."""
    boot_seconds: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.phase} ({self.step}) cut {self.moment}{'' if self.within else ', after its end'}; disk: {self.disk}; "
            f"{'booted offline' if self.offline else 'booted'} in {self.boot_seconds:.0f} s; {self.found} after {self.seconds:.0f} s"
        )
