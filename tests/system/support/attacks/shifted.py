"""Real part: a machine whose wall clock is wrong. The other clocks of the kernel stay.

A preloaded library shifts the clock of a whole process, also that of OpenSSL and TUF. Without the library the clock of
the agent's own modules is shifted, which is much quicker, because the process can be forked.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.machine import Machine
from lab.processes import Process, Side, StepFailed, installed
from lab.tpm import SoftTpm
from node.licensing.boot_time import RECORD
from tests.system.support.harness import Plan

_SOURCE = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    const char *path = getenv("CLOCK_SHIFT_FILE");
    char text[32];
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    if (size <= 0) return 0;
    text[size] = 0;
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, clock, at);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def library(directory: Path) -> Path:
    """Compile the library into a directory. Raises StepFailed without a C compiler."""
    source, made = directory / "shift.c", directory / "shift.so"
    source.write_text(_SOURCE)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(made), str(source)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise StepFailed(f"cannot compile the shifted clock (Debian packages: gcc libc6-dev): {error}") from error
    return made


@dataclass(frozen=True)
class _Start:
    """Starts `cascadia run` and `cascadia activate` with the library. The running agent answers the other commands."""

    library: Path | None
    shift: Path

    def __call__(self, directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        if self.library is None or arguments[0] not in ("run", "activate"):
            return Plan(clock=str(self.shift))(directory, side, *arguments, env=env)
        preloaded = {"LD_PRELOAD": str(self.library), "CLOCK_SHIFT_FILE": str(self.shift)}
        return installed(directory, side, *arguments, env={**(env or {}), **preloaded})


class ShiftedMachine(Machine):
    """A machine in a new directory. `shift` has the error of its clock in seconds; its processes read it at each call."""

    def __init__(self, directory: Path, chip: SoftTpm, made: Path | None, name: str = "machine") -> None:
        """`made` is the library; None for a clock of the agent's own modules."""
        self.shift = directory / f"shift of {name}"
        super().__init__(directory, chip, name, start=_Start(made, self.shift))
        self.set(0)

    def set(self, seconds: float) -> None:
        """Set the wall clock wrong by some seconds."""
        self.shift.write_text(str(int(seconds)))

    def boot(self) -> None:
        """Start the agent as in a new boot."""
        self.down()
        (self.socket.parent / RECORD).unlink(missing_ok=True)
        self.up()
