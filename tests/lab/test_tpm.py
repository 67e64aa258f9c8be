"""`lab.tpm`: the software TPM ends with its owner, and writes only to the directories of its arguments."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.processes import wait_until
from lab.tpm import SoftTpm, SoftTpmError

pytestmark = pytest.mark.slow

OWNER = """
import sys, threading, time
from pathlib import Path
from lab.tpm import SoftTpm
chip = SoftTpm(Path(sys.argv[1]))
worker = threading.Thread(target=chip.start)  # the thread that starts the chip ends before the chip
worker.start()
worker.join()
daemons = [*chip._running()[0]._daemons._children.values(), *chip._running()[1]._children.values()]
print(*(child.pid for child in daemons), chip.raw_socket.parent, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nothing_outlives_the_owner(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "chip")], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as owner:
        assert owner.stdout is not None
        *pids, runtime = owner.stdout.readline().split()
        assert len(pids) == 3
        assert all(alive(int(pid)) for pid in pids)
        os.kill(int(pids[1]), signal.SIGSTOP)  # a frozen chip has to end as well
        owner.kill()
    wait_until("the end of its processes", lambda: not any(alive(int(pid)) for pid in pids), 5)
    wait_until("the end of its files", lambda: not Path(runtime).exists(), 5)


def test_a_stopped_tpm_leaves_only_its_state(tmp_path: Path) -> None:
    with SoftTpm(tmp_path / "chip", ca=tmp_path / "ca") as chip:
        runtime = chip.raw_socket.parent
        assert chip.env["DBUS_SESSION_BUS_ADDRESS"].startswith("unix:path=")
        with pytest.raises(SoftTpmError, match="already started"):
            chip.start()
    assert not runtime.exists()
    assert chip.ek_roots_pem.is_relative_to(tmp_path)
    with pytest.raises(SoftTpmError, match="not started"):
        chip.freeze()
