"""Recovery during a contact: from a rotation, and from a device certificate that opens no session any more."""

from pathlib import Path

import msgspec
import pytest

from cloud.fabric.tuf.targets import build_targets
from node.exchanges import schedule
from node.exchanges.contact import Contact
from node.hwbind.tpm import Tpm
from node.link.certificates import CertificateRejected
from node.trust import published
from node.trust.errors import TrustUnreachable
from node.trust.published import TrustSet
from tests.node.conftest import Machine
from tests.node.shells import VERSION, Refreshes, contact_of, install, trust_of
from tests.simulators.fabric import (
    Fabric,
    authority,
    utc_now,
)
from tests.simulators.repository import Repository

pytestmark = pytest.mark.slow


def rotate(fabric: Fabric) -> None:
    """Another root, other issuing CAs, and other certificates of the services."""
    fabric.root = authority("root 2")
    fabric.nodes, fabric.services = authority("nodes 2", fabric.root), authority("services 2", fabric.root)
    fabric.leaves = {name: fabric.service_leaf(name) for name in fabric.leaves}


async def test_a_node_that_slept_through_a_rotation_recovers_while_it_settles(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    rotate(fabric)
    await contact.attempt()
    assert contact.last_contact_at is not None
    assert (refreshes.asked, contact.failures) == (1, 0)
    assert contact._trust.value.bundle == fabric.bundle
    assert set(fabric.trust_versions) == {VERSION + 1}


def targets_of(fabric: Fabric) -> dict[str, bytes]:
    bundle = fabric.bundle
    return build_targets(
        keys=fabric.verification_keys(),
        trust_domain=bundle.trust_domain,
        roots=list(bundle.roots),
        node_issuers=list(bundle.node_issuers),
        service_issuers=list(bundle.service_issuers),
        fabric_url=fabric.urls.fabric,
        breakwater_url=fabric.urls.breakwater,
    )


async def test_the_trust_on_the_disk_is_brought_up_to_date_from_the_repository(
    fabric: Fabric, machine: Machine, tpm: Tpm, tmp_path: Path
) -> None:
    """A complete rotation: the old trust is stored, a real repository and the cloud have the new trust."""
    with Repository(targets_of(fabric), now=utc_now()).served() as repository:
        state = install(tmp_path / "state", fabric, machine.ak, machine.node_key)
        await (await published.stage(repository.url, repository.pin, state.directory)).keep()
        rotate(fabric)
        repository.replace(targets_of(fabric), now=utc_now())
        contact = contact_of(state, tpm)
        contact._hardware.report_ours()
        before = contact._trust.value
        await contact.attempt()
        await contact.connection.close()
    assert (contact.failures, contact.licence.verdict().gate_open) == (0, True)
    assert contact._trust.value.version > before.version
    assert published.load(state.directory).bundle == fabric.bundle != before.bundle
    assert set(fabric.trust_versions) == {contact._trust.value.version}


async def test_a_session_by_an_unpublished_issuer_leads_to_the_trust(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    await contact.attempt()
    fabric.nodes = authority("nodes 2", fabric.root)
    assert await contact.attempt(new_session=True)
    assert refreshes.asked == 1


async def test_an_unverified_server_refreshes_the_trust_once_in_ten_minutes(
    contact: Contact, fabric: Fabric, refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshes.make = lambda: contact._trust.value
    rotate(fabric)
    for _ in range(5):
        assert not await contact.attempt()
        assert contact.licence.verdict().gate_open
    assert refreshes.asked == 1
    monkeypatch.setattr(schedule, "trust_recovery_seconds", lambda node: 0.0)
    assert not await contact.attempt()
    assert refreshes.asked == 2


async def test_a_repository_out_of_reach_leaves_the_trust_as_it_was(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contact._trust.value

    async def refresh(_: Path, **_held: object) -> TrustSet:
        raise TrustUnreachable("cannot fetch the published trust")

    monkeypatch.setattr("node.trust.published.refresh", refresh)
    rotate(fabric)
    await contact.attempt()
    assert contact._trust.value is before
    assert contact.licence.verdict().gate_open


async def test_other_faults_of_a_certificate_do_not_lead_to_the_trust(
    contact: Contact, fabric: Fabric, refreshes: Refreshes, machine: Machine
) -> None:
    assert not await contact._recover_trust(CertificateRejected(3, "it does not name us"))
    assert refreshes.asked == 0


async def test_a_session_is_replaced_under_another_trust(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    await contact.attempt()
    opened = contact.connection.credentials
    await contact._trust.refresh()
    assert await contact.attempt()
    assert contact.connection.credentials is opened
    other = authority("services 2", fabric.root)
    more = msgspec.structs.replace(fabric.bundle, service_issuers=(fabric.services.der, other.der))
    refreshes.make = lambda: msgspec.structs.replace(trust_of(fabric), bundle=more, version=VERSION + 2)
    await contact._trust.refresh()
    assert await contact.attempt()
    replaced = contact.connection.credentials
    assert replaced is not opened
    assert await contact.attempt()
    assert contact.connection.credentials is replaced


async def test_a_certificate_that_opens_no_session_is_renewed_with_evidence(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    before = contact.licence.identity
    fabric.taken = set()
    contact.conditions.report("device_renewal_failed", "an earlier renewal failed")
    await contact.attempt()
    assert contact.last_contact_at is not None
    assert contact.licence.identity.chain[0] in fabric.taken
    assert contact.conditions.current() == ()
    assert contact.licence.identity.node_key == before.node_key
    assert contact.licence.verdict().gate_open


async def test_a_superseded_node_with_an_expired_certificate_gets_its_revocation(
    contact: Contact, fabric: Fabric
) -> None:
    fabric.taken = set()
    fabric.revoke("superseded")
    await contact.attempt()
    assert contact.licence.revoked


async def test_slept_through_the_rotation_and_past_the_certificate(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    """The node's trust has neither the servers' issuers nor the issuer of its new certificate."""
    rotate(fabric)
    fabric.taken = set()
    await contact.attempt()
    assert (contact.last_contact_at is not None, refreshes.asked) == (True, 1)
    assert contact.licence.identity.chain[1] == fabric.nodes.der
