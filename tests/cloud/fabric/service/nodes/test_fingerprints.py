"""Reported fingerprints: a machine with a TPM is never refused, one without a TPM must match, and operators see both."""

from datetime import timedelta

import msgspec
import pytest

from cloud.fabric.errors import FingerprintRefused
from cloud.fabric.store.keys import node_key
from cloud.fabric.store.rows import GenerationRow, enrolled_of
from protocol.fingerprint import policy_of
from protocol.hardware import fingerprint
from protocol.signed.statements import Lease
from tests.cloud.fabric.support import Machine, World

SALT = b"s" * 32
BASE = {
    "product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432",
    "board_serial": "CNFCP0096L00DE",
    "disk_serial": "S3Z8NB0K123456",
    "mac": "b8:2a:72:aa:bb:cc",
}
ENROLLED = fingerprint(SALT, BASE)
MOVED = fingerprint(SALT, {**BASE, "disk_serial": "NEW00001"})
OTHER_CARD = "f" * 64
OTHER = fingerprint(SALT, {kind: f"{value}7" for kind, value in BASE.items() if kind != "mac"})


async def joined(world: World, machine: Machine) -> None:
    machine.fingerprint = ENROLLED
    await machine.join((await world.code()).secret)


async def row(world: World, machine: Machine) -> GenerationRow:
    assert machine.activated is not None
    return await world.generation(machine.node, machine.activated.generation)


async def show(world: World, machine: Machine) -> msgspec.Struct | None:
    detail = await world.parts.operators.node_lists.detail(machine.node)
    return detail.generations[0].drift


async def report(world: World, machine: Machine, *reports: dict[str, str]) -> None:
    """Sessions of the machine with these fingerprints, an hour apart; each is stored."""
    for sent in reports:
        world.clock.forward(timedelta(hours=1))
        machine.fingerprint = sent
        await machine.session()
        await world.parts.nodes.seen.store()
        await world.parts.nodes.fingerprints.store()


async def test_with_a_tpm_a_change_is_shown_and_audited_and_ends_nothing(world: World, machine: Machine) -> None:
    await joined(world, machine)
    assert await show(world, machine) is None
    await report(world, machine, ENROLLED)
    drift = (await row(world, machine)).drift
    assert drift is not None
    assert (drift.result, drift.changed, drift.missing) == ("match", (), ())
    before = (await world.actions(machine.node)).count("node.fingerprint_changed")
    await report(world, machine, MOVED, MOVED, OTHER)
    shown = await show(world, machine)
    assert shown is not None
    assert msgspec.to_builtins(shown)["result"] == "mismatch"
    assert msgspec.to_builtins(shown)["missing"] == ("mac",)
    assert (await world.actions(machine.node)).count("node.fingerprint_changed") == before + 2
    assert (await world.node(machine.node)).standing == "active"
    assert isinstance(await machine.refresh(await machine.peer()), Lease)


async def test_a_repeated_fingerprint_is_no_work(world: World, machine: Machine) -> None:
    await joined(world, machine)
    await report(world, machine, MOVED)
    fingerprints = world.parts.nodes.fingerprints
    await machine.session()
    assert fingerprints._kept == {}
    for sent in (ENROLLED, MOVED, ENROLLED, MOVED, ENROLLED, MOVED):
        machine.fingerprint = sent
        await machine.session()
    (kept,) = fingerprints._kept.values()
    assert len(kept) == 4
    await fingerprints.store()
    assert fingerprints._kept == {}


async def test_without_a_tpm_too_little_of_the_fingerprint_gets_no_session(world: World, machine: Machine) -> None:
    await joined(world, machine)
    node = await world.node(machine.node)
    software = msgspec.structs.replace(node, tier="software", enrolled=ENROLLED)
    generation = await row(world, machine)
    check = world.parts.nodes.fingerprints.check
    check(software, generation, ENROLLED)
    check(software, generation, MOVED)
    check(node, generation, OTHER)
    for sent, kinds in ((OTHER, "mac"), ({}, "product_uuid"), ({"mac": ENROLLED["mac"]}, "disk_serial")):
        with pytest.raises(FingerprintRefused, match=kinds):
            check(software, generation, sent)
    async with world.stores.transaction(node_key(node.id)):
        await world.stores.nodes.update(software, "changed")
    machine.lease_version = 2
    lease = await machine.refresh(await machine.peer())
    assert isinstance(lease, Lease)
    assert lease.fingerprint == policy_of(ENROLLED), "the signed lease carries the fingerprint"
    machine.fingerprint = OTHER
    with pytest.raises(FingerprintRefused):
        await machine.session()
    assert "session.refused" in await world.actions(machine.node)
    machine.fingerprint = MOVED
    await machine.session()
    # Of a later activation the first fingerprint stays the original: changes add up over activations too.
    generation = msgspec.structs.replace(generation, fingerprint=MOVED)
    both = {**MOVED, "mac": OTHER_CARD}
    assert enrolled_of(software, generation) == ENROLLED
    assert enrolled_of(node, generation) == MOVED
    assert enrolled_of(software, msgspec.structs.replace(generation, state="offered")) == MOVED
    check(software, generation, both)
    with pytest.raises(FingerprintRefused):
        check(software, generation, {**both, "board_serial": OTHER["board_serial"]})


async def test_two_machines_that_take_turns_on_one_chip_are_a_suspected_clone(world: World, machine: Machine) -> None:
    """A relayed TPM: each machine reports its own serial numbers, and one key signs for both."""
    await joined(world, machine)
    await report(world, machine, ENROLLED, OTHER)
    assert (await world.node(machine.node)).clone_cause == ""
    await report(world, machine, ENROLLED)
    node = await world.node(machine.node)
    assert node.clone_cause == "fingerprint"
    assert (await world.actions(machine.node)).count("node.clone_suspected") == 1
    drift = (await row(world, machine)).drift
    assert drift is not None
    assert drift.alternated_at == world.clock()
    # Without a renewal token a session is not of the machine that goes on, so no second one is asked for here.
    await world.parts.nodes.fingerprints.store()
    assert (await world.actions(machine.node)).count("node.clone_suspected") == 1
