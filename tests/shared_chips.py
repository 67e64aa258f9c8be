"""Software TPMs of the tests. Each is made once a run: making one takes a second or two, mostly for its RSA keys.

The tests of every worker process copy the same chips. So chips of one number are clones with the same endorsement key,
and chips of two numbers are two machines. All chips of a run have one maker.
"""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from lab.tpm import SoftTpm, shared_bus


def shared_chip(factory: pytest.TempPathFactory, directory: Path, number: int = 0) -> SoftTpm:
    """A stopped copy, in the new `directory`, of the chip of this number. The first caller of a run makes the chip."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    store = base / "shared-chips"
    store.mkdir(exist_ok=True)
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        chip = SoftTpm(store / str(number), ca=store / "maker", bus=shared_bus())
        try:
            chip.manufacture()
        except BaseException:  # also a cancelled test leaves no half-made chip to the others
            shutil.rmtree(chip.directory, ignore_errors=True)
            raise
    return chip.copy_to(directory)
