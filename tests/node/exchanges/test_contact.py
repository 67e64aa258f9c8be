"""Asking the cloud: what a node that slept through a rotation, or past its certificate, does about it by itself."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from cloud.fabric.tuf.targets import build_targets
from node.agent import Agent
from node.config import Config
from node.exchanges import schedule
from node.hwbind.tpm import Tpm
from node.link.api import CloudUnreachable
from node.link.certificates import CertificateRejected
from node.trust import published
from node.trust.errors import TrustUnreachable
from node.trust.published import TrustSet
from protocol.messages.est import PATH_SIMPLEREENROLL
from protocol.messages.renewal import PATH_RENEWALS
from tests.node.conftest import Machine
from tests.node.shells import VERSION, install, trust_of
from tests.simulators.fabric import DAY, Fabric, Reply, Request, authority, problem, refused, utc_now
from tests.simulators.repository import Repository

pytestmark = pytest.mark.slow

SESSIONS = "/v1/node/sessions"


@pytest.fixture
async def agent(tmp_path: Path, fabric: Fabric, machine: Machine, tpm: Tpm) -> AsyncIterator[Agent]:
    state = install(tmp_path / "state", fabric, machine.ak, machine.node_key)
    config = Config(
        state_dir=tmp_path / "state", socket=tmp_path / "s", tpm="tests", mode="development", heartbeat_seconds=2
    )
    made = Agent(config, state, tpm, state.load_licence(utc_now))
    yield made
    await made.new_session()


class Refreshes:
    """The trust that a refresh gives, and how often it was asked for."""

    def __init__(self, make: Callable[[], TrustSet]) -> None:
        self.make = make
        self.asked = 0

    async def refresh(self, _: Path) -> TrustSet:
        self.asked += 1
        return self.make()


@pytest.fixture
def refreshes(monkeypatch: pytest.MonkeyPatch, fabric: Fabric) -> Refreshes:
    answers = Refreshes(lambda: msgspec.structs.replace(trust_of(fabric), version=VERSION + 1))
    monkeypatch.setattr("node.trust.published.refresh", answers.refresh)
    return answers


def rotate(fabric: Fabric) -> None:
    """Another root, other issuing CAs, and other certificates of the services."""
    fabric.root = authority("root 2")
    fabric.nodes, fabric.services = authority("nodes 2", fabric.root), authority("services 2", fabric.root)
    fabric.leaves = {name: fabric.service_leaf(name) for name in fabric.leaves}


async def test_a_node_that_slept_through_a_rotation_recovers_while_it_settles(
    agent: Agent, fabric: Fabric, refreshes: Refreshes
) -> None:
    rotate(fabric)
    await agent.settle()
    assert agent.last_contact_at is not None
    assert (refreshes.asked, agent.failures) == (1, 0)
    assert agent.licence.trust.bundle == fabric.bundle
    assert set(fabric.told) == {VERSION + 1}


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
    """All of it: the old trust as it was published, a real repository with the new one, and a cloud under it."""
    with Repository(targets_of(fabric), now=utc_now()).served() as repository:
        state = install(tmp_path / "state", fabric, machine.ak, machine.node_key)
        await published.bootstrap(repository.url, repository.pin, state.directory)
        rotate(fabric)
        repository.replace(targets_of(fabric), now=utc_now())
        config = Config(state_dir=state.directory, socket=tmp_path / "s", tpm="tests", mode="development")
        agent = Agent(config, state, tpm, state.load_licence(utc_now))
        before = agent.licence.trust
        await agent.settle()
        await agent.new_session()
    assert (agent.failures, agent.licence.verdict().gate_open) == (0, True)
    assert agent.licence.trust.version > before.version
    assert published.load(state.directory).bundle == fabric.bundle != before.bundle
    assert set(fabric.told) == {agent.licence.trust.version}


async def test_a_session_by_an_unpublished_issuer_leads_to_the_trust(
    agent: Agent, fabric: Fabric, refreshes: Refreshes
) -> None:
    await agent.settle()
    fabric.nodes = authority("nodes 2", fabric.root)
    assert await agent.contact(anew=True)
    assert refreshes.asked == 1


async def test_a_server_that_nobody_vouches_for_is_looked_up_once_in_ten_minutes(
    agent: Agent, fabric: Fabric, refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent.check_hardware()
    refreshes.make = lambda: agent.licence.trust
    rotate(fabric)
    for _ in range(5):
        assert not await agent.contact()
        assert agent.licence.verdict().gate_open
    assert refreshes.asked == 1
    monkeypatch.setattr(schedule, "trust_recovery_seconds", lambda node: 0.0)
    assert not await agent.contact()
    assert refreshes.asked == 2


async def test_the_trust_is_refreshed_by_one_at_a_time(agent: Agent, fabric: Fabric, refreshes: Refreshes) -> None:
    """The daily refresh and a recovery: the slower of two must not put the older trust in the place of the newer."""
    gates = [trio.Event(), trio.Event()]
    finish = iter(gates)
    refresh = refreshes.refresh

    async def slow(path: Path) -> TrustSet:
        await next(finish).wait()
        return msgspec.structs.replace(await refresh(path), version=VERSION + refreshes.asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.trust.published.refresh", slow)
        async with trio.open_nursery() as nursery:
            for _ in gates:
                nursery.start_soon(agent._refresh_trust)
            await trio.testing.wait_all_tasks_blocked()
            gates[1].set()
            await trio.testing.wait_all_tasks_blocked()
            assert refreshes.asked == 0
            gates[0].set()
    assert agent.licence.trust.version == VERSION + 2


async def test_a_repository_out_of_reach_leaves_the_trust_as_it_was(
    agent: Agent, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = agent.licence.trust

    async def refresh(_: Path) -> TrustSet:
        raise TrustUnreachable("cannot fetch the published trust")

    monkeypatch.setattr("node.trust.published.refresh", refresh)
    rotate(fabric)
    await agent.settle()
    assert agent.licence.trust is before
    assert agent.licence.verdict().gate_open


async def test_other_faults_of_a_certificate_do_not_lead_to_the_trust(
    agent: Agent, fabric: Fabric, refreshes: Refreshes, machine: Machine
) -> None:
    assert not await agent._recover_trust(CertificateRejected(3, "it does not name us"))
    assert refreshes.asked == 0


async def test_a_session_is_opened_anew_under_another_trust(agent: Agent, fabric: Fabric, refreshes: Refreshes) -> None:
    await agent.settle()
    opened = agent._credentials
    await agent._refresh_trust()
    assert await agent.contact()
    assert agent._credentials is opened
    other = authority("services 2", fabric.root)
    more = msgspec.structs.replace(fabric.bundle, service_issuers=(fabric.services.der, other.der))
    refreshes.make = lambda: msgspec.structs.replace(trust_of(fabric), bundle=more)
    await agent._refresh_trust()
    assert await agent.contact()
    assert agent._credentials is not opened


async def test_it_tells_which_trust_it_works_by(agent: Agent, fabric: Fabric, refreshes: Refreshes) -> None:
    await agent.settle()
    assert set(fabric.told) == {VERSION}
    await agent._refresh_trust()
    assert await agent.contact()
    assert fabric.told[-1] == VERSION + 1


async def test_a_chain_with_cross_certificates_opens_a_session(agent: Agent, fabric: Fabric) -> None:
    fabric.chain_above = (fabric.root.der, fabric.root.der)
    await agent.settle()
    assert agent._credentials is not None
    assert len(agent._credentials.chain) == 4
    await agent.renew_device()
    assert len(agent.licence.identity.chain) == 2


async def test_a_certificate_that_opens_nothing_is_renewed_with_evidence(
    agent: Agent, fabric: Fabric, refreshes: Refreshes
) -> None:
    before = agent.licence.identity
    fabric.taken = set()
    await agent.settle()
    assert agent.last_contact_at is not None
    assert agent.licence.identity.chain[0] in fabric.taken
    assert agent.licence.identity.node_key == before.node_key
    assert agent.licence.verdict().gate_open


async def test_a_superseded_node_with_an_expired_certificate_is_told(agent: Agent, fabric: Fabric) -> None:
    fabric.taken = set()
    fabric.revoke("superseded")
    await agent.settle()
    assert agent.licence.revoked


async def test_slept_through_the_rotation_and_past_the_certificate(
    agent: Agent, fabric: Fabric, refreshes: Refreshes
) -> None:
    """Neither the servers nor the issuer of its certificate are what it knew."""
    rotate(fabric)
    fabric.taken = set()
    await agent.settle()
    assert (agent.last_contact_at is not None, refreshes.asked) == (True, 1)
    assert agent.licence.identity.chain[1] == fabric.nodes.der


async def test_a_renewal_that_is_refused_is_silence(agent: Agent, fabric: Fabric) -> None:
    fabric.taken = set()
    fabric.answers[PATH_RENEWALS] = refused("certificate_refused")
    await agent.settle()
    assert (agent.failures, agent.last_contact_at) == (1, None)
    assert agent.licence.verdict().gate_open


async def test_a_renewal_that_waits_holds_nothing_up(agent: Agent, fabric: Fabric) -> None:
    await agent.settle()
    proofs: list[str] = []
    route = fabric._route

    async def away(request: Request) -> Reply:
        if not request.path.endswith("/proof"):
            return await route(request)
        proofs.append(request.path)
        return problem("unavailable")

    fabric._route = away  # type: ignore[method-assign]  # one route of it fails
    with pytest.raises(CloudUnreachable):
        await agent.renew_device(rekey=True)
    before = agent.licence.identity
    assert await agent.contact()
    assert (agent.licence.identity, len(proofs)) == (before, 2)
    fabric._route = route  # type: ignore[method-assign]
    assert await agent.contact()
    assert agent.licence.identity.node_key != before.node_key


async def test_a_renewal_whose_answer_is_not_believed_holds_nothing_up(
    agent: Agent, fabric: Fabric, refreshes: Refreshes
) -> None:
    """Stored at the cloud, it would come at every contact, and the lease would end over it."""
    await agent.settle()
    route, issuing, early = fabric._route, fabric.nodes, authority("nodes 2", fabric.root)

    async def unpublished(request: Request) -> Reply:
        fabric.nodes = early if request.path.endswith("/proof") else issuing
        return await route(request)

    fabric._route = unpublished  # type: ignore[method-assign]  # a CA that has not been published yet
    with pytest.raises(CertificateRejected):
        await agent.renew_device(rekey=True)
    before = agent.licence.identity
    assert await agent.contact()
    assert agent.licence.identity == before
    bundle = agent.licence.trust.bundle
    both = msgspec.structs.replace(bundle, node_issuers=(*bundle.node_issuers, early.der))
    agent.licence.trust = msgspec.structs.replace(agent.licence.trust, bundle=both)
    assert await agent.contact()
    assert agent.licence.identity.node_key != before.node_key


async def test_a_rekey_ends_in_a_session_by_the_new_key(agent: Agent, fabric: Fabric) -> None:
    await agent.settle()
    before, session = agent.licence.identity.node_key, agent._credentials
    await agent.renew_device(rekey=True)
    assert await agent.contact()
    assert agent.licence.identity.node_key != before
    assert agent._credentials is not session


async def test_an_order_of_the_lease_renews_once(agent: Agent, fabric: Fabric, refreshes: Refreshes) -> None:
    def made_at(at: datetime) -> bytes:
        return fabric.node_chain(agent.licence.identity.node_key.public_key(), 1, not_before=at)[0]

    await agent.settle()
    chain = (made_at(utc_now() - DAY), fabric.nodes.der)
    agent.licence.renewed(chain, agent.licence.identity.node_key)
    fabric.say(fabric.lease(renew_device_after=utc_now() - timedelta(seconds=10)))
    assert await agent.contact()
    await agent._renew_device_if_due()
    assert agent.licence.identity.chain != chain
    assert refreshes.asked == 1
    assert agent._wanted.is_set()
    assert await agent.contact()
    agent._renew_from = None
    await agent._renew_device_if_due()
    renewals = [request for request in fabric.requests if request.path == PATH_SIMPLEREENROLL]
    assert len(renewals) == 1


async def test_a_renewal_that_fails_waits_for_the_slot(agent: Agent, fabric: Fabric, refreshes: Refreshes) -> None:
    await agent.settle()
    old = fabric.node_chain(agent.licence.identity.node_key.public_key(), 1, life=DAY, not_before=utc_now() - 9 * DAY)
    agent.licence.renewed(old, agent.licence.identity.node_key)
    fabric.answers[PATH_SIMPLEREENROLL] = refused("unavailable")
    for _ in range(3):
        await agent._renew_device_if_due()
    renewals = [request for request in fabric.requests if request.path == PATH_SIMPLEREENROLL]
    assert len(renewals) == 1
    assert agent._renew_from is not None
    assert utc_now() < agent._renew_from <= utc_now() + timedelta(seconds=2)


async def test_a_new_trust_is_told_of_soon(
    agent: Agent, fabric: Fabric, refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "TRUST_FIRST_SECONDS_MAX", 0.05)
    await agent.settle()
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent._keep_trust)
            await agent._wanted.wait()
            nursery.cancel_scope.cancel()
    assert agent._wanted.is_set()
    assert agent.licence.trust.version == VERSION + 1
