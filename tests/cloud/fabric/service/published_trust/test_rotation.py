"""A rotation of all CAs with simulated nodes: adoption is counted, early drops are refused, no session is lost."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cloud.cli import published_trust
from cloud.fabric.errors import AdoptionIncomplete, CertificateRefused
from cloud.fabric.tuf.offline import Changes
from cloud.fabric.tuf.repository import pin_of
from cloud.fabric.tuf.targets import Content
from cloud.mtls.peer import PeerRefused, key_id_of, read_peer
from protocol.messages.sessions import Ask
from tests.cloud.fabric.authorities import Generation, PaperIssuer
from tests.cloud.fabric.fleets import counted, fleet, renewed, session
from tests.cloud.fabric.publishing import Holders, mirrored, names
from tests.cloud.fabric.support import NONCE, Machine, World
from tests.simulators.repository import Repository

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)


class Rotation:
    """A rotation from the CAs of `world` to the generation `second`, with the machines that live through it."""

    def __init__(self, world: World, holders: Holders, machines: list[Machine], first: Content) -> None:
        self.world, self.holders, self.machines, self.second = world, holders, machines, Generation()
        root, self.old_nodes, services = (
            key_id_of(x509.load_der_x509_certificate(ders[0]))
            for ders in (first.bundle.roots, first.bundle.node_issuers, first.bundle.service_issuers)
        )
        second = self.second
        self.adding = Changes(
            add_roots=(second.root.der,), add_nodes=(second.nodes.der,), add_services=(second.services.der,)
        )
        self.dropping = Changes(drop_roots=(root,), drop_issuers=(self.old_nodes, services))

    async def adopt(self) -> None:
        """Publish the new generation of CAs beside the old one. Nodes report it in a session or a request."""
        world, machines = self.world, self.machines
        await self.holders.publish(self.adding)
        # The new version counts at once, also in a process whose follower has not read it yet.
        world.parts.current_trust.version = 1
        shown = await world.parts.trust.adoption.show()
        assert (shown.trust_version, shown.adopted) == (2, 0)
        assert len((await world.parts.trust.adoption.nodes("", "", 50)).items) == 5
        assert (await counted(world)).adopted == 0
        for machine in machines[:3]:
            await session(machine, 2)
        assert (await counted(world)).adopted == 3
        with pytest.raises(AdoptionIncomplete, match="2 of 5 nodes have not reported version 2") as refused:
            await self.holders.publish(self.dropping)
        assert all(machine.node in refused.value.detail for machine in machines)
        for machine in machines[3:]:
            await world.parts.nodes.statements.statement(await session(machine), Ask(NONCE, machine.held, 2))
        shown = await counted(world)
        assert (shown.adopted, shown.nodes) == (5, 5)
        assert (await world.parts.trust.adoption.nodes("", "", 50)).items == ()

    async def renew(self) -> None:
        """The new CA issues. Nodes renew their device certificates one after the other, and sessions continue."""
        world, machines = self.world, self.machines
        issuer = PaperIssuer(self.second.nodes, world.clock)
        world.outside.issuer = issuer
        for number, machine in enumerate(machines):
            for other in machines:
                await session(other, 2)
            await renewed(machine, issuer)
            await session(machine, 2)
            assert names((await counted(world)).issuers).get(self.second.nodes.key_id) == number + 1
        with pytest.raises(AdoptionIncomplete, match=f"session certificates from {self.old_nodes} may"):
            await self.holders.publish(self.dropping)

    async def drop(self) -> None:
        """Half a day later every session certificate of the old CA has expired. Fabric renews its own last."""
        world, machines, services = self.world, self.machines, self.second.services
        world.clock.forward(13 * HOUR)
        for machine in machines:
            await session(machine, 2)
        await world.follower.run_once()
        world.outside.certificates = {"fabric": services.service("fabric")}
        with pytest.raises(AdoptionIncomplete, match="Breakwater does not answer"):
            await self.holders.publish(self.dropping)
        both = {name: services.service(name) for name in ("fabric", "breakwater")}
        world.outside.certificates = dict(both)
        published = await self.holders.publish(self.dropping)
        assert published.targets_version == 3
        assert [key_id_of(root) for root in world.parts.current_trust.roots] == [self.second.root.key_id]
        for machine in machines:
            await session(machine, 3)
        assert (await counted(world)).adopted == 5


async def test_a_generation_of_cas_is_rotated_without_a_refused_session(
    world: World, holders: Holders, tmp_path: Path
) -> None:
    machines = await fleet(world, 5)
    rotation = Rotation(world, holders, machines, await holders.content())
    sleeper = dataclasses.replace(machines[0])
    assert (await counted(world)).adopted == 0
    for machine in machines:
        await session(machine, 1)
    shown = await counted(world)
    assert (shown.trust_version, shown.adopted, shown.nodes) == (1, 5, 5)
    assert names(shown.issuers) == {rotation.old_nodes: 5}
    await rotation.adopt()
    await rotation.renew()
    await rotation.drop()

    # Certificates of the old CA are refused. A node that was offline finds the new trust from the first pin.
    with pytest.raises(CertificateRefused, match="not issued by the CA"):
        await session(sleeper, 1)
    with Repository().served() as repository:
        repository.store = await mirrored(world)
        pin = pin_of(repository.store.files["root", 1])
        bundle, _ = published_trust.fetch(repository.url, pin, tmp_path / "sleeper", world.clock)
    assert bundle.roots == (rotation.second.root.der,)
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
    assert entry.detail["overridden"].startswith("1 of 1 nodes have not reported version 2 yet")
    refusals = await world.stores.audit.page("", "", "trust.refused", "aud_8", 10)
    assert [entry.outcome for entry in refusals] == ["refused"]


async def test_an_issuer_is_not_dropped_while_a_service_uses_it(world: World, holders: Holders) -> None:
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
    with pytest.raises(AdoptionIncomplete, match=f"breakwater has a TLS certificate from {third.services.key_id}"):
        await holders.publish(Changes(drop_issuers=(third.services.key_id,)))
    met["breakwater"] = second.services.service("breakwater")
    await holders.publish(Changes(drop_issuers=(third.services.key_id,)))
