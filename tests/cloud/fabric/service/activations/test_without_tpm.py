"""`cloud.fabric.service.activations.without_tpm`: the tier `software`, and what a machine's own report may never do."""

from datetime import timedelta

import msgspec
import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.licensing.statements import TERMS
from cloud.fabric.service.operators.tenants import Tenants
from cloud.mtls.identity import make_csr
from protocol.encoding import sha256_hex
from protocol.evidence import NvCounter, qualifying_data
from protocol.hardware import component_hmac, fingerprint
from protocol.limits import CHALLENGE_LIFE
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.software import HeldGeneration, StartSoftwareActivation
from protocol.signed.statements import HardwareFloor, Lease
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.software_machine import SERIALS, SoftwareMachine, new_key, spki_of
from tests.cloud.fabric.support import ALICE, Machine, World, decide, run_once
from tests.simulators.forged_evidence import pcr_quote

pytestmark = pytest.mark.slow

CHANGED = SERIALS | {"disk_serial": "WD-WX11A", "disk_wwn": "0x50014ee2bd1f2a3b", "mac": "a4:bb:6d:99:99:99"}
"""Another disk and network card: 60 % of the weight is left, with the board."""
OTHER = {**CHANGED, "product_uuid": "0b5f0d66-8d1e-4a3c-9a52-0a4a5c1f7e11", "board_serial": "PF2XXXXX"}


@pytest.fixture
async def software(world: World) -> World:
    """The world, with a tenant that admits machines without a TPM."""
    await world.parts.operators.tenants.set_tiers(
        ALICE, world.tenant, schemas.SetTiers(("attested", "tpm", "software"))
    )
    return world


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_from_code_to_a_lease_of_the_tier_software(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    lease = await machine.join(code.secret)
    assert isinstance(lease, Lease)
    assert (lease.tier, lease.generation) == ("software", 1)
    assert lease.terminate_at - lease.issued_at == timedelta(seconds=TERMS["software"].terminate_seconds)
    assert lease.fingerprint is not None
    assert {kind.kind for kind in lease.fingerprint.kinds} == set(SERIALS)
    row = await software.node(machine.node)
    assert (row.tier, row.enrolled) == ("software", machine.fingerprint())
    shown = (await software.parts.operators.activation_decisions.page("", "", "confirmed", "", 10)).items
    assert [(each.tier, each.ek_name, each.address, each.matched) for each in shown] == [
        ("software", "", "192.0.2.9", "")
    ]


async def test_a_tenant_that_does_not_admit_it_refuses_before_a_nonce(world: World) -> None:
    code = await world.code()
    with pytest.raises(errors.TierNotAllowed, match="reaches the tier software; the tenant admits attested"):
        await SoftwareMachine(world).start(code.secret)
    await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("attested", "software")))
    code = await world.code(tier_min="tpm")
    with pytest.raises(errors.TierNotAllowed, match="this activation code admits tpm or better"):
        await SoftwareMachine(world).start(code.secret)


async def test_the_key_and_the_fingerprint_are_the_same_node_in_the_same_seat(software: World) -> None:
    code, other = await software.code(), await software.code(profile="other")
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    node = machine.node
    machine.serials = dict(CHANGED)
    lease = await machine.join(other.secret)
    assert (machine.node, lease.generation) == (node, 2)
    assert (await software.seats_taken(code), await software.seats_taken(other)) == (1, 0)
    # Drift counts against the enrolled fingerprint, also after an activation: parts cannot be replaced one by one.
    machine.serials = CHANGED | {"chassis_serial": "another"}
    with pytest.raises(errors.FingerprintRefused):
        await machine.session()


async def test_without_the_key_the_fingerprint_makes_eligible_and_a_person_decides(software: World) -> None:
    """A disk was replaced, and the state with it. The code demands no approval."""
    code = await software.code()
    first = SoftwareMachine(software)
    await first.join(code.secret)
    again = SoftwareMachine(software, serials=dict(CHANGED))
    challenge, body = await again.waits(code.secret)
    assert (await software.node(first.node)).last_generation == 1
    shown = await decide(software, challenge.activation, "approved")
    assert (shown.node, shown.matched, shown.seat_reserved) == (first.node, "fingerprint", False)
    assert isinstance(await again.send(challenge, body), Activated)
    assert (await software.node(first.node)).enrolled == first.fingerprint()  # until the machine has confirmed
    await again.confirm()
    assert again.node == first.node
    assert await software.seats_taken(code) == 1
    assert (await software.node(first.node)).enrolled == again.fingerprint()
    with pytest.raises(errors.GenerationClosed):
        await first.session()
    # The machine is found by its new disk from now on.
    third = SoftwareMachine(software, serials=CHANGED | {"board_serial": "new board", "chassis_serial": "new"})
    await third.waits(code.secret)


async def test_an_approval_as_one_machine_is_none_as_another(software: World) -> None:
    """The same key was approved as a new machine. Then it reports the serial numbers of a known one."""
    code, free = await software.code(approval=True), await software.code()
    victim = SoftwareMachine(software)
    await victim.join(free.secret)
    thief = SoftwareMachine(software, serials=dict(OTHER))
    challenge, _ = await thief.waits(code.secret)
    await decide(software, challenge.activation, "approved")
    start = StartSoftwareActivation(code.secret, spki_of(thief.key), "1.0")
    again = await software.parts.nodes.software_activations.start(start)
    thief.serials = dict(SERIALS)
    assert isinstance(await thief.send(again, thief.proof(again)), AwaitedApproval)
    assert (await software.node(victim.node)).last_generation == 1
    assert await software.seats_taken(code) == 0
    # A machine that starts again with the same key and serial numbers keeps its approval.
    await decide(software, again.activation, "denied")
    ours = SoftwareMachine(software, serials=OTHER | {"board_serial": "5CD1234XYZ"})
    challenge, _ = await ours.waits(code.secret)
    await decide(software, challenge.activation, "approved")
    start = StartSoftwareActivation(code.secret, spki_of(ours.key), "1.0")
    again = await software.parts.nodes.software_activations.start(start)
    assert isinstance(await ours.send(again, ours.proof(again)), Activated)
    assert await software.seats_taken(code) == 1


async def test_a_key_that_became_a_node_meanwhile(software: World) -> None:
    """The approval was for a new machine. The machine activated with another code before it came back."""
    code, free = await software.code(approval=True), await software.code()
    machine = SoftwareMachine(software)
    challenge, body = await machine.waits(code.secret)
    await decide(software, challenge.activation, "approved")
    start = StartSoftwareActivation(free.secret, spki_of(machine.key), "1.0")
    other = await software.parts.nodes.software_activations.start(start)
    assert isinstance(await machine.send(other, machine.proof(other)), Activated)
    with pytest.raises(errors.ActivationClosed, match="this key is that of a node already"):
        await machine.send(challenge, body)


async def test_a_superseded_key_is_on_a_copied_disk_and_needs_a_person(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    held = machine.held
    await machine.join(code.secret)
    copy = SoftwareMachine(software, held=held)
    await copy.waits(code.secret)


async def test_the_key_on_other_hardware_waits_for_a_person(software: World) -> None:
    """A new mainboard, or a copied state directory. The machine in force works meanwhile."""
    code = await software.code(seats=2)
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    changed = SoftwareMachine(software, serials=dict(OTHER), held=machine.held)
    challenge, body = await changed.waits(code.secret)
    await machine.session()
    shown = await decide(software, challenge.activation, "approved", "new mainboard")
    assert (shown.matched, shown.node) == ("changed", machine.node)
    await changed.send(challenge, body)
    await changed.confirm()
    assert changed.node == machine.node
    assert (await software.node(machine.node)).enrolled == changed.fingerprint()
    assert await software.seats_taken(code) == 1
    with pytest.raises(errors.GenerationClosed):
        await machine.session()
    another = SoftwareMachine(software, serials=SERIALS | {"mac": "a4:bb:6d:77:77:77"})  # without the key
    await another.join(code.secret)
    assert another.node != machine.node


async def test_a_copied_state_directory_gets_no_session_elsewhere(software: World) -> None:
    machine = SoftwareMachine(software)
    await machine.join((await software.code()).secret)
    await machine.session()
    machine.serials = dict(OTHER)
    with pytest.raises(errors.FingerprintRefused):
        await machine.session()


async def test_a_report_reaches_no_node_with_a_tpm(software: World) -> None:
    """The serial numbers and the held generation of a machine with a TPM are known to the attacker."""
    code = await software.code(seats=3)
    chip = Machine(software)
    await chip.join(code.secret)
    generation = await software.generation(chip.node, 1)
    attacker = SoftwareMachine(software)
    challenge = await attacker.start(code.secret)
    attacker.held = (attacker.key, HeldGeneration(software.tenant, chip.node, generation.number))
    answer = await attacker.send(challenge, attacker.proof(challenge))
    assert isinstance(answer, Activated)
    assert answer.node != chip.node
    assert (await software.node(chip.node)).last_generation == 1


async def test_a_report_reaches_no_other_tenant(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    tenants: Tenants = software.parts.operators.tenants
    other = await tenants.create(ALICE, schemas.CreateTenant("Another"))
    await tenants.set_tiers(ALICE, other.id, schemas.SetTiers(("software",)))
    body = schemas.CreateCode("p", software.clock() + timedelta(days=1))
    foreign = await software.parts.operators.codes.create(ALICE, other.id, body)
    same = SoftwareMachine(software, held=machine.held)
    await same.join(foreign.secret)
    assert same.node != machine.node
    assert (await software.node(same.node)).tenant == other.id
    await machine.session()


async def test_a_revoked_machine_needs_a_code_for_it(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    await software.parts.operators.standings.change(ALICE, machine.node, "revoke", "")
    with pytest.raises(errors.NodeRevoked):
        await machine.activate(code.secret)
    software.clock.forward(timedelta(seconds=1))
    readmission = await software.code(readmit=machine.node)
    stranger = SoftwareMachine(software, serials=dict(OTHER))
    with pytest.raises(errors.CodeRefused):
        await stranger.activate(readmission.secret)
    lost = SoftwareMachine(software)  # the code is a person's decision about this node
    await lost.join(readmission.secret)
    assert lost.node == machine.node


async def test_two_machines_with_one_serial_number_are_two_nodes(software: World) -> None:
    """A maker that prints one number on every board. The rest of the fingerprint tells the machines apart."""
    code = await software.code(seats=2)
    one = SoftwareMachine(software)
    await one.join(code.secret)
    two = SoftwareMachine(software, serials=OTHER | {"board_serial": SERIALS["board_serial"]})
    await two.join(code.secret)
    assert one.node != two.node


async def test_a_machine_that_nothing_identifies_is_refused(software: World) -> None:
    code = await software.code()
    for serials in ({"mac": "a4:bb:6d:01:02:03"}, {"board_serial": "Default string", "mac": "a4:bb:6d:01:02:03"}):
        machine = SoftwareMachine(software, serials=serials)
        challenge = await machine.start(code.secret)
        with pytest.raises(errors.EvidenceNotAccepted, match=r"cannot be known without a TPM.*step 65"):
            await machine.send(challenge, machine.proof(challenge))
    assert await software.seats_taken(code) == 0


async def test_a_placeholder_of_a_changed_agent_is_not_enrolled(software: World) -> None:
    """The agent that was changed sends the placeholders of the firmware, so that many machines have most in common."""
    machine = SoftwareMachine(software)
    challenge = await machine.start((await software.code()).secret)
    honest = machine.fingerprint()
    sent = honest | {"chassis_serial": component_hmac(machine.salt, "chassis_serial", "Default string")}
    assert isinstance(await machine.send(challenge, machine.proof(challenge, fingerprint=sent)), Activated)
    lease = await machine.confirm()
    assert isinstance(lease, Lease)
    assert lease.fingerprint is not None
    assert {kind.kind for kind in lease.fingerprint.kinds} == SERIALS.keys() - {"chassis_serial"}
    row = await software.node(machine.node)
    generation = await software.generation(machine.node, 1)
    assert row.enrolled == generation.fingerprint == {name: honest[name] for name in honest if name != "chassis_serial"}
    await machine.session(fingerprint=sent)
    await software.parts.nodes.fingerprints.store()
    (seen,) = await software.stores.nodes.machines(machine.node, 1)
    assert seen.fingerprint == row.enrolled


async def test_a_denial_holds_for_the_machine_until_an_operator_lifts_it(software: World) -> None:
    """Each activation of a machine without a TPM has a new key."""
    code = await software.code(approval=True)
    machine = SoftwareMachine(software)
    challenge, body = await machine.waits(code.secret)
    await decide(software, challenge.activation, "denied", "not ours")
    machine.serials = dict(CHANGED)  # 60 % of the denied machine
    for _ in range(2):
        again = await machine.start(code.secret)
        with pytest.raises(errors.ApprovalDenied, match=f"{challenge.activation}: not ours"):
            await machine.send(again, machine.proof(again))
    await SoftwareMachine(software, serials=dict(OTHER)).waits(code.secret)  # another machine with one of its disks
    await SoftwareMachine(software).waits((await software.code(approval=True)).secret)
    decisions = software.parts.operators.activation_decisions
    for _ in range(2):
        assert (await decisions.lift(ALICE, challenge.activation, "sold to us")).state == "lifted"
    assert (await software.actions(challenge.activation)).count("activation.lifted") == 1
    with pytest.raises(errors.ApprovalExpired):
        await machine.send(challenge, body)
    await machine.waits(code.secret)
    waiting = (await decisions.page("", code.code.id, "pending", "", 10)).items[0]
    with pytest.raises(errors.Conflict, match="is pending, not denied"):
        await decisions.lift(ALICE, waiting.id, "")


async def test_a_profile_that_requires_a_quote_refuses_a_machine_without_a_tpm_at_the_start(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    challenge = await machine.start(code.secret)
    policies = software.parts.operators.pcr_policies
    await policies.set_policy(ALICE, software.tenant, schemas.SetPcrPolicy("require", "standard"))
    with pytest.raises(errors.TpmRequired, match="for the profile standard"):
        await SoftwareMachine(software).start(code.secret)
    with pytest.raises(errors.TpmRequired):
        await machine.send(challenge, machine.proof(challenge))
    assert await software.seats_taken(code) == 0
    await SoftwareMachine(software).activate((await software.code(profile="other")).secret)


async def test_a_lapse_forgets_the_fingerprint_of_a_node_that_was_never_confirmed(software: World) -> None:
    """Otherwise a machine that comes back with a new key waits for a person for ever."""
    code = await software.code()
    machine = SoftwareMachine(software)
    await machine.activate(code.secret)
    software.clock.forward(timedelta(hours=24))
    await run_once(software)
    assert (await software.activation_of(machine.node, 1)).state == "lapsed"
    again = SoftwareMachine(software)
    await again.join(code.secret)
    assert again.node != machine.node
    # The key finds the first node still, and a new activation of it enrols its fingerprint again.
    code = await software.code(seats=2)
    other = SoftwareMachine(software, serials=dict(OTHER))
    await other.activate(code.secret)
    software.clock.forward(timedelta(hours=24))
    await run_once(software)
    await other.join(code.secret)
    lost = SoftwareMachine(software, serials=dict(OTHER))
    challenge, _ = await lost.waits(code.secret)
    assert (await software.parts.operators.activation_decisions.show(challenge.activation)).node == other.node


async def test_a_machine_that_gains_a_tpm_stays_the_node_by_a_code_for_it(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    node = machine.node
    stranger, chip = Machine(software, "stranger"), Machine(software)
    stranger.fingerprint = fingerprint(machine.salt, OTHER)
    chip.fingerprint = fingerprint(machine.salt, CHANGED)
    readmission = await software.code(readmit=node)
    with pytest.raises(errors.CodeRefused):
        await stranger.join(readmission.secret)
    lease = await chip.join(readmission.secret)
    assert isinstance(lease, Lease)
    assert (chip.node, lease.generation, lease.tier, lease.fingerprint) == (node, 2, "attested", None)
    row = await software.node(node)
    assert (row.ek_hash, row.tier) == ((await software.activation_of(node, 2)).ek_hash, "attested")
    assert (await software.seats_taken(code), await software.seats_taken(readmission)) == (1, 0)
    with pytest.raises(errors.GenerationClosed):
        await machine.session()
    # From now on the chip is the node, and no report of serial numbers finds it.
    await chip.join(code.secret)
    assert chip.node == node
    alike = SoftwareMachine(software)
    await alike.join((await software.code()).secret)
    assert alike.node != node


async def test_the_first_session_with_a_gained_tpm_is_judged_by_the_tpm(software: World) -> None:
    """The node has the tier `software` until the confirm. The profile requires quotes, which is why the TPM was added."""
    machine = SoftwareMachine(software)
    await machine.join((await software.code()).secret)
    policies = software.parts.operators.pcr_policies
    await policies.set_policy(ALICE, software.tenant, schemas.SetPcrPolicy("require", "standard"))
    chip = Machine(software, lease_version=2, floor=NvCounter(0x01A00007, "000b" + "ab" * 32, 4))
    chip.fingerprint = fingerprint(machine.salt, CHANGED)
    challenge = await chip.start((await software.code(readmit=machine.node)).secret)
    proof = chip.proof(challenge)
    quote = pcr_quote(chip.ak, qualifying_data(chip.secret, challenge.activation, proof.csr))
    await chip.prove(challenge, msgspec.structs.replace(proof, pcr_quote=quote))
    sessions = software.parts.nodes.sessions
    with pytest.raises(errors.ProofRefused, match="no clock of the TPM"):
        await sessions.open_session(chip.ask_for_session(clock=msgspec.UNSET))
    nonce = sessions.make_nonce().nonce
    opened = await sessions.open_session(
        chip.ask_for_session(nonce=nonce, pcr_quote=pcr_quote(chip.ak, nonce.encode()))
    )
    peer = software.peer(opened.certificate_chain[0])
    lease = software.verified(await software.parts.nodes.confirmations.confirm(peer, chip.ask()), peer)
    assert isinstance(lease, Lease)
    assert lease.floor == HardwareFloor(index=0x01A00007), "the first lease names the counter"


FORGED: dict[str, tuple[dict[str, object], str]] = {
    "another activation": ({"activation": "act_01jd7xq2vafw6b8tn4rz9k3mec"}, "step 63"),
    "another request": ({"csr_sha256": "00" * 32}, "step 64"),
    "no fingerprint": ({"fingerprint": {}}, "step 65"),
    "values that are no HMAC": ({"fingerprint": {"board_serial": "x", "product_uuid": "y"}}, "step 65"),
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_claim_is_refused_at_its_step(software: World, name: str) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    challenge = await machine.start(code.secret)
    changes, step = FORGED[name]
    with pytest.raises(errors.EvidenceNotAccepted, match=step):
        await machine.send(challenge, machine.proof(challenge, **changes))
    assert await software.stores.nodes.page("", "", "", 10) == []
    assert isinstance(await machine.send(challenge, machine.proof(challenge)), Activated)


async def test_forged_signatures_and_requests_are_refused(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    challenge = await machine.start(code.secret)
    good = machine.proof(challenge)
    strange = SoftwareMachine(software, key=new_key(), salt=machine.salt)
    forged = {
        "signed by another key": (msgspec.structs.replace(good, proof=strange.proof(challenge).proof), "step 62"),
        "no proof": (msgspec.structs.replace(good, proof="a.b.c"), "step 62"),
        "a request of another key": (msgspec.structs.replace(good, csr=make_csr(strange.key)), "step 64"),
    }
    for name, (body, step) in forged.items():
        with pytest.raises(errors.EvidenceNotAccepted, match=step):
            await machine.send(challenge, body)
        assert name
    other = make_csr(strange.key)
    with pytest.raises(errors.CsrRefused, match="step 27"):
        sent = machine.proof(challenge, csr_sha256=sha256_hex(other))
        await machine.send(challenge, msgspec.structs.replace(sent, csr=other))
    with pytest.raises(errors.EvidenceNotAccepted, match="step 61"):
        await software.parts.nodes.software_activations.start(StartSoftwareActivation(code.secret, b"no key", "1.0"))


async def test_a_held_key_that_did_not_sign_is_refused(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    assert machine.held is not None
    forger = SoftwareMachine(software, held=(new_key(), machine.held[1]))
    challenge = await forger.start(code.secret)
    with pytest.raises(errors.EvidenceNotAccepted, match="step 66"):
        await forger.send(challenge, forger.proof(challenge))


async def test_wrong_nonces_are_counted_and_the_challenge_ages(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    challenge = await machine.start(code.secret)
    for left in (2, 1, 0):
        with pytest.raises(errors.ChallengeFailed, match=f"left: {left}"):
            await machine.send(challenge, machine.proof(challenge, nonce="n" * 43))
    with pytest.raises(errors.ActivationClosed):
        await machine.send(challenge, machine.proof(challenge))
    challenge = await machine.start(code.secret)
    software.clock.forward(CHALLENGE_LIFE)
    with pytest.raises(errors.ChallengeExpired):
        await machine.send(challenge, machine.proof(challenge))


async def test_each_exchange_answers_its_own_activations_alone(software: World) -> None:
    code = await software.code()
    chip, machine = Machine(software), SoftwareMachine(software)
    of_chip, of_software = await chip.start(code.secret), await machine.start(code.secret)
    proof = chip.proof(of_chip)
    with pytest.raises(errors.NotFound):
        await software.parts.nodes.activations.prove(of_software.activation, proof, "0" * 64)
    body = machine.proof(of_software)
    with pytest.raises(errors.NotFound):
        await software.parts.nodes.software_activations.prove(of_chip.activation, body, "0" * 64)


async def test_a_repeat_gets_the_stored_answer_and_another_proof_does_not(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    first = await machine.send(challenge, body)
    assert await machine.send(challenge, body) == first
    with pytest.raises(errors.ActivationClosed):
        await machine.send(challenge, machine.proof(challenge))


async def test_the_tenant_can_demand_approval_of_every_software_machine(software: World) -> None:
    tenants = software.parts.operators.tenants
    await tenants.set_approval_tiers(ALICE, software.tenant, schemas.SetApprovalTiers(("software",)))
    code = await software.code()
    machine = SoftwareMachine(software)
    challenge, body = await machine.waits(code.secret)
    await decide(software, challenge.activation, "approved")
    assert isinstance(await machine.send(challenge, body), Activated)
    await machine.confirm()
    again = await machine.start(code.secret)
    answer = await machine.send(again, machine.proof(again))
    assert isinstance(answer, AwaitedApproval)
    shown = await software.parts.operators.activation_decisions.show(again.activation)
    assert (shown.matched, shown.node) == ("key", machine.node)


async def test_a_released_machine_returns_as_the_same_node(software: World) -> None:
    code = await software.code()
    machine = SoftwareMachine(software)
    await machine.join(code.secret)
    node = machine.node
    await software.parts.operators.standings.change(ALICE, node, "release", "")
    await machine.join(code.secret)
    assert machine.node == node
    assert await software.seats_taken(code) == 1
