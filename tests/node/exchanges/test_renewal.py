"""Renewal on a software TPM: over a session, with fresh evidence, for a new key; after a crash or a lost answer."""

import errno
import os
from collections.abc import Callable

import msgspec
import pytest
from cryptography import x509

from node.disk import calls
from node.disk.identity import Identity
from node.errors import StateError
from node.exchanges.renewal import REJECTIONS_MAX, DeviceRenewal
from node.exchanges.session import Credentials, SessionRefused, open_session
from node.hwbind import keys
from node.hwbind.tpm import Tpm
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import CertificateRejected
from node.state import State
from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.messages.est import HEADER_REQUEST, PATH_SIMPLEREENROLL, encode_certs_only
from protocol.messages.renewal import PATH_RENEWALS, Renewed
from tests.node.conftest import Machine
from tests.node.shells import load_licence
from tests.off_loop import off_loop
from tests.simulators.fabric import Answer, Fabric, Reply, Request, always, problem, refused
from tests.simulators.machine_clocks import right_window

pytestmark = pytest.mark.slow


@pytest.fixture
def licence(state: State) -> Licence:
    return load_licence(state)


async def session(licence: Licence, tpm: Tpm) -> Credentials:
    opened = await open_session(licence.trust.value, licence.identity, tpm, right_window, "")
    return opened.credentials


def plain(identity: Identity) -> Identity:
    """The identity without the keys that a lease may name beside its own; `tests/node/disk` has their tests."""
    return msgspec.structs.replace(identity, other_keys=())


def stored(state: State) -> Identity:
    current = state.identities.current()
    assert current is not None
    return plain(current)


def works(state: State, tpm: Tpm) -> None:
    """Exactly one key is in force. The certificate certifies it, and this TPM can load it."""
    identity = stored(state)
    signature = off_loop(lambda: tpm.call(lambda esys: keys.sign(esys, identity.node_key, b"x")))
    assert signature
    leaf = x509.load_der_x509_certificate(identity.chain[0])
    assert leaf.public_key() == identity.node_key.public_key()


@pytest.fixture
def renewal(state: State, licence: Licence, tpm: Tpm) -> DeviceRenewal:
    return DeviceRenewal(state, licence.trust, tpm)


async def over_session(renewal: DeviceRenewal, licence: Licence, tpm: Tpm) -> None:
    await renewal.over_session(licence, await session(licence, tpm))


async def test_over_a_session_the_repeat_gets_the_same_successor(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    before = licence.identity
    fabric.answers[PATH_SIMPLEREENROLL] = lambda request: _lost(fabric, request)
    with pytest.raises(api.CloudUnreachable):
        await over_session(renewal, licence, tpm)
    assert stored(state) == before
    del fabric.answers[PATH_SIMPLEREENROLL]
    await over_session(renewal, licence, tpm)
    assert stored(state) == plain(licence.identity) != before
    assert licence.identity.node_key == before.node_key
    asked = [request for request in fabric.requests if request.path == PATH_SIMPLEREENROLL]
    names = {request.headers[HEADER_REQUEST.lower()] for request in asked}
    assert names == {f"renew-{sha256_hex(before.chain[0])}"}
    assert list(fabric.renewals.values()) == [[licence.identity.chain[0]]]
    assert {request.generation for request in asked} == {1}


async def _lost(fabric: Fabric, request: Request) -> bytes:
    fabric._renew(request)
    return b""


ANSWERS: dict[str, Callable[[Fabric], bytes]] = {
    "nothing": lambda fabric: b"",
    "no base64": lambda fabric: b"!",
    "no CMS": lambda fabric: b"MAA=",
    "two certificates": lambda fabric: encode_certs_only((fabric.nodes.der, fabric.root.der)),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_that_is_no_certificate_is_silence(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric, answer: Callable[[Fabric], bytes]
) -> None:
    fabric.answers[PATH_SIMPLEREENROLL] = always(200, answer(fabric))
    before = stored(state)
    with pytest.raises(api.CloudUnreachable):
        await over_session(renewal, licence, tpm)
    assert stored(state) == before == plain(licence.identity)


@pytest.mark.parametrize("code", ["peer_refused", "csr_refused"])
async def test_a_key_without_a_record_at_the_issuer_is_replaced_with_fresh_evidence(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric, code: str
) -> None:
    before = licence.identity
    fabric.answers[PATH_SIMPLEREENROLL] = refused(code)
    await over_session(renewal, licence, tpm)
    after = stored(state)
    assert after == plain(licence.identity)
    assert (after.node_key == before.node_key, after.chain == before.chain) == (False, False)
    works(state, tpm)


async def test_another_refusal_of_a_renewal_asks_for_no_evidence(
    licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    fabric.answers[PATH_SIMPLEREENROLL] = refused("conflict")
    with pytest.raises(api.CloudRefused):
        await over_session(renewal, licence, tpm)
    assert not [request for request in fabric.requests if request.path == PATH_RENEWALS]


async def test_without_a_session_no_request_is_sent(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm
) -> None:
    with pytest.raises(api.CloudUnreachable, match="no session"):
        await renewal.over_session(licence, None)


async def test_with_evidence_the_same_key_gets_a_certificate(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    before = licence.identity
    await renewal.with_evidence(licence)
    after = stored(state)
    assert after == licence.identity
    assert (after.node_key, after.generation) == (before.node_key, before.generation)
    assert after.chain != before.chain
    assert state.identities.load_renewal() is None
    works(state, tpm)


async def test_a_rekey_changes_key_and_certificate_together(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    known = {licence.identity.node_key}
    for _ in range(2):
        await renewal.with_evidence(licence, rekey=True)
        assert stored(state) == plain(licence.identity) == plain(load_licence(state).identity)
        known.add(licence.identity.node_key)
        works(state, tpm)
    assert len(known) == 3
    await session(licence, tpm)


async def test_a_lost_answer_is_asked_for_again_with_the_same_proof(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    """The cloud has accepted the new key, and the old key opens no session. The stored proof recovers the node."""
    before = licence.identity

    async def lose(request: Request) -> bytes:
        fabric._prove_renewal(request.path.split("/")[-2], request)
        return b""

    renewals = _by_prefix(fabric, lose)
    with pytest.raises(api.CloudUnreachable):
        await renewal.with_evidence(licence, rekey=True)
    assert stored(state) == before
    works(state, tpm)
    with pytest.raises(SessionRefused):
        await session(licence, tpm)
    renewals.clear()
    restarted = load_licence(state)
    assert await renewal.resume(restarted)
    assert stored(state).node_key != before.node_key
    works(state, tpm)
    await session(restarted, tpm)
    proofs = [request.body for request in fabric.requests if request.path.endswith("/proof")]
    assert len(proofs) == 2
    assert len(set(proofs)) == 1
    assert not await renewal.resume(restarted)


def _by_prefix(fabric: Fabric, answer: Answer) -> dict[str, Answer]:
    """Answer every proof of a renewal with `answer` until the result is cleared."""

    class ProofAnswers(dict[str, Answer]):
        def get(self, path: str, default: Answer) -> Answer:  # type: ignore[override]  # as the simulator asks it
            return answer if self and path.startswith(PATH_RENEWALS) and path.endswith("/proof") else default

    fabric.answers = ProofAnswers({"armed": answer})
    return fabric.answers


@pytest.mark.parametrize(("call", "name"), [("read", "identity.json"), ("write", "key-"), ("rename", "device.pem")])
async def test_a_new_key_that_the_disk_refuses_is_used_and_stored_later(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric, call: str, name: str
) -> None:
    """The cloud takes the earlier key no more, so without the new one the agent would be deaf."""

    def hook(made: str, path: str) -> None:
        if made == call and name in path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = licence.identity
    with calls.hooked(hook):
        with pytest.raises(StateError):
            await renewal.with_evidence(licence, rekey=True)
        assert licence.identity.node_key != before.node_key
        await session(licence, tpm)
        with pytest.raises(StateError):
            await renewal.resume(licence)
    assert stored(state) == before
    assert await renewal.resume(licence)
    assert stored(state).node_key == licence.identity.node_key != before.node_key
    works(state, tpm)
    assert not await renewal.resume(licence)


@pytest.mark.parametrize("code", ["challenge_expired", "activation_closed", "not_found", "conflict", "csr_refused"])
async def test_a_renewal_that_has_ended_is_removed_and_the_key_stays(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric, code: str
) -> None:
    before = licence.identity
    _by_prefix(fabric, refused(code))
    with pytest.raises(api.CloudRefused):
        await renewal.with_evidence(licence, rekey=True)
    assert stored(state) == before == plain(licence.identity)
    assert state.identities.load_renewal() is None
    works(state, tpm)


async def test_a_certificate_that_does_not_verify_changes_nothing(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric, machine: Machine
) -> None:
    before = licence.identity
    wrong = Renewed(fabric.node_chain(machine.ak.public_key(), 1))

    async def answer(_: Request) -> Reply:
        return Reply(200, json_encode(wrong))

    _by_prefix(fabric, answer)
    with pytest.raises(CertificateRejected):
        await renewal.with_evidence(licence, rekey=True)
    assert stored(state) == before == plain(licence.identity)
    assert not list(state.identities.generation_dir(1).glob("key-*"))


async def test_a_stored_renewal_whose_answer_never_verifies_is_dropped(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric, machine: Machine
) -> None:
    wrong = json_encode(Renewed(fabric.node_chain(machine.ak.public_key(), 1)))
    _by_prefix(fabric, always(200, wrong))
    for _ in range(REJECTIONS_MAX):
        assert state.conditions.current() == ()
        with pytest.raises(CertificateRejected):
            await renewal.with_evidence(licence)
    assert state.identities.load_renewal() is None
    (condition,) = state.conditions.current()
    assert condition.code == "renewal_dropped"
    assert "step" in condition.text
    # The next renewal is kept for twice as long.
    for _ in range(2 * REJECTIONS_MAX - 1):
        with pytest.raises(CertificateRejected):
            await renewal.with_evidence(licence)
        assert state.identities.load_renewal() is not None
    fabric.answers.clear()
    assert await renewal.resume(licence)
    assert state.conditions.current() == ()
    works(state, tpm)


async def test_a_renewal_over_the_session_whose_answer_never_verifies_gets_another_name(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric, machine: Machine
) -> None:
    wrong, before = fabric.node_chain(machine.ak.public_key(), 1)[0], sha256_hex(licence.identity.chain[0])
    fabric.answers[PATH_SIMPLEREENROLL] = always(200, encode_certs_only((wrong,)))
    for _ in range(REJECTIONS_MAX):
        with pytest.raises(CertificateRejected):
            await over_session(renewal, licence, tpm)
    assert [condition.code for condition in state.conditions.current()] == ["renewal_dropped"]
    fabric.answers.clear()
    await over_session(renewal, licence, tpm)
    assert state.conditions.current() == ()
    asked = [request for request in fabric.requests if request.path == PATH_SIMPLEREENROLL]
    names = [request.headers[HEADER_REQUEST.lower()] for request in asked]
    assert names == [f"renew-{before}"] * REJECTIONS_MAX + [f"renew-{before}-1"]


async def test_a_closed_generation_comes_with_its_signed_statement(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    fabric.revoke("superseded")
    with pytest.raises(SessionRefused) as refusal:
        await renewal.with_evidence(licence)
    licence.apply(refusal.value.answer, refusal.value.answer_nonce)
    assert licence.revoked
    assert state.identities.load_renewal() is None


async def test_the_presented_statement_is_left_out_for_a_cloud_of_an_earlier_release(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    """Such a cloud refuses a request with a field that it does not know."""
    opened = await open_session(licence.trust.value, licence.identity, tpm, right_window, "")
    licence.apply(opened.current, opened.answer_nonce)
    assert licence.presented
    answers: dict[str, Answer] = {}

    async def earlier(request: Request) -> Reply:
        assert "presented" in json_decode(request.body, dict[str, object])
        answers.clear()
        return problem("invalid")

    answers = _by_prefix(fabric, earlier)
    before = stored(state)
    await renewal.with_evidence(licence, rekey=True)
    proofs = [json_decode(each.body, dict[str, object]) for each in fabric.requests if each.path.endswith("/proof")]
    assert [each.get("presented", "") for each in proofs] == [licence.presented, ""]
    assert stored(state).node_key != before.node_key
    works(state, tpm)


async def test_a_renewal_of_another_generation_or_a_torn_one_is_removed(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    _by_prefix(fabric, always(503))
    with pytest.raises(api.CloudUnreachable):
        await renewal.with_evidence(licence)
    pending = state.identities.load_renewal()
    assert pending is not None
    state.identities.save_renewal(msgspec.structs.replace(pending, generation=2))
    assert not await renewal.resume(licence)
    assert state.identities.load_renewal() is None
    (state.directory / "renewal.json").write_bytes(b"torn")
    assert not await renewal.resume(licence)
    assert state.identities.load_renewal() is None


async def test_a_renewal_that_other_users_could_write_is_removed_and_starts_again(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    before = licence.identity
    answers = _by_prefix(fabric, always(503))
    with pytest.raises(api.CloudUnreachable):
        await renewal.with_evidence(licence)
    (state.directory / "renewal.json").chmod(0o666)
    answers.clear()
    await renewal.with_evidence(licence)
    assert stored(state).chain != before.chain
    assert state.identities.load_renewal() is None


async def test_a_disk_that_refuses_to_remove_the_proof_hides_no_signed_statement(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    def hook(made: str, path: str) -> None:
        if made == "unlink" and path.endswith("/renewal.json"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    fabric.revoke("superseded")
    with calls.hooked(hook), pytest.raises(SessionRefused) as refusal:
        await renewal.with_evidence(licence)
    licence.apply(refusal.value.answer, refusal.value.answer_nonce)
    assert licence.revoked


async def test_a_challenge_with_a_false_id_is_silence(
    state: State, licence: Licence, renewal: DeviceRenewal, tpm: Tpm, fabric: Fabric
) -> None:
    async def answer(request: Request) -> Reply:
        good = fabric._start_renewal(request)
        return Reply(good.status, good.body.replace(b"ren_", b"act_"))

    fabric.answers[PATH_RENEWALS] = answer
    with pytest.raises(api.CloudUnreachable, match="cannot use the cloud's answer"):
        await renewal.with_evidence(licence)
