"""`node.exchanges.deactivation`: the seat is handed back, or its fate is known, before anything is removed."""

from pathlib import Path

import msgspec
import pytest

from node.disk import deactivated
from node.disk.deactivated import Deactivated
from node.exchanges import deactivation
from node.exchanges.deactivation import NotReleased, begin, complete, record_of
from node.exits import Exit
from node.hwbind import counter
from node.hwbind.tpm import Tpm
from node.licensing.floor_memory import label_of
from node.state import State
from tests.node.conftest import Machine
from tests.node.shells import apply, contact_of, identity, load_licence
from tests.simulators.fabric import (
    NODE,
    TENANT,
    Answer,
    Fabric,
    Reply,
    Request,
    always,
    hang,
    problem,
    refused,
    utc_now,
)

pytestmark = pytest.mark.slow

RELEASE = "/v1/node/release"
NONCES = "/v1/node/nonces"


async def deactivate(state: State, tpm: Tpm, *, forget: bool = False) -> Deactivated:
    """Begin a deactivation as an agent does, with the contact's own check of the hardware."""
    contact = contact_of(state, tpm)
    await contact.licence.check_hardware()
    try:
        return await begin(contact, contact.licence._hardware, utc_now(), forget=forget)
    finally:
        await contact.connection.close()


async def test_the_node_is_released_and_nothing_of_it_is_left(
    state: State, tpm: Tpm, fabric: Fabric, machine: Machine
) -> None:
    holder = label_of(load_licence(state).identity.holder)
    await tpm.run(lambda esys: counter.establish(esys, holder))
    record = await deactivate(state, tpm)
    assert (record.node, record.tenant, record.generation, record.seat) == (NODE, TENANT, 1, "free")
    assert record.statement == fabric.closed[1]
    assert [each.holder for each in record.left] == [holder]
    assert load_tombstone(state, fabric) == fabric.closed[1], "the revocation is stored before the record"
    done = await complete(state, tpm)
    assert done == msgspec.structs.replace(record, left=(), complete=True)
    assert {path.name for path in state.directory.iterdir()} == {"deactivated.json"}
    assert await tpm.run(lambda esys: counter.find(esys, holder)) is None
    assert await complete(state, tpm) == done


def load_tombstone(state: State, fabric: Fabric) -> str:
    held = state.licences._load_tombstone(state.identities.load(1).holder, fabric.ring)
    return held.token if held is not None else ""


async def test_a_lost_answer_is_fetched_by_the_next_try(state: State, tpm: Tpm, fabric: Fabric) -> None:
    async def lost(_: Request) -> Reply:
        fabric.revoke("released")
        return Reply(503, b"")

    fabric.answers[RELEASE] = lost
    with pytest.raises(NotReleased) as error:
        await deactivate(state, tpm)
    assert (error.value.exit, error.value.code) == (Exit.UNREACHABLE, "cloud_unreachable")
    assert deactivated.load_record(state.directory) is None
    assert (await deactivate(state, tpm)).seat == "free"


async def test_a_release_that_is_done_already_is_answered_with_the_revocation(
    state: State, tpm: Tpm, fabric: Fabric
) -> None:
    async def closed(_: Request) -> Reply:
        fabric.revoke("released")
        return problem("generation_closed", fabric.closed[1])

    fabric.answers[RELEASE] = closed
    assert (await deactivate(state, tpm)).seat == "free"


@pytest.mark.parametrize(
    ("reason", "seat", "left"), [("revoked", "revoked", 1), ("released", "free", 1), ("superseded", "elsewhere", 0)]
)
async def test_a_revoked_machine_is_deactivated_without_a_release(
    state: State, tpm: Tpm, fabric: Fabric, reason: str, seat: str, left: int
) -> None:
    """A later activation of the same chip has the same counter, so the counter stays."""
    fabric.answers[RELEASE] = always(500)
    apply(load_licence(state), fabric, fabric.revocation(1, reason))
    record = await deactivate(state, tpm)
    assert (record.seat, len(record.left)) == (seat, left)


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        (NONCES, always(503), (Exit.UNREACHABLE, "cloud_unreachable")),
        (RELEASE, always(503), (Exit.UNREACHABLE, "cloud_unreachable")),
        (RELEASE, refused("conflict"), (Exit.REFUSED, "conflict")),
    ],
)
async def test_without_a_release_nothing_is_removed_unless_it_is_to_be_forgotten(
    state: State, tpm: Tpm, fabric: Fabric, path: str, answer: Answer, expected: tuple[Exit, str]
) -> None:
    fabric.answers[path] = answer
    with pytest.raises(NotReleased) as error:
        await deactivate(state, tpm)
    assert (error.value.exit, error.value.code) == expected
    assert f"`cascade node release {NODE}`" in error.value.next
    assert "--forget" in error.value.next
    assert deactivated.load_record(state.directory) is None
    assert load_licence(state).lease is not None
    record = await deactivate(state, tpm, forget=True)
    assert (record.seat, record.node, record.statement) == ("taken", NODE, "")
    assert (await complete(state, tpm)) is not None
    assert {path.name for path in state.directory.iterdir()} == {"deactivated.json"}


async def test_a_cloud_that_hangs_is_given_up(
    state: State, tpm: Tpm, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deactivation, "CLOUD_SECONDS_MAX", 0.3)
    fabric.answers[NONCES] = hang
    with pytest.raises(NotReleased, match=r"did not answer within 0\.3 s"):
        await deactivate(state, tpm)
    assert deactivated.load_record(state.directory) is None


async def test_a_copied_directory_leaves_the_seat_to_its_machine(
    state: State, tpm: Tpm, fabric: Fabric, machine: Machine
) -> None:
    """Another chip cannot prove the node. Its seat belongs to the machine that can."""
    foreign = msgspec.structs.replace(machine.node_key, parent=b"\0\x0b" + bytes(32), parent_public=None)
    copied = msgspec.structs.replace(identity(fabric, machine.ak, machine.node_key, 2), node_key=foreign)
    state.identities.save_generation(copied)
    state.identities.switch_to(2)
    with pytest.raises(NotReleased) as error:
        await deactivate(state, tpm)
    assert error.value.exit is Exit.HARDWARE_MISMATCH
    record = await deactivate(state, tpm, forget=True)
    assert (record.seat, record.left) == ("elsewhere", ())


async def test_a_counter_that_cannot_be_removed_is_noted(state: State, tpm: Tpm) -> None:
    record = await deactivate(state, tpm)
    away = Tpm("device:/nonexistent")
    done = await complete(state, away)
    assert done is not None
    assert (done.complete, [each.holder for each in done.left]) == (True, [each.holder for each in record.left])
    assert "/nonexistent" in done.left[0].reason
    repeated = await complete(state, tpm)
    assert repeated is not None
    assert repeated.left == ()


async def test_the_record_of_a_damaged_state_names_what_can_be_read(tmp_path: Path, state: State) -> None:
    (state.directory / "identity" / "g-1" / "identity.json").write_text("{}")
    record = record_of(state, utc_now(), "taken")
    assert (record.node, record.generation, record.left) == ("", 0, ())
