"""A whole generation of CAs is changed under simulated nodes: adoption is counted, drops wait for it, none is cut off."""

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from cloud.cli import published_trust
from cloud.fabric import schemas
from cloud.fabric.errors import AdoptionIncomplete, CertificateRefused, Invalid
from cloud.fabric.service.published_trust import adoption
from cloud.fabric.store import adoption as adoption_store
from cloud.fabric.store.installation import sessions_until
from cloud.fabric.tuf.offline import Changes
from cloud.fabric.tuf.repository import pin_of
from cloud.mtls.identity import make_csr
from cloud.mtls.peer import NodePeer, PeerRefused, key_id_of, read_peer
from protocol.messages.sessions import Ask
from protocol.signed.statements import Lease
from tests.cloud.fabric.authorities import Generation, PaperIssuer
from tests.cloud.fabric.publishing import Holders, mirrored, names
from tests.cloud.fabric.support import ALICE, NONCE, Machine, World, change
from tests.simulators.repository import Repository

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def holders(world: World, home: Path) -> Holders:
    return Holders(world, home / "offline")


async def fleet(world: World, count: int) -> list[Machine]:
    """Machines that have joined; the same paper chip's maker, another chip each."""
    code = await world.code(seats=count)
    machines = [Machine(world, label=f"ek {number}") for number in range(count)]
    for machine in machines:
        await machine.join(code.secret)
    return machines


async def session(machine: Machine, version: int | None = None) -> NodePeer:
    """A new session by the machine's device certificate, telling a trust version."""
    told: Any = {} if version is None else {"trust_version": version}
    answer = await machine.world.parts.nodes.sessions.open_session(machine.ask_for_session(**told))
    peer = read_peer(x509.load_der_x509_certificate(answer.certificate_chain[0]), machine.world.trust)
    assert isinstance(peer, NodePeer)
    return peer


async def renewed(machine: Machine, issuer: PaperIssuer) -> None:
    """Another device certificate for the same key."""
    assert machine.activated is not None
    generation = machine.activated.generation
    csr = make_csr(machine.node_key)
    end = machine.world.clock() + 400 * DAY
    made = await issuer.issue_device("r", machine.activated.tenant, machine.node, generation, csr, end)
    machine.activated = msgspec.structs.replace(machine.activated, certificate_chain=made.certificate_chain)


async def counted(world: World) -> schemas.Adoption:
    await world.follower.run_once()
    return await world.parts.trust.adoption.show()


async def test_a_generation_of_cas_is_rotated_without_a_refused_session(
    world: World, holders: Holders, tmp_path: Path
) -> None:
    machines = await fleet(world, 5)
    first = await holders.content()
    old_root, old_nodes, old_services = (
        x509.load_der_x509_certificate(ders[0])
        for ders in (first.bundle.roots, first.bundle.node_issuers, first.bundle.service_issuers)
    )
    second = Generation()
    adding = Changes(add_roots=(second.root.der,), add_nodes=(second.nodes.der,), add_services=(second.services.der,))
    dropping = Changes(drop_roots=(key_id_of(old_root),), drop_issuers=(key_id_of(old_nodes), key_id_of(old_services)))
    sleeper = dataclasses.replace(machines[0])
    assert (await counted(world)).adopted == 0
    for machine in machines:
        await session(machine, 1)
    shown = await counted(world)
    assert (shown.trust_version, shown.adopted, shown.nodes) == (1, 5, 5)
    assert names(shown.issuers) == {key_id_of(old_nodes): 5}

    # 1 the new generation is published beside the old; nodes take it, by a session or by a question
    await holders.publish(adding)
    # What is published counts at once, also in a process that has not looked yet.
    world.parts.current_trust.version = 1
    shown = await world.parts.trust.adoption.show()
    assert (shown.trust_version, shown.adopted) == (2, 0)
    assert len((await world.parts.trust.adoption.nodes("", "", 50)).items) == 5
    assert (await counted(world)).adopted == 0
    for machine in machines[:3]:
        await session(machine, 2)
    assert (await counted(world)).adopted == 3
    with pytest.raises(AdoptionIncomplete, match="2 of 5 nodes do not work by version 2") as refused:
        await holders.publish(dropping)
    assert all(machine.node in refused.value.detail for machine in machines)
    for machine in machines[3:]:
        await world.parts.nodes.statements.statement(await session(machine), Ask(NONCE, machine.held, 2))
    shown = await counted(world)
    assert (shown.adopted, shown.nodes) == (5, 5)
    assert (await world.parts.trust.adoption.nodes("", "", 50)).items == ()

    # 2 the new CA issues; nodes renew their device certificates one after the other, sessions go on meanwhile
    issuer = PaperIssuer(second.nodes, world.clock)
    world.outside.issuer = issuer
    for number, machine in enumerate(machines):
        for other in machines:
            await session(other, 2)
        await renewed(machine, issuer)
        await session(machine, 2)
        assert names((await counted(world)).issuers).get(second.nodes.key_id) == number + 1
    with pytest.raises(AdoptionIncomplete, match=f"session certificates of {key_id_of(old_nodes)} count until"):
        await holders.publish(dropping)

    # 3 half a day later no session of the old CA can count any more; Fabric itself is the last
    world.clock.forward(13 * HOUR)
    for machine in machines:
        await session(machine, 2)
    await world.follower.run_once()
    world.outside.certificates = {"fabric": second.services.service("fabric")}
    with pytest.raises(AdoptionIncomplete, match="Breakwater has not been met yet"):
        await holders.publish(dropping)
    both = {name: second.services.service(name) for name in ("fabric", "breakwater")}
    world.outside.certificates = dict(both)
    published = await holders.publish(dropping)
    assert published.targets_version == 3
    assert [key_id_of(root) for root in world.parts.current_trust.roots] == [second.root.key_id]
    for machine in machines:
        await session(machine, 3)
    assert (await counted(world)).adopted == 5

    # 4 what the old CA signed is worth nothing, and who slept through it all finds the new trust by the first pin
    with pytest.raises(CertificateRefused, match="not issued by the CA"):
        await session(sleeper, 1)
    with Repository().served() as repository:
        repository.store = await mirrored(world)
        pin = pin_of(repository.store.files["root", 1])
        bundle, _ = published_trust.fetch(repository.url, pin, tmp_path / "sleeper", world.clock)
    assert bundle.roots == (second.root.der,)
    assert await world.actions("targets.3") == ["trust.published"]


async def test_the_old_device_certificate_is_refused_after_the_drop(world: World, holders: Holders) -> None:
    (machine,) = await fleet(world, 1)
    second = Generation()
    old = key_id_of(world.trust.node_issuers[0])
    peer_certificate = (await machine.session()).certificate_chain[0]
    await holders.publish(Changes(add_roots=(second.root.der,), add_nodes=(second.nodes.der,)))
    with pytest.raises(AdoptionIncomplete, match="1 of 1"):
        await holders.publish(Changes(drop_issuers=(old,)))
    await holders.publish(Changes(drop_issuers=(old,)), override="the key was stolen")
    with pytest.raises(CertificateRefused, match="not issued by the CA"):
        await session(machine)
    with pytest.raises(PeerRefused):
        read_peer(x509.load_der_x509_certificate(peer_certificate), world.trust)
    entry = (await world.stores.audit.page("", "targets.3", "", "aud_8", 1))[0]
    assert (entry.detail["override"], entry.detail["reason"], entry.detail["dropped"]) == (
        "yes",
        "the key was stolen",
        old,
    )
    assert entry.detail["overridden"].startswith("1 of 1 nodes do not work by version 2 yet")
    refusals = await world.stores.audit.page("", "", "trust.refused", "aud_8", 10)
    assert [entry.outcome for entry in refusals] == ["refused"]


async def test_services_stand_in_the_way_of_their_issuer(world: World, holders: Holders) -> None:
    second, third = Generation(2), Generation(3)
    await holders.publish(
        Changes(add_roots=(second.root.der, third.root.der), add_services=(second.services.der, third.services.der))
    )
    met = {"fabric": second.services.service("fabric"), "breakwater": third.services.service("breakwater")}
    world.outside.certificates = met
    shown = await counted(world)
    assert [(entry.name, entry.issuer, entry.trust_version) for entry in shown.services] == [
        ("fabric", second.services.key_id, 2),
        ("breakwater", third.services.key_id, None),
    ]
    with pytest.raises(AdoptionIncomplete, match=f"breakwater serves by {third.services.key_id}"):
        await holders.publish(Changes(drop_issuers=(third.services.key_id,)))
    met["breakwater"] = second.services.service("breakwater")
    await holders.publish(Changes(drop_issuers=(third.services.key_id,)))


async def test_what_nodes_tell_only_grows_and_is_bounded_by_what_was_published(world: World, holders: Holders) -> None:
    (machine,) = await fleet(world, 1)

    async def told(version: int) -> int:
        await session(machine, version)
        await world.follower.run_once()
        return (await world.generation(machine.node, 1)).trust_version

    assert await told(2**53) == 0
    assert await told(9) == 0
    assert await told(1) == 1
    await holders.publish()
    await holders.publish()
    assert await told(3) == 3
    assert await told(2) == 3
    assert await told(-1) == 3
    assert len(world.parts.trust.trust_reports) == 0


async def test_only_open_confirmed_generations_count(world: World) -> None:
    code = await world.code(seats=4)
    active, suspended, revoked, offered = (Machine(world, label=f"ek {n}") for n in range(4))
    for machine in (active, suspended, revoked):
        await machine.join(code.secret)
    await offered.activate(code.secret)
    await change(world, suspended, "suspend")
    await change(world, revoked, "revoke")
    shown = await counted(world)
    assert (shown.nodes, shown.adopted) == (2, 0)
    first = await world.parts.trust.adoption.nodes("", "", 1)
    rest = await world.parts.trust.adoption.nodes("", first.next_cursor, 1)
    assert [entry.node for entry in (*first.items, *rest.items)] == sorted((active.node, suspended.node))
    assert rest.next_cursor == ""
    issuer = key_id_of(world.trust.node_issuers[0])
    assert len((await world.parts.trust.adoption.nodes(issuer, "", 50)).items) == 2
    assert (await world.parts.trust.adoption.nodes(adoption.UNKNOWN_ISSUER, "", 50)).items == ()
    with pytest.raises(Invalid):
        await world.parts.trust.adoption.nodes("", "!", 50)


async def test_a_fleet_is_walked_in_stretches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = await fleet(world, 3)
    monkeypatch.setattr(adoption_store, "STRETCH_NODES", 1)
    shown = await counted(world)
    assert (shown.nodes, shown.adopted) == (3, 0)
    missing = await world.parts.trust.adoption.nodes("", "", 50)
    assert [entry.node for entry in missing.items] == sorted(machine.node for machine in machines)
    assert await world.parts.trust.adoption.named(1, ()) == sorted(machine.node for machine in machines)


async def test_until_when_sessions_of_an_issuer_count_is_durable_before_one_is_given(world: World) -> None:
    (machine,) = await fleet(world, 1)
    issuer = key_id_of(world.trust.node_issuers[0])
    until = sessions_until(await world.stores.installation.read_all())[issuer]
    assert world.clock() + 12 * HOUR <= until <= world.clock() + 13 * HOUR
    world.clock.forward(2 * HOUR)
    await session(machine)
    later = sessions_until(await world.stores.installation.read_all())[issuer]
    assert later == until + 2 * HOUR
    await world.stores.installation.raise_sessions_until(issuer, until)
    assert sessions_until(await world.stores.installation.read_all())[issuer] == later


async def order(world: World, **body: object) -> schemas.RenewalOrder:
    return await world.parts.trust.renewal_orders.give(ALICE, schemas.RenewDevices(**body))  # type: ignore[arg-type]


async def test_an_order_to_renew_reaches_every_lease(world: World) -> None:
    one, two = await fleet(world, 2)
    peers = {machine.node: await session(machine) for machine in (one, two)}
    before = await one.refresh(peers[one.node])
    world.clock.forward(timedelta(minutes=1))
    made = await order(world, reason="the key is to be changed")
    assert (made.nodes, made.woken, made.spread_seconds, made.done) == (2, 0, 0, False)
    assert made.after == world.clock()
    cursors = {machine.node: (await world.node(machine.node)).wake_cursor for machine in (one, two)}
    assert await one.refresh(peers[one.node]) == before, "until every replica has heard of it"
    world.clock.forward(timedelta(seconds=5))
    await world.follower.run_once()
    for machine in (one, two):
        assert (await world.node(machine.node)).wake_cursor == cursors[machine.node] + 1
        lease = await machine.refresh(peers[machine.node])
        assert isinstance(lease, Lease)
        assert lease.renew_device_after == made.after
        assert await machine.refresh(peers[machine.node]) == lease, "signed once"
    await world.follower.run_once()
    shown = await world.parts.trust.adoption.show()
    assert shown.renewal is not None
    assert (shown.renewal.woken, shown.renewal.done) == (2, True)
    assert await world.actions("renew_devices") == ["trust.renew_devices"]


async def test_waking_is_spread_and_survives_a_restart(world: World) -> None:
    machines = await fleet(world, 4)
    cursors = {machine.node: (await world.node(machine.node)).wake_cursor for machine in machines}
    await order(world, spread_seconds=40, after=world.clock() + DAY)
    world.clock.forward(DAY + timedelta(seconds=5))
    woken: list[int] = []
    for _ in range(6):
        woken.append(await world.parts.trust.renewal_orders.wake_due())
        world.parts.current_trust.order = None  # as after a restart
        await world.follower.look()
        world.clock.forward(timedelta(seconds=10))
    assert woken == [0, 1, 1, 1, 1, 0]
    assert world.parts.current_trust.order is not None
    assert world.parts.current_trust.order.done
    for node, cursor in cursors.items():
        assert (await world.node(node)).wake_cursor == cursor + 1


async def test_a_lease_is_signed_anew_only_when_the_turn_of_its_node_has_come(world: World) -> None:
    """Every node asks at each heartbeat: without turns a whole fleet would be ordered within ten minutes."""
    machines = sorted(await fleet(world, 3), key=lambda machine: machine.node)
    peers = [await session(machine) for machine in machines]
    before = [await machine.refresh(peer) for machine, peer in zip(machines, peers, strict=True)]
    made = await order(world, spread_seconds=30)
    after, changed = before, []
    world.clock.forward(timedelta(seconds=5))
    for _ in range(4):
        await world.parts.trust.renewal_orders.wake_due()
        after = [await machine.refresh(peer) for machine, peer in zip(machines, peers, strict=True)]
        changed.append([one != other for one, other in zip(before, after, strict=True)])
        world.clock.forward(timedelta(seconds=10))
    assert changed == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert all(isinstance(lease, Lease) and lease.renew_device_after == made.after for lease in after)


async def test_an_order_for_a_later_time_starts_then(world: World) -> None:
    """Leases that brought it before would have the whole fleet renew in the heartbeat after that time."""
    (machine,) = await fleet(world, 1)
    made = await order(world, after=world.clock() + DAY)
    world.clock.forward(DAY)
    assert await world.parts.trust.renewal_orders.wake_due() == 0
    lease = await machine.refresh(await session(machine))
    assert isinstance(lease, Lease)
    assert lease.issued_at == world.clock()
    assert lease.renew_device_after is msgspec.UNSET
    world.clock.forward(timedelta(seconds=5))
    assert await world.parts.trust.renewal_orders.wake_due() == 1
    lease = await machine.refresh(await session(machine))
    assert isinstance(lease, Lease)
    assert lease.renew_device_after == made.after


async def test_a_clock_that_goes_back_wakes_nobody(world: World) -> None:
    await fleet(world, 3)
    await order(world, spread_seconds=30)
    world.clock.forward(timedelta(seconds=25))
    assert await world.parts.trust.renewal_orders.wake_due() == 2
    world.clock.forward(timedelta(seconds=-15))
    assert await world.parts.trust.renewal_orders.wake_due() == 0
    assert world.parts.current_trust.order is not None
    assert (world.parts.current_trust.order.woken, world.parts.current_trust.order.done) == (2, False)


async def test_of_two_replicas_one_wakes(world: World) -> None:
    (machine,) = await fleet(world, 1)
    await order(world)
    world.clock.forward(timedelta(seconds=5))
    held = world.parts.current_trust.order
    cursor = (await world.node(machine.node)).wake_cursor
    assert await world.parts.trust.renewal_orders.wake_due() == 1
    world.parts.current_trust.order = held  # the other replica has not looked yet
    await world.follower._try("wake", world.parts.trust.renewal_orders.wake_due)
    assert (await world.node(machine.node)).wake_cursor == cursor + 1


async def test_a_suspended_node_is_left_asleep(world: World) -> None:
    (machine,) = await fleet(world, 1)
    await change(world, machine, "suspend", "unpaid")
    peer = await session(machine)
    before = await machine.refresh(peer)
    await order(world)
    world.clock.forward(timedelta(seconds=5))
    assert await world.parts.trust.renewal_orders.wake_due() == 0
    assert await machine.refresh(peer) == before
    await change(world, machine, "resume")
    lease = await machine.refresh(peer)
    assert isinstance(lease, Lease)
    assert lease.renew_device_after == world.clock() - timedelta(seconds=5)


@pytest.mark.parametrize("body", [{"spread_seconds": -1}, {"spread_seconds": 10**9}, {"reason": "x" * 300}])
async def test_an_order_that_cannot_be(world: World, body: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        await order(world, **body)
    assert await world.stores.installation.renewal_order() is None
