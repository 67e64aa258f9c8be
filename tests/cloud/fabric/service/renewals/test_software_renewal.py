"""`cloud.fabric.service.renewals.software_renewal`: the key in force renews, and a copied directory renews nothing."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509

from cloud.fabric import errors, schemas
from cloud.fabric.service.renewals.renewal import PROVED_PER_DAY_MAX
from protocol.encoding import sha256_hex
from protocol.limits import NONCE_LIFE
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.software_machine import SoftwareMachine, new_key, spki_of
from tests.cloud.fabric.support import ALICE, Machine, World, run_once

pytestmark = pytest.mark.slow


@pytest.fixture
async def machine(world: World) -> SoftwareMachine:
    """A machine without a TPM that has activated and confirmed."""
    await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("attested", "software")))
    made = SoftwareMachine(world)
    await made.join((await world.code()).secret)
    return made


def ends(chain: tuple[bytes, ...]) -> Any:
    return x509.load_der_x509_certificate(chain[0]).not_valid_after_utc


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_an_expired_certificate_is_renewed_for_the_same_key(world: World, machine: SoftwareMachine) -> None:
    world.clock.forward(ends(machine.chain) - world.clock() + timedelta(days=1))
    with pytest.raises(errors.CertificateRefused):
        await machine.session()
    body = machine.renewal(machine.key)
    renewed = await machine.renew(body)
    assert ends(renewed.certificate_chain) > world.clock()
    assert await machine.renew(body) == renewed
    machine.chain = renewed.certificate_chain
    await machine.session()


async def test_a_rekey_changes_the_key_and_a_lost_answer_is_repeated(world: World, machine: SoftwareMachine) -> None:
    key = new_key()
    body = machine.renewal(key)
    renewed = await machine.renew(body)
    assert (await world.generation(machine.node, 1)).node_public_key == spki_of(key)
    # The answer was lost. The repeat comes after the nonce has aged, and the old key signed it.
    world.clock.forward(NONCE_LIFE * 2)
    assert await machine.renew(body) == renewed
    with pytest.raises(errors.HolderRefused):
        await machine.renew(machine.renewal(new_key()))  # signed by the replaced key
    with pytest.raises(errors.CertificateRefused):
        await machine.session()
    machine.key, machine.chain = key, renewed.certificate_chain
    await machine.session()
    await run_once(world)
    assert "supersede" in world.issuer.calls


async def test_a_certificate_that_is_not_due_keeps_its_key_over_a_session_only(machine: SoftwareMachine) -> None:
    with pytest.raises(errors.Conflict, match="not due"):
        await machine.renew(machine.renewal(machine.key))


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"generation": 2}, errors.ProofRefused),
        ({"node": "node_01jd8xk3v5e2r9qz7w4m6n8p0a"}, errors.ProofRefused),
        ({"url": "https://elsewhere:8440/v1/node/software-renewals"}, errors.ProofRefused),
        ({"csr_sha256": "00" * 32}, errors.ProofRefused),
        ({"nonce": "A" * 70}, errors.ProofRefused),
        ({"answer_nonce": "short"}, errors.Invalid),
        ({"fingerprint": {"board_serial": "ab" * 32}}, errors.FingerprintRefused),
        ({"fingerprint": {}}, errors.FingerprintRefused),
    ],
)
async def test_a_forged_proof_renews_nothing(
    world: World, machine: SoftwareMachine, changes: dict[str, Any], refusal: type[errors.Refused]
) -> None:
    with pytest.raises(refusal):
        await machine.renew(machine.renewal(new_key(), **changes))
    assert (await world.generation(machine.node, 1)).node_public_key == spki_of(machine.key)


async def test_another_key_or_an_old_nonce_renews_nothing(world: World, machine: SoftwareMachine) -> None:
    stranger = SoftwareMachine(world, key=new_key(), activated=machine.activated, salt=machine.salt)
    stranger.chain = machine.chain
    with pytest.raises(errors.CertificateRefused):
        await stranger.renew(stranger.renewal(new_key()))
    body = machine.renewal(new_key())
    with pytest.raises(errors.CsrRefused):
        await machine.renew(msgspec.structs.replace(machine.renewal(new_key(), csr_sha256=sha256_hex(b"x")), csr=b"x"))
    world.clock.forward(NONCE_LIFE + timedelta(seconds=1))
    with pytest.raises(errors.ProofRefused, match="too old"):
        await machine.renew(body)


async def test_a_node_with_a_tpm_is_not_renewed_by_a_software_proof(world: World, machine: SoftwareMachine) -> None:
    chip = Machine(world)
    await chip.join((await world.code()).secret)
    assert chip.activated is not None
    forger = SoftwareMachine(world, key=chip.node_key, activated=chip.activated, salt=machine.salt)
    forger.chain = chip.activated.certificate_chain
    with pytest.raises(errors.CertificateRefused):
        await forger.renew(forger.renewal(new_key()))


async def test_a_closed_generation_gets_its_revocation(world: World, machine: SoftwareMachine) -> None:
    await world.parts.operators.standings.change(ALICE, machine.node, "revoke", "")
    with pytest.raises(errors.GenerationClosed) as caught:
        await machine.renew(machine.renewal(new_key()))
    assert caught.value.statement


async def test_renewals_of_a_day_are_bounded_and_one_proof_is_one_renewal(
    world: World, machine: SoftwareMachine
) -> None:
    for _ in range(PROVED_PER_DAY_MAX):
        world.clock.forward(timedelta(hours=1))  # the limit of starts is another one
        key = new_key()
        body = machine.renewal(key)
        answers = await asyncio.gather(*(machine.renew(body) for _ in range(3)))
        assert len({answer.certificate_chain for answer in answers}) == 1
        machine.key, machine.chain = key, answers[0].certificate_chain
    with pytest.raises(errors.TooManyChallenges):
        await machine.renew(machine.renewal(new_key()))
