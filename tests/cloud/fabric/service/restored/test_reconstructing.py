"""`cloud.fabric.service.restored.reconstructing`: rows of lost nodes, made from their certificates and statements."""

import copy
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from cloud.fabric import errors
from cloud.fabric.bodies.restored import AcceptNode, BeginRebuild, ChangeRebuild, ClosedGenerations, ImportClosed
from cloud.storage import Statement
from protocol.encoding import sha256_hex
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.breakwater.support import Clock
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.backups import EPOCH, FABRIC_TABLES, fabric_backup, restore_fabric
from tests.cloud.fabric.recovering import allow_grace, claim, recovered, replacement
from tests.cloud.fabric.service.renewals.test_renewal import new_key, renew, spki, start
from tests.cloud.fabric.support import ALICE, Machine, World, change, run_once, world_at

HOUR = timedelta(hours=1)
REBUILD = BeginRebuild("the database is lost")


async def lose(world: World) -> None:
    """Lose every row of nodes, and of Breakwater's generations and certificates."""
    for table in FABRIC_TABLES:
        await world.stores.engine.fetch(Statement(f"DELETE FROM {table}"))  # noqa: S608  (names of tables)
    for table in ("generation", "closing", "certificate"):
        await world.breakwater.stores.engine.fetch(Statement(f"DELETE FROM {table}"))  # noqa: S608  (names of tables)
    await world.stores.engine.fetch(EPOCH, value=b"2")


def serial_of(machine: Machine) -> str:
    assert machine.activated is not None
    return f"{x509.load_der_x509_certificate(machine.activated.certificate_chain[0]).serial_number:x}"


async def joined(world: World, *labels: str) -> list[Machine]:
    code = await world.code(seats=len(labels))
    machines = [Machine(world, label, lease_version=2) for label in labels]
    for machine in machines:
        await machine.join(code.secret)
        machine.held = (await machine.session()).current.statement
    return machines


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_nodes_come_back_from_what_they_show(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        machines = await joined(world, "ek", "another ek", "third ek", "fourth ek", "fifth ek", "sixth ek")
        stays, suspended, revoked, hides, closed, again = machines
        await change(world, suspended, "suspend", "unpaid")
        await change(world, revoked, "revoke")
        await change(world, hides, "revoke")
        for machine in (suspended, revoked):
            machine.held = (await world.generation(machine.node, 1)).statement
        old = copy.copy(again)
        await again.join((await world.code()).secret)
        again.held = (await again.session()).current.statement
        before = await world.node(stays.node)
        await lose(world)
    async with world_at(home, databases, clock, first=False) as world:
        for machine in (*machines, old):
            machine.world = world
        rebuilds = world.parts.restored.rebuilds
        await run_once(world)  # compares the generations, of which there are none
        with pytest.raises(errors.NodeUnknown):
            await stays.session()
        assert (await rebuilds.begin(ALICE, REBUILD)).since == clock()
        await rebuilds.import_closed(
            ALICE,
            ImportClosed((ClosedGenerations(closed.node, world.tenant, 1),), (serial_of(hides),)),
        )
        # Who only shows a lease keeps it, and gets no later dates.
        clock.forward(13 * HOUR)
        held = world.statement(stays.held)
        assert isinstance(held, Lease)
        assert world.statement((await stays.session()).current.statement) == held
        peer = await stays.peer()
        assert await stays.refresh(peer) == held
        row = await world.node(stays.node)
        assert (row.hold, row.seq, row.lease_until, row.seat_held) == ("unconfirmed", held.seq, held.terminate_at, True)
        assert (row.tenant, row.tier, row.profile, row.entitlements, row.lease) == (
            before.tenant,
            before.tier,
            before.profile,
            before.entitlements,
            before.lease,
        )
        assert row.ek_hash == before.ek_hash
        assert (await world.actions(stays.node))[0] == "node.reconstructed"
        # A suspension and a tombstone stay in force; so do imported closes.
        assert isinstance(world.statement((await suspended.session()).current.statement), Suspension)
        with pytest.raises(errors.GenerationClosed) as refusal:
            await revoked.session()
        assert isinstance(world.statement(refusal.value.statement), Revocation)
        assert (await world.node(revoked.node)).standing == "revoked"
        for machine in (hides, closed):
            with pytest.raises(errors.CertificateRefused):
                await machine.session()
            assert await world.stores.nodes.find(machine.node) is None
        # A lower generation is closed once a higher one was shown.
        assert isinstance(world.statement((await again.session()).current.statement), Lease)
        await run_once(world)  # closes the lower one at Breakwater
        with pytest.raises(errors.GenerationClosed):
            await old.session()
        assert (await world.node(again.node)).current_generation == 2
        # An operator confirms.
        assert (await rebuilds.show()).unconfirmed == 3
        await world.parts.restored.holds.accept(ALICE, stays.node, AcceptNode("unconfirmed"))
        lease = await stays.refresh(peer)
        assert isinstance(lease, Lease)
        assert (lease.epoch, lease.seq, lease.issued_at) == (2, held.seq + 1, clock())
        assert (await rebuilds.end(ALICE, ChangeRebuild())).since is None
        # The same chip is the same node.
        activated = await stays.activate((await world.code()).secret)
        assert (activated.node, activated.generation) == (row.id, 2)


async def test_a_certificate_without_a_statement_of_ours_proves_nothing(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        one, other = await joined(world, "ek", "another ek")
        await lose(world)
    async with world_at(home, databases, clock, first=False) as world:
        one.world = other.world = world
        await world.parts.restored.rebuilds.begin(ALICE, REBUILD)
        for held in ("", other.held, one.held[:-4] + "AAAA"):
            shown = copy.copy(one)
            shown.held = held
            with pytest.raises(errors.NodeUnknown):
                await shown.session()
        body = one.ask_for_session()
        with pytest.raises(errors.ProofRefused):
            await world.parts.nodes.sessions.open_session(msgspec.structs.replace(body, proof=body.proof[:-4] + "AAAA"))
        assert await world.stores.nodes.find(one.node) is None


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_node_that_was_activated_again_after_the_backup_is_conflicting(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        backup = await fabric_backup(world)
        old = copy.copy(machine)
        await machine.join((await world.code(profile="larger")).secret)
        machine.held = (await machine.session()).current.statement
        await run_once(world)
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        await run_once(world)
        with pytest.raises(errors.GenerationClosed):
            await old.session()
        clock.forward(13 * HOUR)
        held = world.statement(machine.held)
        assert world.statement((await machine.session()).current.statement) == held
        row = await world.node(machine.node)
        assert (row.current_generation, row.hold, row.profile) == (2, "conflicting", "larger")
        assert (row.reconstructed_at, row.closed_up_to) == (None, 1)
        await world.parts.restored.holds.accept(ALICE, machine.node, AcceptNode("conflicting"))
        lease = world.statement((await machine.session()).current.statement)
        assert (lease.epoch, lease.generation, lease.issued_at) == (2, 2, clock())
        assert sum([row.seats_taken for row in await world.stores.codes.page(world.tenant, "", 10)]) == 1


async def test_a_board_that_was_replaced_after_the_backup_is_the_chip_of_the_node(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        backup = await fabric_backup(world)
        new = replacement(machine)
        await allow_grace(world)
        held = await recovered(new, claim(machine.node))
        new.held = (await new.session()).current.statement
        chip = (await world.node(machine.node)).ek_hash
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = new.world = world
        assert world.statement((await new.session()).current.statement) == held
        row = await world.node(machine.node)
        assert (row.ek_hash, row.hold) == (chip, "conflicting")
        with pytest.raises(errors.GenerationClosed):
            await machine.session()
        # The backup has no case, so the operator's acceptance decides.
        await world.parts.restored.holds.accept(ALICE, machine.node, AcceptNode("conflicting"))
        lease = world.statement((await new.session()).current.statement)
        assert isinstance(lease, Lease)
        assert (lease.recovery, lease.terminate_at > held.terminate_at) == (msgspec.UNSET, True)


async def test_the_attestation_key_comes_back_with_the_next_evidence(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        one, other = await joined(world, "ek", "another ek")
        await lose(world)
    async with world_at(home, databases, clock, first=False) as world:
        one.world = other.world = world
        await world.parts.restored.rebuilds.begin(ALICE, REBUILD)
        await one.session()
        assert (await world.generation(one.node, 1)).ak_public == b""
        # Another chip does not become the chip of the node.
        with pytest.raises(errors.CertificateRefused):
            await start(one, evidence=other.evidence())
        assert (await world.generation(one.node, 1)).ak_public == b""
        await renew(one, new_key())
        assert (await world.generation(one.node, 1)).ak_public == one.evidence().ak_public
        await renew(one, new_key())


async def test_a_node_in_an_imported_crl_gets_no_session_after_a_restore(home: Path, databases: Path) -> None:
    """The node was revoked after the backup and shows the lease of before. Its row is active again."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        revoked, other = await joined(world, "ek", "second ek")
        await restore_fabric(world, await fabric_backup(world))
    async with world_at(home, databases, clock, first=False) as world:
        revoked.world = other.world = world
        await world.parts.restored.rebuilds.import_closed(ALICE, ImportClosed((), (serial_of(revoked),)))
        with pytest.raises(errors.CertificateRefused):
            await revoked.session()
        assert (await other.session()).current.statement
        assert (await world.node(revoked.node)).standing == "active"


async def test_a_copy_from_before_a_rekey_does_not_take_the_node_after_a_restore(home: Path, databases: Path) -> None:
    """The backup has the later key, and then only the earlier one."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        old, before = copy.copy(machine), await fabric_backup(world)
        await renew(machine, new_key())
        await run_once(world)
        machine.held = (await machine.session()).current.statement
        own = (await world.generation(machine.node, 1)).node_public_key
        await restore_fabric(world, await fabric_backup(world))
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        with pytest.raises(errors.CertificateRefused, match="not the key of this generation"):
            await old.session()
        row = await world.generation(machine.node, 1)
        assert (row.node_public_key, len(row.former_keys)) == (own, 1)
        assert (await world.node(machine.node)).hold == ""
        await restore_fabric(world, before, epoch=3)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        assert (await machine.session()).current.statement == machine.held
        assert (await world.node(machine.node)).hold == "conflicting"
        with pytest.raises(errors.CertificateRefused, match="not the key of this generation"):
            await old.session()
        row = await world.generation(machine.node, 1)
        assert (row.node_public_key, len(row.former_keys)) == (own, 1)


async def test_an_earlier_key_does_not_replace_the_key_of_a_reconstructed_node(home: Path, databases: Path) -> None:
    """The lost database has no former keys. The statements show which key is later."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        old = copy.copy(machine)
        await renew(machine, new_key())
        await run_once(world)
        machine.held = (await machine.session()).current.statement
        await lose(world)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        await world.parts.restored.rebuilds.begin(ALICE, REBUILD)
        await machine.session()
        own = (await world.generation(machine.node, 1)).node_public_key
        with pytest.raises(errors.CertificateRefused, match="not the key of this generation"):
            await old.session()
        assert (await world.generation(machine.node, 1)).node_public_key == own


async def key_of(machine: Machine) -> bytes:
    return (await machine.world.generation(machine.node, 1)).node_public_key


async def rekeyed(world: World, clock: Clock, machine: Machine) -> Machine:
    """Give the machine a new key, without a contact after it. Returns a copy of disk and TPM from before."""
    old = copy.copy(machine)
    clock.forward(HOUR)
    await renew(machine, new_key())
    await run_once(world)
    return old


@pytest.mark.parametrize("copy_is_first", [False, True])
async def test_a_machine_that_rekeyed_after_its_last_lease_comes_back(
    home: Path, databases: Path, copy_is_first: bool
) -> None:
    """Its lease names the former key. The certificate of the former key is older than this lease."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        old = await rekeyed(world, clock, machine)
        own, before = await key_of(machine), old.node_key
        await lose(world)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        await world.parts.restored.rebuilds.begin(ALICE, REBUILD)
        if copy_is_first:
            await old.session()
            assert await key_of(machine) == spki(before)
        assert (await machine.session()).current.statement == machine.held
        with pytest.raises(errors.CertificateRefused, match="not the key of this generation"):
            await old.session()
        row = await world.generation(machine.node, 1)
        assert (row.node_public_key, [each.key for each in row.former_keys]) == (own, [sha256_hex(spki(before))])
        assert (await world.node(machine.node)).hold == "unconfirmed"
        # With the confirmation of the operator the lease names the key of the machine.
        await world.parts.restored.holds.accept(ALICE, machine.node, AcceptNode("unconfirmed"))
        lease = world.statement((await machine.session()).current.statement)
        assert isinstance(lease, Lease)
        assert lease.node_key == sha256_hex(own)
        # The former key proves the chip, as a restored disk does, and the next contact of the machine shows both.
        await renew(old)
        assert (await world.node(machine.node)).clone_at is None
        await renew(machine)
        assert (await world.node(machine.node)).clone_at == clock()


async def test_of_two_rekeys_after_the_last_lease_the_later_one_counts(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        await rekeyed(world, clock, machine)
        old = await rekeyed(world, clock, machine)
        own = await key_of(machine)
        await lose(world)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        await world.parts.restored.rebuilds.begin(ALICE, REBUILD)
        for each in (old, machine):
            await each.session()
        with pytest.raises(errors.CertificateRefused, match="not the key of this generation"):
            await old.session()
        assert await key_of(machine) == own


async def test_a_former_key_with_the_lease_of_its_successor_is_refused(home: Path, databases: Path) -> None:
    """The thief of a later disk has the lease, and not the key that the lease names."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        old = await rekeyed(world, clock, machine)
        machine.held = (await machine.session()).current.statement
        old.held = machine.held
        await lose(world)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        await world.parts.restored.rebuilds.begin(ALICE, REBUILD)
        with pytest.raises(errors.CertificateRefused, match="names another key"):
            await old.session()
        assert await world.stores.nodes.find(machine.node) is None


async def test_a_rekey_that_the_backup_lacks_holds_nothing_back(home: Path, databases: Path) -> None:
    """The machine presents the statement that the backup has. So it gets later dates."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,) = await joined(world, "ek")
        backup = await fabric_backup(world)
        old = await rekeyed(world, clock, machine)
        own = await key_of(machine)
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = old.world = world
        clock.forward(13 * HOUR)
        lease = world.statement((await machine.session()).current.statement)
        assert isinstance(lease, Lease)
        assert (lease.issued_at, lease.node_key) == (clock(), sha256_hex(own))
        assert (await world.node(machine.node)).hold == ""
        with pytest.raises(errors.CertificateRefused, match="not the key of this generation"):
            await old.session()
