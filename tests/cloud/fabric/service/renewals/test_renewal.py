"""`cloud.fabric.service.renewals.renewal`: only the chip of a generation gets a certificate for it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric import errors
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.service.renewals import renewal_starts
from cloud.fabric.service.renewals.renewal import (
    FORGET_RENEWALS_AFTER,
    OPEN_PER_NODE_MAX,
    PROVED_PER_DAY_MAX,
    UNKNOWN_MACHINE,
)
from cloud.fabric.store.rows import RenewalRow
from cloud.storage import Statement
from protocol.encoding import json_encode, sha256_hex
from protocol.evidence import EndorsementEvidence
from protocol.ids import RenewalId, make_id
from protocol.limits import CHALLENGE_LIFE
from protocol.messages.renewal import ProveRenewal, RenewalChallenge, Renewed, StartRenewal
from protocol.signed.statements import Revocation, Suspension
from tests.cloud.fabric.support import NONCE, Machine, World, change, run_once
from tests.simulators.forged_evidence import (
    AK_ATTRIBUTES,
    QUOTE,
    PaperChip,
    Proof,
    ek_public,
    maker,
    p256,
    pcr_quote,
    request,
    request_with_bad_signature,
    rsa2048,
    signing_public,
)

pytestmark = pytest.mark.slow

ROWS = Statement("SELECT id FROM renewal WHERE node = {node}")


@pytest.fixture
async def machine(world: World) -> Machine:
    made = Machine(world)
    await made.join((await world.code()).secret)
    return made


def expire(machine: Machine) -> None:
    """A time after the end of the device certificate."""
    assert machine.activated is not None
    leaf = x509.load_der_x509_certificate(machine.activated.certificate_chain[0])
    machine.world.clock.forward(leaf.not_valid_after_utc - machine.world.clock() + timedelta(days=1))


def starting(machine: Machine, **changes: Any) -> StartRenewal:
    assert machine.activated is not None
    body = StartRenewal(machine.activated.certificate_chain[0], machine.evidence(), "1.0")
    return msgspec.structs.replace(body, **changes)


async def start(machine: Machine, **changes: Any) -> RenewalChallenge:
    challenge = await machine.world.parts.nodes.renewals.start(starting(machine, **changes))
    machine.secret = machine.world.entropy.last[32]
    return challenge


def paper(machine: Machine, challenge: RenewalChallenge, key: ec.EllipticCurvePrivateKey | None = None) -> PaperChip:
    return PaperChip(
        ak=machine.ak,
        node_key=key or machine.node_key,
        nonce_secret=machine.secret,
        nonce_activation=challenge.renewal,
    )


def proof(machine: Machine, made: Proof) -> ProveRenewal:
    return ProveRenewal(machine.secret, made.csr, made.key, NONCE)


async def prove(machine: Machine, challenge: RenewalChallenge, body: ProveRenewal) -> Renewed:
    return await machine.world.parts.nodes.renewals.prove(challenge.renewal, body, sha256_hex(json_encode(body)))


async def renew(machine: Machine, key: ec.EllipticCurvePrivateKey | None = None) -> Renewed:
    challenge = await start(machine)
    renewed = await prove(machine, challenge, proof(machine, paper(machine, challenge, key).prove()))
    assert machine.activated is not None
    machine.activated = msgspec.structs.replace(machine.activated, certificate_chain=renewed.certificate_chain)
    machine.node_key = key or machine.node_key
    return renewed


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


async def rows(machine: Machine) -> list[RenewalRow]:
    stores = machine.world.stores
    found = [await stores.renewals.find(row["id"]) for row in await stores.engine.fetch(ROWS, node=machine.node)]
    return [row for row in found if row is not None]


async def test_an_expired_certificate_comes_back_in_its_generation(world: World, machine: Machine) -> None:
    expire(machine)
    with pytest.raises(errors.CertificateRefused):
        await machine.session()
    renewed = await renew(machine)
    leaf = x509.load_der_x509_certificate(renewed.certificate_chain[0])
    assert leaf.not_valid_after_utc > world.clock() + timedelta(days=90)
    assert leaf.public_key() == machine.node_key.public_key()
    assert (await machine.peer()).generation == 1
    generation = await world.generation(machine.node, 1)
    assert generation.certificate_not_after == leaf.not_valid_after_utc
    (row,) = await rows(machine)
    assert (row.state, row.expired, row.generation) == ("done", True, 1)
    assert (await world.actions(machine.node))[-3:] == ["renewal.challenged", "renewal.proved", "renewal.issued"]
    assert (await world.node(machine.node)).last_generation == 1


@pytest.mark.parametrize("expired", [False, True])
async def test_another_key_takes_the_place_of_the_old_one(world: World, machine: Machine, expired: bool) -> None:
    old_key, old = machine.node_key, machine.activated
    assert old is not None
    if expired:
        expire(machine)
    await renew(machine, new_key())
    assert (await world.generation(machine.node, 1)).node_public_key == spki(machine.node_key) != spki(old_key)
    assert (await machine.peer()).generation == 1
    machine.activated, machine.node_key = old, old_key
    with pytest.raises(errors.CertificateRefused):
        await machine.session()
    # The machine's disk was restored from an old copy. The chip is the same, so its old key is accepted again.
    await renew(machine, old_key)
    await machine.peer()


async def test_the_certificates_of_the_old_key_are_revoked_at_the_issuer(world: World, machine: Machine) -> None:
    for _ in range(2):
        world.parts.shared.woken.clear()
        await renew(machine, new_key())
        assert world.parts.shared.woken.is_set()
    assert {row.state for row in await rows(machine)} == {"issued"}
    world.issuer.down = True
    await run_once(world)
    assert {row.state for row in await rows(machine)} == {"issued"}
    world.issuer.down = False
    await run_once(world)
    assert {row.state for row in await rows(machine)} == {"done"}
    assert (await world.actions(machine.node)).count("renewal.superseded") == 2
    calls = world.issuer.calls.count("supersede")
    await run_once(world)
    assert world.issuer.calls.count("supersede") == calls == 2
    await machine.peer()


async def test_the_same_key_is_renewed_in_the_last_third_only(world: World, machine: Machine) -> None:
    assert machine.activated is not None
    leaf = x509.load_der_x509_certificate(machine.activated.certificate_chain[0])
    third = leaf.not_valid_before_utc + (leaf.not_valid_after_utc - leaf.not_valid_before_utc) * 2 / 3
    world.clock.forward(third - world.clock() - timedelta(minutes=1))
    with pytest.raises(errors.Conflict, match="not due"):
        await renew(machine)
    world.clock.forward(timedelta(minutes=1))
    await renew(machine)


async def test_a_certificate_from_a_ca_that_is_no_longer_trusted_is_due(world: World, machine: Machine) -> None:
    """A node was offline during a rotation. Its certificate opens no session, and its chip is the same."""
    der = _reissued(machine)
    assert machine.activated is not None
    machine.activated = msgspec.structs.replace(machine.activated, certificate_chain=(der, b""))
    await renew(machine)
    await machine.peer()


def _reissued(machine: Machine) -> bytes:
    """The machine's certificate from an unknown CA."""
    assert machine.activated is not None
    leaf = x509.load_der_x509_certificate(machine.activated.certificate_chain[0])
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([]),
        subject_name=leaf.subject,
        public_key=leaf.public_key(),
        serial_number=leaf.serial_number,
        not_valid_before=leaf.not_valid_before_utc,
        not_valid_after=leaf.not_valid_after_utc,
    )
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(p256("an unknown CA"), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


async def test_a_byte_identical_proof_gets_the_stored_answer(world: World, machine: Machine) -> None:
    expire(machine)
    challenge = await start(machine)
    body = proof(machine, paper(machine, challenge).prove())
    world.issuer.down = True
    with pytest.raises(errors.IssuerUnavailable):
        await prove(machine, challenge, body)
    world.clock.forward(CHALLENGE_LIFE * 2)
    world.issuer.down = False
    answers = await asyncio.gather(*(prove(machine, challenge, body) for _ in range(4)))
    assert len({answer.certificate_chain for answer in answers}) == 1
    with pytest.raises(errors.ActivationClosed):
        await prove(machine, challenge, proof(machine, paper(machine, challenge).prove()))
    await renew(machine, new_key())
    with pytest.raises(errors.ActivationClosed, match="later renewal"):
        await prove(machine, challenge, body)


async def test_the_key_changes_with_the_certificate_and_not_before(world: World, machine: Machine) -> None:
    challenge = await start(machine)
    world.issuer.down = True
    with pytest.raises(errors.IssuerUnavailable):
        await prove(machine, challenge, proof(machine, paper(machine, challenge, new_key()).prove()))
    world.issuer.down = False
    assert (await world.generation(machine.node, 1)).node_public_key == spki(machine.node_key)
    await machine.peer()


async def test_a_closed_generation_gets_its_revocation_and_no_certificate(world: World, machine: Machine) -> None:
    first = replace(machine)
    await machine.join((await world.code()).secret)
    expire(first)
    challenge = await start(first)
    with pytest.raises(errors.GenerationClosed) as refusal:
        await prove(first, challenge, proof(first, paper(first, challenge).prove()))
    revocation = world.statement(refusal.value.statement)
    assert isinstance(revocation, Revocation)
    assert (revocation.generation, revocation.reason) == (1, "superseded")
    assert refusal.value.freshness
    assert world.issuer.calls.count("device") == 2


async def test_a_revoked_node_gets_its_revocation_whenever_it_was_revoked(world: World, machine: Machine) -> None:
    expire(machine)
    challenge = await start(machine)
    body = proof(machine, paper(machine, challenge).prove())

    async def refused() -> str:
        with pytest.raises(errors.GenerationClosed) as refusal:
            await prove(machine, challenge, body)
        revocation = world.statement(refusal.value.statement)
        assert isinstance(revocation, Revocation)
        return revocation.reason

    await change(world, machine, "revoke", "stolen")
    assert await refused() == "revoked"
    assert await refused() == "revoked"
    assert (await rows(machine))[0].state == "challenged"


async def test_revoked_while_the_issuer_works(world: World, machine: Machine) -> None:
    expire(machine)
    challenge = await start(machine)
    loop = asyncio.get_running_loop()
    revoking: list[asyncio.Task[Any]] = []
    world.issuer.after = lambda name: revoking.append(loop.create_task(change(world, machine, "revoke")))
    with pytest.raises((errors.GenerationClosed, errors.ActivationClosed)):
        await _slowly(world, machine, challenge, revoking)
    assert (await world.node(machine.node)).standing == "revoked"


async def _slowly(
    world: World, machine: Machine, challenge: RenewalChallenge, revoking: list[asyncio.Task[Any]]
) -> None:
    body = proof(machine, paper(machine, challenge).prove())
    first = await asyncio.gather(prove(machine, challenge, body), return_exceptions=True)
    await asyncio.gather(*revoking)
    for outcome in first:
        if isinstance(outcome, Exception):
            raise outcome
    await prove(machine, challenge, body)


async def test_a_suspended_node_may_renew(world: World, machine: Machine) -> None:
    await change(world, machine, "suspend")
    expire(machine)
    await renew(machine)
    assert isinstance(await machine.refresh(await machine.peer()), Suspension)


STRANGERS: dict[str, Callable[[Machine], dict[str, Any]]] = {
    "another chip": lambda machine: {"evidence": Machine(machine.world, "stranger").evidence()},
    "another chip with this AK": lambda machine: {
        "evidence": EndorsementEvidence(
            ek_public(rsa2048("stranger").public_key()),
            machine.evidence().ak_public,
            maker().certify(rsa2048("stranger").public_key()),
        )
    },
    "another AK of this chip": lambda machine: {
        "evidence": msgspec.structs.replace(
            machine.evidence(), ak_public=signing_public(p256("another").public_key(), AK_ATTRIBUTES)
        )
    },
}


@pytest.mark.parametrize("of", STRANGERS.values(), ids=STRANGERS)
async def test_every_mismatch_gets_the_same_answer(
    world: World, machine: Machine, of: Callable[[Machine], dict[str, Any]]
) -> None:
    expire(machine)
    with pytest.raises(errors.CertificateRefused) as refusal:
        await start(machine, **of(machine))
    assert refusal.value.detail == UNKNOWN_MACHINE
    assert await rows(machine) == []


async def test_unknown_nodes_are_answered_like_the_wrong_chip(world: World, machine: Machine) -> None:
    assert machine.activated is not None
    expire(machine)
    known = starting(machine)
    await world.stores.engine.fetch(Statement("DELETE FROM generation WHERE node = {node}"), node=machine.node)
    with pytest.raises(errors.CertificateRefused) as one:
        await world.parts.nodes.renewals.start(known)
    await world.stores.engine.fetch(Statement("DELETE FROM tenant WHERE id = {id}"), id=world.tenant)
    with pytest.raises(errors.CertificateRefused) as two:
        await world.parts.nodes.renewals.start(known)
    assert one.value.detail == two.value.detail == UNKNOWN_MACHINE


async def test_a_generation_that_was_never_confirmed_has_nothing_to_renew(world: World) -> None:
    machine = Machine(world)
    await machine.activate((await world.code()).secret)
    with pytest.raises(errors.CertificateRefused, match="do not match a known machine"):
        await start(machine)


@pytest.mark.parametrize("der", [b"", b"0\x00", b"0\x82\xff\xff" + bytes(64)])
async def test_malformed_certificates_are_refused(world: World, machine: Machine, der: bytes) -> None:
    with pytest.raises(errors.CertificateRefused, match="cannot be read"):
        await start(machine, device_certificate=der)


async def test_a_session_certificate_names_no_device(world: World, machine: Machine) -> None:
    leaf = (await machine.session()).certificate_chain[0]
    with pytest.raises(errors.CertificateRefused, match="extended key usage"):
        await start(machine, device_certificate=leaf)


def quoted(chip: PaperChip) -> Proof:
    """A quote by the AK in the place of the certification."""
    quote = pcr_quote(chip.ak, b"a challenge")
    return chip.prove().with_key(attestation=quote.attestation, signature=quote.signature)


FORGED: list[tuple[str, int, Callable[[PaperChip], Proof]]] = [
    ("certified by another AK", 21, lambda chip: replace(chip, signer=p256("forger")).prove()),
    ("not generated by a TPM", 22, lambda chip: replace(chip, magic=0xFF544348).prove()),
    ("a certification that says it is a quote", 19, lambda chip: replace(chip, kind=QUOTE).prove()),
    ("a quote", 23, quoted),
    ("over another secret", 24, lambda chip: replace(chip, nonce_secret=bytes(32)).prove()),
    ("over another request", 24, lambda chip: replace(chip, nonce_csr=b"another").prove()),
    ("about another key", 25, lambda chip: replace(chip, name=b"\x00\x0b" + bytes(32)).prove()),
    ("a request for another key", 27, lambda chip: replace(chip, csr=request(p256("software"))).prove()),
    (
        "a request that its key did not sign",
        28,
        lambda chip: replace(chip, csr=request_with_bad_signature(chip.node_key)).prove(),
    ),
    ("an AK's attributes", 17, lambda chip: _public(chip, AK_ATTRIBUTES).prove()),
    ("a key from outside", 17, lambda chip: _public(chip, 0x00040440).prove()),
    ("no structure", 16, lambda chip: chip.prove().with_key(public=b"")),
    ("attestation cut", 19, lambda chip: chip.prove().with_key(attestation=chip.prove().key.attestation[:-1])),
    ("signature with a tail", 20, lambda chip: chip.prove().with_key(signature=chip.prove().key.signature + b"\0")),
]


def _public(chip: PaperChip, attributes: int) -> PaperChip:
    return replace(chip, node_public=signing_public(chip.node_key.public_key(), attributes))


@pytest.mark.parametrize(("step", "forge"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
@pytest.mark.parametrize("rekey", [False, True])
async def test_forged_evidence_renews_nothing(
    world: World, machine: Machine, step: int, forge: Callable[[PaperChip], Proof], rekey: bool
) -> None:
    expire(machine)
    challenge = await start(machine)
    forged = forge(paper(machine, challenge, new_key() if rekey else None))
    with pytest.raises((errors.EvidenceNotAccepted, errors.CsrRefused)) as refusal:
        await prove(machine, challenge, proof(machine, forged))
    assert isinstance(refusal.value.__cause__, EvidenceRefused)
    assert refusal.value.__cause__.step == step
    assert (await rows(machine))[0].state == "challenged"
    assert (await world.generation(machine.node, 1)).node_public_key == spki(machine.node_key)
    assert world.issuer.calls.count("device") == 1


async def test_a_proof_of_another_renewal(world: World, machine: Machine) -> None:
    expire(machine)
    one, secret = await start(machine), machine.secret
    two = await start(machine)
    body = proof(machine, paper(machine, two).prove())
    with pytest.raises(errors.ChallengeFailed):
        await prove(machine, one, body)
    machine.secret = secret
    made = paper(machine, two).prove()
    with pytest.raises(errors.EvidenceNotAccepted, match="another challenge"):
        await prove(machine, one, proof(machine, made))


async def test_three_wrong_secrets_end_it(world: World, machine: Machine) -> None:
    expire(machine)
    challenge = await start(machine)
    body = proof(machine, paper(machine, challenge).prove())
    wrong = msgspec.structs.replace(body, secret=bytes(32))
    outcomes = await asyncio.gather(*(prove(machine, challenge, wrong) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, errors.ChallengeFailed) for outcome in outcomes) == 3
    with pytest.raises(errors.ActivationClosed):
        await prove(machine, challenge, body)
    assert (await world.actions(machine.node)).count("renewal.answered") == 3


async def test_a_challenge_ends_and_an_unknown_one_is_none(world: World, machine: Machine) -> None:
    expire(machine)
    challenge = await start(machine)
    body = proof(machine, paper(machine, challenge).prove())
    world.clock.forward(CHALLENGE_LIFE)
    with pytest.raises(errors.ChallengeExpired):
        await prove(machine, challenge, body)
    unknown = msgspec.structs.replace(challenge, renewal=RenewalId(make_id("ren", 1, bytes(10))))
    with pytest.raises(errors.NotFound):
        await prove(machine, unknown, body)
    with pytest.raises(errors.Invalid):
        await prove(machine, challenge, msgspec.structs.replace(body, answer_nonce="short"))


async def test_challenges_of_a_machine_are_bounded(world: World, machine: Machine) -> None:
    expire(machine)
    for _ in range(OPEN_PER_NODE_MAX):
        await start(machine)
    with pytest.raises(errors.TooManyChallenges):
        await start(machine)
    world.clock.forward(CHALLENGE_LIFE)
    await start(machine)


async def test_renewals_of_a_day_are_bounded(world: World, machine: Machine) -> None:
    expire(machine)
    for _ in range(PROVED_PER_DAY_MAX):
        await renew(machine, new_key())
    with pytest.raises(errors.TooManyChallenges, match="last 24 hours"):
        await renew(machine, new_key())
    world.clock.forward(timedelta(days=1))
    await renew(machine, new_key())


async def test_starts_are_bounded_before_the_database(
    world: World, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(machine)
    asked: list[str] = []
    find = world.stores.tenants.find

    async def counted(tenant: Any) -> Any:
        asked.append(tenant)
        return await find(tenant)

    monkeypatch.setattr(world.stores.tenants, "find", counted)
    stranger = Machine(world, "stranger").evidence()
    most = renewal_starts.STARTS_PER_NODE.burst
    for _ in range(most + 5):
        with pytest.raises((errors.CertificateRefused, errors.TooOften)):
            await start(machine, evidence=stranger)
    assert len(asked) == most
    world.clock.forward(timedelta(seconds=most * renewal_starts.STARTS_PER_NODE.seconds))
    await start(machine)


async def test_forged_certificates_take_no_place_of_the_nodes_they_name(world: World, machine: Machine) -> None:
    """A node's id is not secret. A caller that knows it must not be able to stop the node from renewing."""
    expire(machine)
    forged, stranger = _reissued(machine), Machine(world, "stranger").evidence()
    most = renewal_starts.STARTS_PER_SOURCE.burst
    world.parts.nodes.renewals.starts._sources.take(
        "", renewal_starts.STARTS_PER_SOURCE, world.clock().timestamp(), most - 30
    )
    for number in range(35):
        wanted = errors.CertificateRefused if number < 30 else errors.TooOften
        with pytest.raises(wanted):
            await start(machine, device_certificate=forged, evidence=stranger)
    await start(machine)
    for _ in range(renewal_starts.STARTS_PER_NODE.burst + 5):
        with pytest.raises((errors.CertificateRefused, errors.TooOften)):
            await start(machine, evidence=stranger)
    other = Machine(world, "other")
    await other.join((await world.code()).secret)
    await start(other)


async def test_no_answer_reveals_which_chips_a_tenant_admits(world: World, machine: Machine) -> None:
    """With an invented certificate, evidence of an untrusted chip gets the same answer as a wrong chip."""
    expire(machine)
    stranger = EndorsementEvidence(b"", Machine(world, "stranger").evidence().ak_public)
    for der in (starting(machine).device_certificate, _reissued(machine)):
        with pytest.raises(errors.CertificateRefused) as refusal:
            await start(machine, device_certificate=der, evidence=stranger)
        assert refusal.value.detail == UNKNOWN_MACHINE
    with pytest.raises(errors.EvidenceNotAccepted):
        await start(machine, evidence=msgspec.structs.replace(machine.evidence(), ek_public=b""))


async def test_of_two_renewals_at_once_the_later_key_counts_and_the_other_is_revoked(
    world: World, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal of the old key began before the other one changed the key. It must detect the change."""
    expire(machine)
    old = await start(machine)
    body = proof(machine, paper(machine, old).prove())
    fresh = await start(machine)
    other = proof(machine, paper(machine, fresh, new_key()).prove())
    issue, between = world.issuer.issue_device, [fresh]

    async def overtaken(*of: Any) -> Any:
        if between:
            await prove(machine, between.pop(), other)
        return await issue(*of)

    monkeypatch.setattr(world.issuer, "issue_device", overtaken)
    await prove(machine, old, body)
    assert (await world.generation(machine.node, 1)).node_public_key == spki(machine.node_key)
    assert [row.state for row in await rows(machine)] == ["issued", "issued"], "both renewals still wait for the issuer"


async def test_a_request_that_the_issuer_refuses_leaves_the_old_key(world: World, machine: Machine) -> None:
    challenge = await start(machine)
    body = proof(machine, paper(machine, challenge, new_key()).prove())

    def refuse(name: str) -> None:
        if name == "device":
            raise errors.IssuerRefused("csr_refused", "the key was revoked")

    world.issuer.before = refuse
    with pytest.raises(errors.CsrRefused):
        await prove(machine, challenge, body)
    world.issuer.before = lambda name: None
    assert (await rows(machine))[0].state == "proved"
    assert (await world.generation(machine.node, 1)).node_public_key == spki(machine.node_key)


async def test_old_renewals_are_forgotten(world: World, machine: Machine) -> None:
    expire(machine)
    await renew(machine)
    await world.parts.nodes.renewals.forget_old()
    assert len(await rows(machine)) == 1
    world.clock.forward(FORGET_RENEWALS_AFTER + timedelta(seconds=1))
    await world.parts.nodes.renewals.forget_old()
    assert await rows(machine) == []


async def test_a_due_certificate_still_opens_sessions(world: World, machine: Machine) -> None:
    """After a renewal with the same key the old certificate is still valid."""
    assert machine.activated is not None
    leaf = x509.load_der_x509_certificate(machine.activated.certificate_chain[0])
    world.clock.forward(leaf.not_valid_after_utc - world.clock() - timedelta(days=1))
    old = machine.activated
    await renew(machine)
    machine.activated = old
    assert (await world.parts.nodes.sessions.open_session(machine.ask_for_session())).certificate_chain
