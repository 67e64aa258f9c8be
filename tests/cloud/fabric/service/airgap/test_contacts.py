"""`cloud.fabric.service.airgap.contacts`: a request is judged as a session is judged."""

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric import errors, schemas
from cloud.fabric.bodies.clones import SettleClone
from cloud.fabric.bodies.restored import AcceptNode, BeginRebuild, ImportClosed
from cloud.fabric.errors import (
    AirgapOutdated,
    CertificateRefused,
    Conflict,
    CsrRefused,
    FingerprintRefused,
    IssuerUnavailable,
    NodeUnknown,
    ProofRefused,
    QuoteRefused,
)
from cloud.storage import Statement
from protocol.evidence import ClockInfo, NvCounter
from protocol.ids import NodeId
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.backups import EPOCH, FABRIC_TABLES
from tests.cloud.fabric.carried import Site, a_site
from tests.cloud.fabric.software_machine import SoftwareMachine
from tests.cloud.fabric.support import ALICE, Machine, World, change, run_once, world_at
from tests.simulators.forged_evidence import request

HOUR = timedelta(hours=1)
UNKNOWN = NodeId("node_01jd8xk3v5e2r9qz7w4m6n8p0a")


def twin(site: Site) -> Site:
    """A copy of the machine with its disk and its virtual TPM."""
    made = copy.copy(site)
    made.machine, made.former, made.made = copy.copy(site.machine), [], site.made + 500
    return made


async def refused(site: Site, error: type[errors.Refused], reason: str, **changes: Any) -> None:
    """Send a request that is refused. It changes nothing: no row of the node, and no exchange."""
    before = await site.exchanges()
    node, row = await site.world.node(site.machine.node), await site.world.generation(site.machine.node, 1)
    with pytest.raises(error, match=reason):
        await site.send(site.text(**changes))
    assert await site.exchanges() == before
    assert await site.world.node(site.machine.node) == node
    assert await site.world.generation(site.machine.node, 1) == row


async def test_wrong_nodes_and_keys(site: Site) -> None:
    await refused(site, NodeUnknown, "does not know the node", node=UNKNOWN)
    await refused(site, NodeUnknown, "does not know the node", generation=7)
    own, site.machine.node_key = site.machine.node_key, ec.generate_private_key(ec.SECP256R1())
    await refused(site, ProofRefused, "another key than that of this generation")
    site.machine.node_key = own
    await refused(site, ProofRefused, "no clock of the TPM", clock=site.clock(tpm=msgspec.UNSET))
    await refused(site, ProofRefused, "out of bounds", clock=site.clock(tpm=ClockInfo(-1, 1, 1, True)))
    assert isinstance(await site.refresh(), Lease)


async def test_an_earlier_request_is_refused_by_name(site: Site) -> None:
    early = site.text()
    site.world.clock.forward(HOUR)
    await site.refresh()
    with pytest.raises(AirgapOutdated, match="made before the request agr_"):
        await site.send(early)
    assert [each.state for each in await site.exchanges()] == ["received", "answered"]


async def test_a_request_from_before_a_session_is_refused_by_name(site: Site) -> None:
    """The machine was connected after it wrote the file. Its renewal token is a spent one by now."""
    early = site.text()
    site.world.clock.forward(HOUR)
    site.ticks += 3_600_000
    body = site.machine.ask_for_session(clock=ClockInfo(site.ticks, 1, 0, True), renewal=site.token)
    session = await site.world.parts.nodes.sessions.open_session(body)
    with pytest.raises(AirgapOutdated, match="made before the node's contact"):
        await site.send(early)
    site.token = session.renewal
    assert isinstance(await site.refresh(), Lease)
    assert (await site.world.node(site.machine.node)).clone_cause == ""


async def test_a_session_ends_the_wait_for_the_receipt(site: Site) -> None:
    world = site.world
    site.world.clock.forward(HOUR)
    assert (await world.parts.operators.node_lists.detail(site.machine.node)).receipt_outstanding_since is not None
    await world.parts.nodes.sessions.open_session(
        site.machine.ask_for_session(clock=ClockInfo(site.ticks + 1, 1, 0, True), renewal=site.token)
    )
    await world.parts.nodes.seen.store()
    assert (await world.parts.operators.node_lists.detail(site.machine.node)).receipt_outstanding_since is None


async def test_a_lost_answer_is_no_clone(site: Site) -> None:
    """The machine makes another request with the token that it has."""
    for _ in range(3):
        site.world.clock.forward(HOUR)
        await site.send(site.text())
    assert isinstance(await site.refresh(), Lease)
    assert (await site.world.node(site.machine.node)).clone_cause == ""
    states = [each.state for each in await site.exchanges()]
    assert states == ["received", "superseded", "superseded", "superseded", "answered"]


async def test_two_copies_that_take_turns_are_suspected(site: Site) -> None:
    """Both have the same token. The second request of the first one shows that the other one has spent it too."""
    copied = twin(site)
    for each in (site, copied, site):
        site.world.clock.forward(HOUR)
        await each.refresh()
    site.world.clock.forward(HOUR)
    older = await copied.refresh()
    node = await site.world.node(site.machine.node)
    assert node.clone_cause == "renewal-token"
    held = site.world.statement(site.machine.held)
    assert isinstance(older, Lease)
    assert isinstance(held, Lease)
    assert older.terminate_at <= held.terminate_at
    site.world.clock.forward(HOUR)
    newest = await site.refresh()
    assert isinstance(newest, Lease)
    assert newest.terminate_at > older.terminate_at
    again = await copied.refresh()
    assert isinstance(again, Lease)
    assert again.terminate_at == older.terminate_at, "no later date for the older copy"


async def test_a_settled_copy_is_suspended(site: Site) -> None:
    copied = twin(site)
    for each in (site, copied, site, copied):
        site.world.clock.forward(HOUR)
        await each.refresh()
    cases = site.world.parts.operators.clone_cases
    case = await cases.show(site.machine.node)
    await cases.settle(ALICE, site.machine.node, SettleClone(case.evidence[0].id))
    assert isinstance(await site.refresh(), Lease)
    assert isinstance(await copied.refresh(), Suspension)


async def test_a_closed_generation_gets_its_revocation(site: Site) -> None:
    held = copy.copy(site)
    held.machine = copy.copy(site.machine)
    site.world.clock.forward(HOUR)
    await site.activate((await site.world.code()).secret)
    held.ticks = site.ticks + 1
    held.made += 100
    statement = await held.refresh()
    assert isinstance(statement, Revocation)
    assert statement.reason == "superseded"
    actions = await site.world.actions(site.machine.node)
    assert "revocation.delivered" in actions
    assert "node.superseded_asked" in actions


async def test_a_generation_that_was_never_confirmed_gets_no_answer(world: World) -> None:
    machine = Machine(world)
    await machine.activate((await world.code()).secret)
    site = Site(machine)
    with pytest.raises(Conflict, match="was not confirmed"):
        await site.send(site.text())


async def test_the_tenants_policy_for_pcr_quotes_holds(site: Site) -> None:
    policy = schemas.SetPcrPolicy("require", "")
    await site.world.parts.operators.pcr_policies.set_policy(ALICE, site.world.tenant, policy)
    await refused(site, QuoteRefused, "no quote")


async def test_a_machine_without_a_tpm_needs_its_fingerprint(world: World) -> None:
    tenants = world.parts.operators.tenants
    await tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("attested", "software")))
    software = SoftwareMachine(world)
    await software.join((await world.code()).secret)
    site = Site(Machine(world, "software"), salt=software.salt)
    site.machine.node_key, site.machine.activated = software.key, software.activated
    site.machine.fingerprint, site.machine.held = software.fingerprint(), software.statement
    without = site.clock(tpm=msgspec.UNSET)
    ahead = site.world.clock() + timedelta(days=400)  # and its clock is corrected after the answer
    assert isinstance(await site.refresh(clock=without, made_at=ahead), Lease)
    site.world.clock.forward(HOUR)
    assert isinstance(await site.refresh(clock=without), Lease)
    site.machine.fingerprint = {}
    await refused(site, FingerprintRefused, "not the same", clock=without)


async def test_what_the_request_reports_is_stored(site: Site) -> None:
    await site.refresh(floor=NvCounter(0x01C20000, "000b" + "ab" * 32, 3), development=True, trust_version=1)
    await site.world.parts.nodes.seen.store()
    await site.world.parts.trust.trust_reports.store()
    node = await site.world.node(site.machine.node)
    assert (node.floor_index, node.floor_value, node.development) == (0x01C20000, 3, True)
    row = await site.world.generation(node.id, 1)
    assert (row.trust_version, row.lease_version) == (1, 2)
    assert row.device_issuer != ""
    assert row.seen_at is None, "seen are nodes that open sessions"


def ends(site: Site) -> object:
    activated = site.machine.activated
    assert activated is not None
    return x509.load_der_x509_certificate(activated.certificate_chain[0]).not_valid_after_utc


async def test_a_due_device_certificate_is_renewed_for_the_same_key(site: Site) -> None:
    first = ends(site)
    await site.refresh()
    assert ends(site) == first, "it is not due"
    site.world.clock.forward(timedelta(days=250))
    text = site.text()
    await site.answered(text)
    await site.refresh()
    renewed = ends(site)
    assert renewed > first  # type: ignore[operator]  # two times
    row = await site.world.generation(site.machine.node, 1)
    assert row.certificate_not_after == renewed
    session = await site.world.parts.nodes.sessions.open_session(
        site.machine.ask_for_session(clock=ClockInfo(site.ticks + 1, 1, 0, True), renewal=site.token)
    )
    assert session.certificate_chain


async def test_a_device_certificate_that_expired_years_ago_is_renewed(site: Site) -> None:
    site.world.clock.forward(timedelta(days=800))
    assert isinstance(await site.refresh(), Lease)
    assert ends(site) > site.world.clock()  # type: ignore[operator]  # two times


async def test_a_machine_that_lost_its_device_certificate_gets_one(site: Site) -> None:
    assert isinstance(await site.refresh(device_certificate=b""), Lease)
    assert "device" in site.world.issuer.calls


async def test_certificates_and_csrs_of_other_keys_are_refused(site: Site, world: World) -> None:
    other = a_site(world, "ek 2")
    await other.activate((await world.code()).secret)
    assert other.machine.activated is not None
    theirs = other.machine.activated.certificate_chain[0]
    await refused(site, CertificateRefused, "not of this generation", device_certificate=theirs)
    await refused(site, CertificateRefused, "cannot be read", device_certificate=b"none")
    strange = ec.generate_private_key(ec.SECP256R1())
    await refused(site, CsrRefused, r"\(step 27\)", device_certificate=b"", csr=request(strange))


async def test_a_restored_virtual_machine_is_answered(site: Site) -> None:
    """Its TPM is behind, and its time is not."""
    before = twin(site)
    before.made += 100
    for _ in range(2):
        site.world.clock.forward(HOUR)
        await site.refresh()
    site.world.clock.forward(HOUR)
    before.former = []
    assert isinstance(await before.refresh(), Lease)
    assert "node.restored" in await site.world.actions(site.machine.node)


async def test_a_revocation_that_a_restored_cloud_has_lost_is_adopted(site: Site) -> None:
    """The node presents it in a request."""
    world = site.world
    node, row = await world.node(site.machine.node), await world.generation(site.machine.node, 1)
    await change(world, site.machine, "revoke")
    revoked = (await world.generation(site.machine.node, 1)).statement
    async with world.stores.transaction():
        await world.stores.nodes.update(node, "changed")
        await world.stores.nodes.update_generation(row, node)
    site.machine.held = revoked
    assert isinstance(await site.refresh(), Revocation)
    assert (await world.node(site.machine.node)).standing == "revoked"


async def test_a_lost_node_is_reconstructed_from_its_request(home: Path, databases: Path) -> None:
    """While a rebuild runs. The node keeps its lease, and gets later dates when an operator accepts it."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        site = a_site(world)
        await site.activate((await world.code()).secret)
        held = await site.refresh()
        for table in FABRIC_TABLES:
            await world.stores.engine.fetch(Statement(f"DELETE FROM {table}"))  # noqa: S608  (names of tables)
        await world.stores.engine.fetch(EPOCH, value=b"2")
    async with world_at(home, databases, clock, first=False) as world:
        site.machine.world = world
        clock.forward(HOUR)
        with pytest.raises(IssuerUnavailable, match="compares its records first"):
            await site.send(site.text())
        await run_once(world)
        with pytest.raises(NodeUnknown):
            await site.send(site.text())
        rebuilds = world.parts.restored.rebuilds
        await rebuilds.begin(ALICE, BeginRebuild("the database is lost"))
        for wrong in (b"", b"none"):
            with pytest.raises(NodeUnknown):
                await site.send(site.text(device_certificate=wrong))
        assert await site.refresh() == held
        assert (await world.node(site.machine.node)).hold == "unconfirmed"
        assert await site.refresh() == held
        await world.parts.restored.holds.accept(ALICE, site.machine.node, AcceptNode("unconfirmed"))
        lease = await site.refresh()
        assert isinstance(lease, Lease)
        assert (lease.epoch, lease.issued_at) == (2, clock())


async def test_a_node_in_an_imported_crl_is_refused_after_a_restore(home: Path, databases: Path) -> None:
    """The node was revoked after the backup, and shows the lease of before. It cannot keep its certificate back."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        site = a_site(world)
        await site.activate((await world.code()).secret)
        await site.refresh()
        await world.stores.engine.fetch(EPOCH, value=b"2")
    async with world_at(home, databases, clock, first=False) as world:
        site.machine.world = world
        await run_once(world)
        rebuilds = world.parts.restored.rebuilds
        clock.forward(HOUR)
        await site.refresh(device_certificate=b"")
        await rebuilds.import_closed(ALICE, ImportClosed((), ("77",)))
        clock.forward(HOUR)
        await site.refresh()
        await refused(site, CertificateRefused, "compared with the imported CRLs", device_certificate=b"")
        activated = site.machine.activated
        assert activated is not None
        serial = f"{x509.load_der_x509_certificate(activated.certificate_chain[0]).serial_number:x}"
        await rebuilds.import_closed(ALICE, ImportClosed((), (serial,)))
        await refused(site, CertificateRefused, "in an imported CRL")
