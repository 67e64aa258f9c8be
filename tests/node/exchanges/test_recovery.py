"""Recovery on a software TPM: what the machine finds, and the exchange that gets its own node back."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from node.disk import calls
from node.disk.boot import BootRecord
from node.exchanges.approval import ApprovalPending
from node.exchanges.enrolment import RecoveryUnsupported
from node.exchanges.recovery import Asked, Look, NodeNeeded, Source, TrustNeeded, look, mend_trust, recover, renew
from node.exits import Exit
from node.hwbind import endorsement, presence
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from node.licensing.licence import Licence
from node.licensing.situation import Plan, plan
from node.link.api import CloudRefused
from node.state import State
from protocol import faults
from protocol.codes import make_recovery_code
from protocol.ids import RecoveryId, make_id
from protocol.messages.recovery import AwaitedRecovery
from tests.fault_hooks import hooked
from tests.node.conftest import Machine
from tests.node.shells import forget_floors, identity, install
from tests.off_loop import off_loop
from tests.simulators.fabric import DAY, NODE, Fabric, refused, utc_now
from tests.simulators.repository import Repository
from tests.simulators.site import repository_of

pytestmark = pytest.mark.slow

CODE = make_recovery_code(b"r" * 13)
CASE = RecoveryId(make_id("rcv", 1, bytes(10)))
PROOF = "/proof"


def waits(needs: str = "operator-or-code") -> AwaitedRecovery:
    return msgspec.convert(
        {"case": CASE, "state": "needs_operator", "needs": needs, "decide_by": utc_now() + 14 * DAY}, AwaitedRecovery
    )


class Site:
    """The machine and the person at it."""

    def __init__(self, directory: Path, tpm: Tpm) -> None:
        self.directory = directory
        self.tpm = tpm
        self.said: list[str] = []

    async def look(self, node: str = "") -> tuple[State, Look, Plan]:
        state = State(self.directory)
        found = await look(state, self.tpm, BootRecord(self.directory.parent / "run"), utc_now, node)
        return state, found, plan(found.found)

    async def recover(
        self, code: str = "", node: str = "", source: Source | None = None, *, wait: bool = False
    ) -> Licence:
        state, looked, _ = await self.look(node)
        way = plan(looked.found, has_code=bool(code))
        assert way.way in ("recovery", "wait")
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with state.owned():
            asked = Asked(source=source, code=code, wait=wait)
            return await recover(state, self.tpm, looked.found, way, utc_now, self.said.append, asked)


def cleared(machine: Machine) -> WrappedKey:
    """The node key of the chip before it was cleared: its parent cannot be made any more."""
    return msgspec.structs.replace(machine.node_key, parent=b"\0\x0b" + bytes(32), parent_public=None)


@pytest.fixture
def replaced(tmp_path: Path, fabric: Fabric, machine: Machine, tpm: Tpm) -> Site:
    """A machine whose state directory is of another chip."""
    forget_floors(machine.chip.tcti)
    install(tmp_path / "state", fabric, machine.ak, cleared(machine))
    return Site(tmp_path / "state", tpm)


@pytest.fixture
def emptied(tmp_path: Path, fabric: Fabric, machine: Machine, tpm: Tpm) -> Site:
    """A machine whose chip was cleared. The chip shows the recorded EK."""
    forget_floors(machine.chip.tcti)
    state = install(tmp_path / "state", fabric, machine.ak, cleared(machine))
    ek = off_loop(lambda: tpm.call(lambda esys: endorsement.read_endorsement(esys).public))
    record = off_loop(lambda: tpm.call(lambda esys: presence.record_endorsement(esys, machine.node_key, ek)))
    made = identity(fabric, machine.ak, cleared(machine))
    (state.directory / "current.json").unlink()
    state.identities.save_generation(msgspec.structs.replace(made, endorsement=record))
    state.identities.switch_to(1)
    return Site(tmp_path / "state", tpm)


@pytest.fixture
def repository(fabric: Fabric) -> Iterator[Repository]:
    with repository_of(fabric).served() as served:
        yield served


@pytest.fixture
def source(repository: Repository) -> Source:
    return Source(repository.url, repository.pin, utc_now())


@pytest.fixture
def reinstalled(tmp_path: Path, fabric: Fabric, machine: Machine, tpm: Tpm) -> Site:
    """The machine of a known node, whose state directory is lost."""
    forget_floors(machine.chip.tcti)
    fabric.last_generation = fabric.confirmed = 1
    fabric.say(fabric.lease())
    return Site(tmp_path / "state", tpm)


async def test_an_intact_machine_needs_nothing(state: State, tpm: Tpm, fabric: Fabric) -> None:
    _, looked, way = await Site(state.directory, tpm).look()
    found = looked.found
    assert (found.directory, found.node, found.generation, found.chip, found.node_key) == (
        "present",
        NODE,
        1,
        "same",
        "works",
    )
    assert (way.way, found.certificate_expired, found.statement) == ("nothing", False, fabric.statement)
    assert not fabric.requests


async def test_a_renewal_ends_what_is_no_recovery(state: State, tpm: Tpm, fabric: Fabric) -> None:
    fabric.say(fabric.suspension())
    site = Site(state.directory, tpm)
    held, looked, _ = await site.look()
    with held.owned():
        licence = await renew(held, tpm, looked, utc_now)
    assert licence.verdict().state == "suspended"
    held, looked, way = await site.look()
    assert way.way == "renewal"
    fabric.say(fabric.lease())
    with held.owned():
        assert (await renew(held, tpm, looked, utc_now)).verdict().gate_open


async def test_a_revoked_node_is_told_so_and_is_not_recovered(state: State, tpm: Tpm, fabric: Fabric) -> None:
    fabric.revoke()
    site = Site(state.directory, tpm)
    held, looked, _ = await site.look()
    with held.owned():
        await renew(held, tpm, looked, utc_now)
    _, looked, way = await site.look()
    assert way.way == "revoked"
    assert "does not undo a revocation" in way.next


async def test_a_tpm_that_does_not_answer_is_no_recovery(state: State) -> None:
    _, looked, way = await Site(state.directory, Tpm("tabrmd:bus_name=io.cascade.nobody,bus_type=session")).look()
    assert (way.way, looked.found.chip, looked.found.node) == ("tpm", "silent", NODE)


async def test_a_disk_that_cannot_be_read_is_no_recovery(state: State, tpm: Tpm) -> None:
    def unreadable(call: str, path: str) -> None:
        if path.endswith("current.json") and call == "open":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    site = Site(state.directory, tpm)
    with calls.hooked(unreadable):
        _, looked, way = await site.look()
    assert (way.way, looked.found.directory) == ("disk", "damaged")
    assert "needs no recovery" not in way.next
    assert looked.found.fault is not None
    assert looked.found.fault.code == "state_unreadable"


async def test_the_cleared_chip_recovers_the_same_node_with_a_code(emptied: Site, fabric: Fabric) -> None:
    _, looked, way = await emptied.look()
    assert (looked.found.chip, looked.found.node_key, way.situation) == ("cleared", "refused", "tpm-cleared")
    licence = await emptied.recover(CODE)
    assert (licence.identity.node, licence.identity.generation, licence.verdict().gate_open) == (NODE, 2, True)
    ((code, claim),) = fabric.claims
    assert (code, claim.node, claim.situation) == (CODE, NODE, "tpm-cleared")
    assert claim.statement.count(".") == 2
    assert fabric.held_generations == [1]
    # The old keys are kept, and the machine is intact again.
    kept = emptied.directory / "set-aside" / "g-1"
    assert (kept / "node.priv").read_bytes() == (emptied.directory / "identity" / "g-1" / "node.priv").read_bytes()
    assert any("kept in" in text for text in emptied.said)
    # The cleared chip has another counter and another first record, and the command says nothing else.
    assert not any("no hardware floor" in text for text in emptied.said)
    assert (await emptied.look())[2].way == "nothing"
    assert State(emptied.directory).identities.load_activation() is None


async def test_a_replaced_board_recovers_with_its_own_floor(replaced: Site, fabric: Fabric) -> None:
    _, looked, way = await replaced.look()
    assert (looked.found.chip, way.situation) == ("other", "hardware-replaced")
    licence = await replaced.recover(CODE)
    assert (licence.identity.node, licence.identity.generation) == (NODE, 2)
    assert sorted(fabric.closed) == [1]
    state, looked, way = await replaced.look()
    assert way.way == "nothing"
    assert looked.found.last_ran_at is not None or state.floors.counter is None


async def test_a_lost_state_needs_a_file_that_names_the_cloud(
    reinstalled: Site, fabric: Fabric, source: Source
) -> None:
    _, looked, way = await reinstalled.look()
    assert (looked.found.directory, way.situation) == ("lost", "reinstalled")
    with pytest.raises(TrustNeeded) as needed:
        await reinstalled.recover(CODE)
    assert needed.value.exit is Exit.USAGE
    with pytest.raises(NodeNeeded):
        await reinstalled.recover("", source=source)
    assert not fabric.claims, "a request that names no node is not sent"
    licence = await reinstalled.recover(CODE, node=NODE, source=source)
    assert (licence.identity.node, licence.identity.generation, licence.verdict().gate_open) == (NODE, 2, True)
    ((_, claim),) = fabric.claims
    assert (claim.node, claim.statement, claim.last_ran_at) == (NODE, "", msgspec.UNSET)
    assert not (reinstalled.directory / "set-aside").exists()


async def test_a_damaged_identity_names_its_node_by_its_statement(state: State, tpm: Tpm, fabric: Fabric) -> None:
    (state.directory / "identity" / "g-1" / "identity.json").write_bytes(b"torn")
    site = Site(state.directory, tpm)
    _, looked, way = await site.look()
    assert (looked.found.directory, looked.found.node, way.situation) == ("damaged", "", "reinstalled")
    licence = await site.recover(CODE)
    assert (licence.identity.node, licence.identity.generation) == (NODE, 2)
    assert fabric.claims[0][1].statement == looked.found.statement != ""


async def test_a_damaged_trust_is_fetched_again_and_is_no_recovery(
    state: State, tpm: Tpm, source: Source, fabric: Fabric
) -> None:
    (state.directory / "trust" / "current.json").write_bytes(b"torn")
    site = Site(state.directory, tpm)
    held, looked, _ = await site.look()
    assert looked.trust_damaged
    with held.owned():
        assert not await mend_trust(held, None, site.said.append), "the pin is lost"
        assert await mend_trust(held, source, site.said.append)
    _, looked, way = await site.look()
    assert (way.way, looked.found.generation, fabric.claims) == ("nothing", 1, [])


async def test_a_file_of_another_cloud_mends_no_trust(state: State, tpm: Tpm) -> None:
    (state.directory / "trust" / "current.json").write_bytes(b"torn")
    with repository_of(Fabric()).served() as other, state.owned():
        before = contents(state.directory)
        named = Source(other.url, other.pin, utc_now())
        assert not await mend_trust(state, named, lambda _: None)
        assert contents(state.directory) == before


async def test_a_case_that_waits_is_shown_and_continues_after_its_approval(
    reinstalled: Site, fabric: Fabric, source: Source
) -> None:
    fabric.awaited = waits()
    with pytest.raises(ApprovalPending) as caught:
        await reinstalled.recover(node=NODE, source=source)
    assert (caught.value.code, caught.value.exit, caught.value.waits.recovery) == (
        "recovery_pending",
        Exit.PENDING,
        fabric.awaited,
    )
    assert f"cascade recovery approve {CASE}" in caught.value.next
    _, looked, way = await reinstalled.look()
    assert (way.way, looked.found.waits) == ("wait", fabric.awaited)
    # A second look needs no file: the trust was stored with the wait.
    fabric.awaited = None
    licence = await reinstalled.recover()
    assert licence.verdict().gate_open
    assert len(fabric.claims) == 1
    first, second = [request.body for request in fabric.requests if request.path.endswith(PROOF)]
    assert first == second


async def test_a_code_replaces_the_wait(emptied: Site, fabric: Fabric) -> None:
    fabric.awaited = waits()
    with pytest.raises(ApprovalPending):
        await emptied.recover()
    fabric.awaited = None
    await emptied.recover(CODE)
    assert [code for code, _ in fabric.claims] == ["", CODE]


async def test_a_refusal_changes_nothing(emptied: Site, fabric: Fabric) -> None:
    fabric.answers["/v1/activations"] = refused("recovery_refused")
    before = contents(emptied.directory)
    with pytest.raises(CloudRefused) as caught:
        await emptied.recover(CODE)
    assert (caught.value.code, caught.value.exit) == ("recovery_refused", Exit.REFUSED)
    assert contents(emptied.directory) == before


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a state directory but the lock, which is empty, and the version, which each owner writes."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name not in ("lock", "version"))
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


async def test_a_cloud_of_an_earlier_release_is_named(emptied: Site, fabric: Fabric) -> None:
    fabric.knows_recovery = False
    with pytest.raises(RecoveryUnsupported) as caught:
        await emptied.recover(CODE)
    assert caught.value.exit is Exit.REFUSED
    assert "too old" in caught.value.text


class CutOffError(Exception):
    """The process ended here."""


STEPS = ("node.activation.save", "node.activation.prove", "node.identity.save", "node.identity.switch")
"""The exchange is that of an activation, whose every step is tried in `test_activation.py`."""


@pytest.mark.parametrize("step", STEPS)
async def test_an_interrupted_recovery_continues_in_the_same_generation(
    emptied: Site, fabric: Fabric, step: str
) -> None:
    def hook(name: str, stage: faults.Stage) -> None:
        if (name, stage) == (step, "before"):
            raise CutOffError(name)

    with hooked(hook), pytest.raises(CutOffError):
        await emptied.recover(CODE)
    state, looked, way = await emptied.look()
    if way.way in ("recovery", "wait"):
        await emptied.recover()
    elif looked.licence is not None:
        with state.owned():
            await renew(state, emptied.tpm, looked, utc_now)
    _, looked, way = await emptied.look()
    assert (way.way, looked.found.generation) == ("nothing", 2)
    assert fabric.confirmed == fabric.last_generation == 2
    assert State(emptied.directory).identities.load_activation() is None
