"""Work that a contact does beside its request: confirmations and renewals, also with local faults."""

import errno
import threading
from collections.abc import Callable
from datetime import datetime

import msgspec
import pytest
import trio
import trio.testing

from node.exchanges.contact import Contact
from node.hwbind.tpm import Tpm
from node.link.api import CloudRefused, CloudUnreachable
from node.link.certificates import CertificateRejected
from node.state import State
from protocol.messages.est import PATH_SIMPLEREENROLL, encode_certs_only
from protocol.messages.renewal import PATH_RENEWALS
from tests.node.conftest import Machine
from tests.node.exchanges.paths import CONFIRM, NONCES, SESSIONS, asked
from tests.node.shells import Refreshes, identity
from tests.simulators.fabric import (
    Fabric,
    Reply,
    Request,
    authority,
    problem,
    refused,
)

pytestmark = pytest.mark.slow


async def test_a_renewal_that_is_refused_says_so(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await contact.attempt()
    fabric.revoke()
    saved: list[datetime | None] = []
    monkeypatch.setattr(contact._state, "save_time", lambda: saved.append(contact._state.time.boot.signed_at))
    with pytest.raises(CloudRefused):
        await contact.renew_device(rekey=True)
    assert contact.licence.revoked
    # The signed time of the refusal is stored, for the next start of the agent.
    assert saved == [contact._state.time.boot.signed_at]


async def test_a_renewal_that_is_refused_is_silence(contact: Contact, fabric: Fabric) -> None:
    fabric.taken = set()
    fabric.answers[PATH_RENEWALS] = refused("certificate_refused")
    await contact.attempt()
    assert (contact.failures, contact.last_contact_at) == (1, None)
    assert contact.licence.verdict().gate_open


async def test_a_pending_renewal_delays_no_contact(contact: Contact, fabric: Fabric) -> None:
    await contact.attempt()
    proofs: list[str] = []
    route = fabric._route

    async def away(request: Request) -> Reply:
        if not request.path.endswith("/proof"):
            return await route(request)
        proofs.append(request.path)
        return problem("unavailable")

    fabric._route = away  # type: ignore[method-assign]  # one route of it fails
    with pytest.raises(CloudUnreachable):
        await contact.renew_device(rekey=True)
    before = contact.licence.identity
    assert await contact.attempt()
    assert (contact.licence.identity, len(proofs)) == (before, 2)
    fabric._route = route  # type: ignore[method-assign]  # a simulator
    assert await contact.attempt()
    assert contact.licence.identity.node_key != before.node_key


async def test_a_renewal_with_an_unverified_answer_delays_no_contact(
    contact: Contact, fabric: Fabric, refreshes: Refreshes
) -> None:
    """The cloud would return the same bad certificate at every contact, until the lease ends."""
    await contact.attempt()
    route, issuing, early = fabric._route, fabric.nodes, authority("nodes 2", fabric.root)

    async def unpublished(request: Request) -> Reply:
        fabric.nodes = early if request.path.endswith("/proof") else issuing
        return await route(request)

    fabric._route = unpublished  # type: ignore[method-assign]  # a CA that has not been published yet
    present = contact._trust.value
    refreshes.make = lambda: present
    with pytest.raises(CertificateRejected):
        await contact.renew_device(rekey=True)
    before = contact.licence.identity
    assert await contact.attempt()
    assert contact.licence.identity == before
    bundle = contact._trust.value.bundle
    both = msgspec.structs.replace(bundle, node_issuers=(*bundle.node_issuers, early.der))
    contact._trust._value = msgspec.structs.replace(contact._trust.value, bundle=both)
    assert await contact.attempt()
    assert contact.licence.identity.node_key != before.node_key


async def test_a_rekey_ends_in_a_session_by_the_new_key(contact: Contact, fabric: Fabric) -> None:
    await contact.attempt()
    before, session = contact.licence.identity.node_key, contact.connection.credentials
    await contact.renew_device(rekey=True)
    assert await contact.attempt()
    assert contact.licence.identity.node_key != before
    assert contact.connection.credentials is not session


async def test_a_pending_generation_is_confirmed_first(
    contact: Contact, fabric: Fabric, state: State, tpm: Tpm
) -> None:
    pending = identity(fabric, contact.licence.identity.ak, contact.licence.identity.node_key, 2)
    state.identities.save_generation(pending)
    await contact.attempt()
    assert await state.saver.flush() is None
    current = state.identities.current()
    assert current is not None
    assert (current.generation, contact.licence.identity.generation, fabric.confirmed) == (2, 2, 2)
    assert contact.licence.verdict().gate_open
    assert asked(fabric) == [NONCES, SESSIONS, CONFIRM, NONCES, SESSIONS]
    assert {request.generation for request in fabric.requests if request.path == CONFIRM} == {2}
    await contact.connection.close()


async def test_a_generation_that_cannot_be_confirmed_leaves_the_one_in_force(
    contact: Contact, fabric: Fabric, state: State
) -> None:
    state.identities.save_generation(
        identity(fabric, contact.licence.identity.ak, contact.licence.identity.node_key, 2)
    )
    fabric.answers[CONFIRM] = refused("activation_closed")
    await contact.attempt()
    assert (contact.licence.identity.generation, contact.licence.verdict().gate_open) == (1, True)
    await contact.connection.close()


async def test_cancelled_at_its_end_a_confirmation_still_counts(
    contact: Contact, fabric: Fabric, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.identities.save_generation(
        identity(fabric, contact.licence.identity.ak, contact.licence.identity.node_key, 2)
    )
    with monkeypatch.context() as patch, trio.move_on_after(1):
        patch.setattr(contact.connection, "close", trio.sleep_forever)
        await contact.attempt()
    assert contact.licence.identity.generation == 2


async def test_renewal_replaces_the_device_certificate(contact: Contact, fabric: Fabric, state: State) -> None:
    await contact.attempt()
    before = contact.licence.identity.chain
    contact.conditions.report("device_renewal_failed", "an earlier renewal failed")
    await contact.renew_device()
    assert contact.conditions.current() == ()
    stored = state.identities.current()
    assert stored is not None
    assert stored.chain == contact.licence.identity.chain != before
    assert fabric.requests[-1].service == "breakwater"
    await contact.connection.close()


async def test_a_wrong_device_certificate_replaces_nothing(
    contact: Contact, fabric: Fabric, machine: Machine, state: State
) -> None:
    await contact.attempt()
    before = contact.licence.identity.chain

    async def wrong(_: Request) -> Reply:
        return Reply(200, encode_certs_only(fabric.node_chain(machine.ak.public_key(), 1)[:1]))

    fabric.answers[PATH_SIMPLEREENROLL] = wrong
    with pytest.raises(CertificateRejected):
        await contact.renew_device()
    assert [each.code for each in contact.conditions.current()] == ["device_renewal_failed"]
    stored = state.identities.current()
    assert stored is not None
    assert stored.chain == contact.licence.identity.chain == before
    await contact.connection.close()


async def test_renewal_needs_a_session(contact: Contact) -> None:
    with pytest.raises(CloudUnreachable):
        await contact.renew_device()


def torn_current(state: State, _: Contact) -> None:
    (state.directory / "current.json").write_bytes(b"torn")


def empty_stray_generation(state: State, _: Contact) -> None:
    state.identities.generation_dir(99).mkdir()


def torn_newer_generation(state: State, contact: Contact) -> None:
    held, fabric_chain = contact.licence.identity, contact.licence.identity.chain
    state.identities.save_generation(msgspec.structs.replace(held, generation=2, chain=fabric_chain))
    (state.identities.generation_dir(2) / "identity.json").write_bytes(b"torn")


def generation_of_another_key(state: State, contact: Contact) -> None:
    """The certificate of generation 1 in the directory of generation 2."""
    state.identities.save_generation(msgspec.structs.replace(contact.licence.identity, generation=2))


def renewal_is_a_directory(state: State, _: Contact) -> None:
    (state.directory / "renewal.json").mkdir()


def torn_renewal(state: State, _: Contact) -> None:
    (state.directory / "renewal.json").write_bytes(b"torn")


LOCAL_FAULTS: dict[str, Callable[[State, Contact], None]] = {
    each.__name__: each
    for each in (
        torn_current,
        empty_stray_generation,
        torn_newer_generation,
        generation_of_another_key,
        renewal_is_a_directory,
        torn_renewal,
    )
}


@pytest.mark.parametrize("fault", LOCAL_FAULTS)
async def test_no_local_fault_stops_a_contact(contact: Contact, fabric: Fabric, state: State, fault: str) -> None:
    LOCAL_FAULTS[fault](state, contact)
    assert await contact.attempt()
    assert contact.licence.verdict().gate_open
    fabric.revoke()
    assert await contact.attempt()
    assert contact.licence.revoked


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("current_generation", "confirmation_failed"),
        ("generations", "confirmation_failed"),
        ("load_renewal", "renewal_interrupted"),
    ],
)
async def test_a_raw_error_of_the_system_is_a_condition(
    contact: Contact, fabric: Fabric, state: State, method: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(contact._state.identities, method, fails)
        fabric.say(fabric.suspension())
        assert await contact.attempt()
    assert contact.licence.verdict().state == "suspended"
    (condition,) = contact.conditions.current()
    assert (condition.code, "Input/output error" in condition.text) == (code, True)
    assert await contact.attempt()
    assert contact.conditions.current() == ()


async def test_a_frozen_disk_does_not_keep_the_cloud_from_being_heard(
    contact: Contact, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed = threading.Event()
    monkeypatch.setattr("node.exchanges.contact.DISK_SECONDS_MAX", 0.1)
    monkeypatch.setattr("node.exchanges.renewal.DISK_SECONDS_MAX", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(contact._state.identities, "current_generation", lambda: thawed.wait(30))
        fabric.say(fabric.lease(entitlements=("new",)))
        try:
            with trio.fail_after(10):
                # The session brings the statement. Only storing it needs the disk.
                await contact._exchange_or_recover()
        finally:
            thawed.set()
    assert {each.code for each in contact.conditions.current()} >= {"confirmation_failed", "renewal_interrupted"}
