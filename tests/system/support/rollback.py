"""Table of attacks that put older files back, on a real cloud, machine and software TPM.

`History` takes one machine through its life and keeps a copy of the state directory at each stage. A row makes one
attack on the last directory of a stage, and names the state and the exit code of `cascadia status`. The command needs no
running agent, and asks no cloud: it judges as a start without the cloud does.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import Start, wait_until
from node.hwbind import counter
from node.hwbind.tpm import Esys, Tpm
from node.licensing.floor_store import FloorStore
from protocol.evidence import NvCounter
from tests.simulators import chip_memory

TRUST_DOMAIN = "cascade.internal"


class History:
    """One machine from its activation to its revocation. `copies` has its state directory after each stage.

    The stages: `active`; `suspended`; `resumed`; `again`, after another activation in the same directory; `revoked`.
    """

    def __init__(self, cloud: Cloud, machine: Machine, tenant: str, directory: Path, start: Start) -> None:
        """`start` starts the processes of another machine."""
        self.cloud, self.machine, self.tenant, self.directory = cloud, machine, tenant, directory
        self.start = start
        self.copies: dict[str, Path] = {}
        self.node = ""
        self.stage = ""

    @property
    def state(self) -> Path:
        """The state directory of the machine."""
        return self.machine.state

    def activate(self) -> None:
        """The stage `active`."""
        self.node = str(self.machine.run("activate", str(self.cloud.code(self.tenant)))["node"])
        self._live("active", "active")

    def suspend(self) -> None:
        """The stage `suspended`."""
        self.cloud.run("node", "suspend", self.node)
        self._live("suspended", "suspended")

    def resume(self) -> None:
        """The stage `resumed`."""
        self.cloud.run("node", "resume", self.node)
        self._live("resumed", "active")

    def activate_again(self) -> None:
        """The stage `again`."""
        self.machine.run("activate", str(self.cloud.code(self.tenant)))
        self._live("again", "active")

    def revoke(self) -> None:
        """The stage `revoked`."""
        self.cloud.run("node", "revoke", self.node)
        assert self.machine.launch().wait() == 81
        self._keep("revoked")

    def _live(self, stage: str, state: str) -> None:
        """Run the agent until it has heard the stage's statement, and its floor has risen."""
        self.machine.up()
        self.machine.wait_state(state)
        wait_until(f"the floor of {stage}", self._risen)
        assert self.machine.down() == 0
        self._keep(stage)

    def _risen(self) -> bool:
        status = self.machine.ask("/v1/status")
        conditions = {one["code"] for one in status["conditions"]}
        return status["floor"]["standing"] == "current" and "floor_not_raised" not in conditions

    def _keep(self, stage: str) -> None:
        self.copies[stage], self.stage = self.directory / f"copy-{stage}", stage
        shutil.copytree(self.state, self.copies[stage])

    def put_back(self, stage: str) -> None:
        """Replace the whole state directory by the copy of a stage."""
        shutil.rmtree(self.state)
        shutil.copytree(self.copies[stage], self.state)

    def put_file_back(self, stage: str, *names: str) -> None:
        """Replace single files or directories by those of a stage."""
        for name in names:
            here, there = self.state / name, self.copies[stage] / name
            if here.is_dir():
                shutil.rmtree(here)
            elif here.exists():
                here.unlink()
            if there.is_dir():
                shutil.copytree(there, here)
            elif there.exists():
                shutil.copy2(there, here)

    def shown(self) -> tuple[str, int]:
        """State and exit code of `cascadia status` without a running agent."""
        document = self.machine.run("status", expect=None)["license"]
        return str(document["state"]), int(document["exit_code"])

    def call(self, work: Callable[[Esys], object]) -> None:
        """Use the TPM of the machine."""
        port = Tpm(self.machine.chip.tcti)
        try:
            port.call(work)
        finally:
            port.close()

    @property
    def label(self) -> str:
        """The label of the node's counter."""
        return f"{TRUST_DOMAIN}/{self.node}"


ACTIVE, STALE, REVOKED = ("active", 0), ("stale", 85), ("revoked", 81)
SUSPENDED, OTHER = ("suspended", 82), ("hardware-mismatch", 84)
LEASE_1 = ("licence/g-1/statement.json", "identity/statement-g-1.json")
LEASE_2 = ("licence/g-2", "identity/statement-g-2.json")
RECORD = ("licence/floors.json", "identity/floors.json")


class Row(NamedTuple):
    """One attack. `stage` is the last stage of the machine; the directory of this stage is there before the attack."""

    attack: str
    stage: str
    do: Callable[[History], None]
    expected: tuple[str, int]
    quick: bool = False
    """Whether `make test` takes the row."""


def _record(history: History, change: Callable[[bytes], bytes]) -> None:
    for path in FloorStore(history.state).paths:
        path.write_bytes(change(path.read_bytes()))


def _without(*names: str) -> Callable[[History], None]:
    def do(history: History) -> None:
        history.put_file_back("active", *LEASE_1)
        for name in names:
            (history.state / name).unlink()

    return do


def _edit(history: History) -> None:
    history.put_file_back("active", *LEASE_1)
    _record(history, lambda data: data.replace(b".", b"-", 1))


def _swap(history: History) -> None:
    """Both copies are those of another node, which another tenant has activated on the same chip."""
    other = Machine(history.directory / "neighbour", history.machine.chip, start=history.start)
    tenant = history.cloud.tenant(history.machine.chip, "another tenant")
    other.run("activate", str(history.cloud.code(tenant)))
    history.put_file_back("active", *LEASE_1)
    for name in RECORD:
        shutil.copy2(other.state / name, history.state / name)


def _remove_counter(history: History) -> None:
    history.put_file_back("active", *LEASE_1)
    history.call(lambda esys: chip_memory.forget_counters(esys, history.label))


def _renew_counter(history: History) -> None:
    history.call(lambda esys: chip_memory.forget_counters(esys, history.label))
    history.call(lambda esys: counter.establish(esys, history.label))


def _ordinary_index(history: History) -> None:
    """The owner defines an ordinary index with the value that the record names."""
    index = counter.places(history.label)[0]
    found: list[NvCounter | None] = []
    history.call(lambda esys: found.append(counter.find(esys, history.label)))
    value = found[0].value if found[0] is not None else 1

    def replace(esys: Esys) -> None:
        chip_memory.forget_counters(esys, history.label)
        chip_memory.write(esys, index, value.to_bytes(8, "big"))

    history.call(replace)


def _both_back(*names: str) -> Callable[[History], None]:
    return lambda history: history.put_file_back("active", *names)


def _revocation_removed(history: History) -> None:
    history.put_file_back("again", *LEASE_2)
    shutil.rmtree(history.state / "tombstones")


def _clear(history: History) -> None:
    history.put_back("active")
    history.machine.chip.clear()


ROWS = (
    Row("the whole directory from before the suspension", "suspended", lambda h: h.put_back("active"), STALE, True),
    Row("the lease from before the suspension", "suspended", _both_back(*LEASE_1), STALE, True),
    Row("the lease and its record from before it", "suspended", _both_back(*LEASE_1, *RECORD), STALE),
    Row("the lease, and both records deleted", "suspended", _without(*RECORD), STALE, True),
    Row("the lease, and one record deleted", "suspended", _without(RECORD[0]), STALE),
    Row("the lease, and both records edited", "suspended", _edit, STALE),
    Row("the lease, and the records of another node", "suspended", _swap, STALE),
    Row("the first directory after a resumption", "resumed", lambda h: h.put_back("active"), STALE),
    Row("the suspended directory after a resumption", "resumed", lambda h: h.put_back("suspended"), SUSPENDED),
    Row("the counter removed", "resumed", _remove_counter, STALE),
    Row("the counter removed and made again", "resumed", _renew_counter, STALE),
    Row("an ordinary index in its place", "resumed", _ordinary_index, STALE, True),
    Row("the directory from before the activation", "again", lambda h: h.put_back("active"), STALE, True),
    Row(
        "the earlier generation, and the later one deleted",
        "again",
        _both_back("current.json", *LEASE_1, *LEASE_2, "identity/g-1", "identity/g-2"),
        STALE,
    ),
    # The statement of the later generation voids the earlier one, so nothing changes.
    Row(
        "current.json, lease and keys of the earlier generation",
        "again",
        _both_back("current.json", *LEASE_1, "identity/g-1"),
        ACTIVE,
    ),
    Row("the whole directory from before the revocation", "revoked", lambda h: h.put_back("again"), STALE, True),
    Row("the lease, and the tombstone deleted", "revoked", _revocation_removed, REVOKED, True),
    Row("the first directory after a TPM clear", "revoked", _clear, OTHER),
)
"""In the order of the stages. Rows that change the TPM are the last ones of their stage."""

_STAGES: dict[str, Callable[[History], None]] = {
    "active": History.activate,
    "suspended": History.suspend,
    "resumed": History.resume,
    "again": History.activate_again,
    "revoked": History.revoke,
}


def walk(history: History, rows: tuple[Row, ...], say: Callable[[str], None] = lambda _: None) -> list[str]:
    """Take the machine through the stages, and make the attacks of each. Returns a finding for each wrong result."""
    findings = []
    for stage, advance in _STAGES.items():
        advance(history)
        for row in rows:
            if row.stage != stage:
                continue
            history.put_back(stage)
            row.do(history)
            shown = history.shown()
            say(f"{row.attack}: {shown[0]}, exit {shown[1]}")
            if shown != row.expected:
                findings.append(f"{row.attack}: {shown}, and not {row.expected}")
        if stage != "revoked":
            history.put_back(stage)
    return findings
