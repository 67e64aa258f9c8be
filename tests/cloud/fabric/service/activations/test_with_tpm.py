"""`cloud.fabric.service.activations.with_tpm`: one chip is one node with one seat, also with repeated requests."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric import errors
from cloud.fabric.service.activations import admission
from cloud.fabric.service.nodes.limits import CHALLENGES_PER_CHIP, CHALLENGES_PER_CODE, ActivationLimits
from cloud.fabric.store.nodes import GENERATIONS_SHOWN_MAX
from protocol.codes import make_secret
from protocol.ids import EKU_DEVICE, ActivationId, make_id
from protocol.limits import CHALLENGE_LIFE, CHALLENGE_TRIES_MAX, HELD_GENERATION_MAX
from protocol.messages.activation import ProveActivation, StartActivation
from protocol.signed.statements import Lease
from tests.cloud.fabric.support import ALICE, Machine, World


async def test_from_code_to_lease(world: World) -> None:
    code = await world.code(entitlements=("press", "fold"))
    machine = Machine(world)
    activated = await machine.activate(code.secret)
    leaf = x509.load_der_x509_certificate(activated.certificate_chain[0])
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == [EKU_DEVICE]
    assert activated.generation == 1
    assert (await machine.session()).current.statement == ""
    lease = await machine.confirm()
    assert isinstance(lease, Lease)
    assert (lease.generation, lease.tier, lease.entitlements) == (1, "attested", ("press", "fold"))
    node = await world.node(machine.node)
    assert (node.current_generation, node.seat_held, node.lease_until) == (1, True, lease.terminate_at)
    assert leaf.not_valid_after_utc >= lease.terminate_at + timedelta(days=30)
    assert await world.seats_taken(code) == 1
    assert await world.actions(node.id) == ["activation.proved", "activation.issued", "activation.confirmed"]


async def test_a_byte_identical_proof_gets_the_stored_answer(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    first = await machine.prove(challenge, body)
    assert await machine.prove(challenge, body) == first
    await machine.confirm()
    assert await machine.prove(challenge, body) == first
    assert world.issuer.calls.count("device") == 1
    with pytest.raises(errors.ActivationClosed):
        await machine.prove(challenge, machine.proof(challenge))


async def test_a_repeated_proof_continues_after_an_outage_of_the_issuer(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    world.issuer.down = True
    with pytest.raises(errors.IssuerUnavailable):
        await machine.prove(challenge, body)
    world.clock.forward(CHALLENGE_LIFE * 2)
    world.issuer.down = False
    assert (await machine.prove(challenge, body)).generation == 1
    assert await world.seats_taken(code) == 1


async def test_identical_proofs_at_once_are_one_activation(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    answers = await asyncio.gather(*(machine.prove(challenge, body) for _ in range(5)))
    assert len({answer.certificate_chain for answer in answers}) == 1
    assert await world.seats_taken(code) == 1


async def test_three_wrong_secrets_end_it(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    wrong = msgspec.structs.replace(body, secret=bytes(32))
    for left in (2, 1, 0):
        with pytest.raises(errors.ChallengeFailed, match=f"left: {left}"):
            await machine.prove(challenge, wrong)
    for again in (wrong, body):
        with pytest.raises(errors.ActivationClosed):
            await machine.prove(challenge, again)
    assert await world.stores.nodes.page("", "", "", 10) == []
    assert await world.seats_taken(code) == 0


async def test_wrong_answers_at_once_are_counted_one_by_one(world: World) -> None:
    machine = Machine(world)
    challenge = await machine.start((await world.code()).secret)
    wrong = msgspec.structs.replace(machine.proof(challenge), secret=bytes(32))
    results = await asyncio.gather(*(machine.prove(challenge, wrong) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, errors.ChallengeFailed) for result in results) == 3
    assert sum(isinstance(result, errors.ActivationClosed) for result in results) == 5


@pytest.mark.parametrize("machines", [2, 6])
async def test_the_last_seat_goes_to_one(world: World, machines: int) -> None:
    code = await world.code()
    them = [Machine(world, f"ek {number}") for number in range(machines)]
    proofs = []
    for machine in them:
        challenge = await machine.start(code.secret)
        proofs.append((machine, challenge, machine.proof(challenge)))
    results = await asyncio.gather(*(m.prove(c, p) for m, c, p in proofs), return_exceptions=True)
    assert sum(isinstance(result, errors.SeatsExhausted) for result in results) == machines - 1
    assert await world.seats_taken(code) == 1
    assert len(await world.stores.nodes.page("", "", "", 10)) == 1


async def test_the_same_chip_keeps_node_and_seat(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    first = await machine.join(code.secret)
    node = machine.node
    other = await world.code(profile="other", entitlements=("fold",))
    second = await machine.join(other.secret)
    assert machine.node == node
    assert isinstance(second, Lease)
    assert (second.generation, second.profile, second.entitlements) == (2, "other", ("fold",))
    assert second.seq > first.seq
    assert (await world.seats_taken(code), await world.seats_taken(other)) == (1, 0)
    row = await world.node(node)
    assert (row.current_generation, row.closed_up_to, row.closing, row.code) == (2, 1, True, code.code.id)
    old = await world.generation(node, 1)
    assert (old.state, old.statement_type) == ("closed", "revocation")
    assert world.statement(old.statement).reason == "superseded"  # type: ignore[union-attr]


async def test_two_activations_of_one_chip_the_later_confirm_wins(world: World) -> None:
    code = await world.code(seats=5)
    one, two = Machine(world), Machine(world)
    await one.activate(code.secret)
    await two.activate(code.secret)
    assert (one.node, two.activated and two.activated.generation) == (two.node, 2)
    peer = await one.peer()
    await two.confirm()
    assert await world.seats_taken(code) == 1
    with pytest.raises(errors.GenerationClosed):
        await one.session()
    assert not await world.stores.nodes.generation_open(peer.tenant, peer.node, 1)
    assert (await world.activation_of(one.node, 1)).state == "superseded"


async def test_codes_are_refused(world: World) -> None:
    machine = Machine(world)
    unknown = make_secret("cac", bytes(20))
    for text in (unknown, unknown[:-1] + "x", "cac_", "", "cot" + unknown[3:]):
        with pytest.raises(errors.CodeRefused):
            await machine.start(text)
    old = await world.code(life=timedelta(hours=1))
    taken_back = await world.code()
    await world.parts.operators.codes.revoke(ALICE, taken_back.code.id)
    with pytest.raises(errors.CodeRevoked):
        await machine.start(taken_back.secret)
    challenge = await machine.start(old.secret)
    body = machine.proof(challenge)
    world.clock.forward(timedelta(hours=1))
    with pytest.raises(errors.CodeExpired):
        await machine.start(old.secret)
    with pytest.raises(errors.ChallengeExpired):
        await machine.prove(challenge, body)


async def test_a_code_revoked_between_challenge_and_proof(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    await world.parts.operators.codes.revoke(ALICE, code.code.id)
    with pytest.raises(errors.CodeRevoked):
        await machine.prove(challenge, machine.proof(challenge))
    assert await world.stores.nodes.page("", "", "", 10) == []


async def test_challenges_of_a_chip_are_bounded_and_stop_no_other_chip(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    for _ in range(CHALLENGES_PER_CHIP.burst - 1):
        challenge = await machine.start(code.secret)
    machine.secret = bytes(32)
    body = machine.proof(challenge)
    for _ in range(CHALLENGE_TRIES_MAX):
        with pytest.raises(errors.ChallengeFailed):
            await machine.prove(challenge, body)
    with pytest.raises(errors.TooOften) as caught:
        await machine.start(code.secret)
    assert errors.refusal(caught.value).headers == {"Retry-After": "60"}
    await Machine(world, "another").start(code.secret)
    world.clock.forward(timedelta(seconds=CHALLENGES_PER_CHIP.seconds))
    await machine.start(code.secret)


async def test_challenges_that_the_database_has_count_after_a_restart(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    for _ in range(15):
        await machine.start(code.secret)
    world.clock.forward(CHALLENGE_LIFE / 60)
    activations = world.parts.nodes.activations
    starts = replace(activations.starts, limits=ActivationLimits())
    restarted = replace(activations, starts=starts)
    await restarted.start(StartActivation(code.secret, machine.evidence(), "1.0"))
    used = starts.limits._codes.used(code.code.id, CHALLENGES_PER_CODE, world.clock().timestamp())
    assert used == 15 - CHALLENGE_LIFE.total_seconds() / 60 / CHALLENGES_PER_CODE.seconds + 1


@pytest.mark.slow
async def test_activations_of_a_chip_are_bounded_by_the_rows(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    for _ in range(GENERATIONS_SHOWN_MAX):
        world.clock.forward(timedelta(minutes=2))
        await machine.join(code.secret)
    challenge = await machine.start(code.secret)
    with pytest.raises(errors.TooOften):
        await machine.prove(challenge, machine.proof(challenge))
    await Machine(world, "another").join((await world.code()).secret)
    world.clock.forward(admission.ACTIVATIONS_PERIOD)
    await machine.join(code.secret)


async def test_unconfirmed_activations_of_a_chip_are_bounded(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    for _ in range(admission.PENDING_PER_NODE_MAX):
        await machine.activate(code.secret)
    key = machine.node_key
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    with pytest.raises(errors.TooManyChallenges):
        await machine.prove(challenge, body)
    assert (await world.node(machine.node)).last_generation == admission.PENDING_PER_NODE_MAX
    machine.node_key = key
    await machine.confirm()
    assert (await machine.prove(challenge, body)).generation == admission.PENDING_PER_NODE_MAX + 1


async def test_evidence_is_checked(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    evidence = msgspec.structs.replace(machine.evidence(), ek_certificate=None)
    with pytest.raises(errors.TierNotAllowed):
        await world.parts.nodes.activations.start(StartActivation(code.secret, evidence, "1.0"))
    evidence = msgspec.structs.replace(machine.evidence(), ek_public=b"no public")
    with pytest.raises(errors.EvidenceNotAccepted):
        await world.parts.nodes.activations.start(StartActivation(code.secret, evidence, "1.0"))
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    forged = msgspec.structs.replace(body, key=msgspec.structs.replace(body.key, signature=b"forged"))
    with pytest.raises(errors.EvidenceNotAccepted, match="step 20"):
        await machine.prove(challenge, forged)
    assert (await machine.prove(challenge, body)).generation == 1


async def test_another_csr_is_refused_and_nothing_changes(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    foreign = machine.proof(challenge)
    with pytest.raises(errors.EvidenceNotAccepted):
        await machine.prove(challenge, ProveActivation(body.secret, foreign.csr, body.key, {}))
    assert await world.seats_taken(code) == 0


async def test_a_csr_with_extensions_costs_no_seat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.simulators import forged_evidence

    def wishing(key: ec.EllipticCurvePrivateKey) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    monkeypatch.setattr(forged_evidence, "request", wishing)
    code = await world.code()
    machine = Machine(world)
    challenge = await machine.start(code.secret)
    with pytest.raises(errors.CsrRefused):
        await machine.prove(challenge, machine.proof(challenge))
    assert await world.seats_taken(code) == 0


async def test_an_unknown_activation(world: World) -> None:
    machine = Machine(world)
    challenge = await machine.start((await world.code()).secret)
    body = machine.proof(challenge)
    with pytest.raises(errors.NotFound):
        await world.parts.nodes.activations.prove(ActivationId(make_id("act", 1, bytes(10))), body, "00")


async def test_a_machine_never_gets_a_generation_below_the_one_it_holds(world: World) -> None:
    """Its directory has generation 7, from before the database was restored. Later numbers rise from there."""
    numbers = []
    for held in (7, 7, 3, msgspec.UNSET):
        machine = Machine(world)
        challenge = await machine.start((await world.code()).secret)
        proof = msgspec.structs.replace(machine.proof(challenge), held_generation=held)
        numbers.append((await machine.prove(challenge, proof)).generation)
        await machine.confirm()
    assert numbers == [8, 9, 10, 11]


@pytest.mark.parametrize("held", [-1, 0, HELD_GENERATION_MAX + 1, 2**70])
async def test_a_held_generation_is_bounded(world: World, held: int) -> None:
    machine = Machine(world)
    challenge = await machine.start((await world.code()).secret)
    with pytest.raises(errors.Invalid, match="held_generation"):
        await machine.prove(challenge, msgspec.structs.replace(machine.proof(challenge), held_generation=held))


async def test_components_are_bounded(world: World) -> None:
    machine = Machine(world)
    challenge = await machine.start((await world.code()).secret)
    for many in ({f"mac/{n}": "aa" for n in range(33)}, {"x" * 65: ""}, {"x": "a" * 65}):
        with pytest.raises(errors.Invalid):
            await machine.prove(challenge, msgspec.structs.replace(machine.proof(challenge), fingerprint=many))
