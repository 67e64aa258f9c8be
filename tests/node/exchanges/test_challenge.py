"""The TPM's part of activation and renewal, with challenges that the simulator makes for this chip."""

import os

import msgspec
import pytest
from cryptography import x509

from node.exchanges.challenge import Answered, answer, challenged_ek, endorse, start
from node.hwbind.errors import TpmIntegrity
from node.hwbind.tpm import Tpm
from node.link.api import CloudRefused, CloudUnreachable
from protocol.encoding import json_decode, json_encode
from protocol.endorsement import name_of
from protocol.evidence import EndorsementEvidence, OtherEndorsement
from protocol.messages.activation import Challenge, StartActivation
from protocol.messages.renewal import RenewalChallenge, StartRenewal
from protocol.problems import Code, ProblemDocument
from tests.node.conftest import Machine
from tests.simulators.fabric import Fabric, Request


@pytest.fixture
def cloud() -> Fabric:
    return Fabric()


@pytest.fixture
async def endorsement(machine: Machine, tpm: Tpm) -> EndorsementEvidence:
    return await endorse(tpm, machine.ak)


def request(body: msgspec.Struct) -> Request:
    return Request("fabric", "POST", "/", {}, json_encode(body), 0)


def of_activation(cloud: Fabric, endorsement: EndorsementEvidence) -> Challenge:
    return json_decode(cloud._start(request(StartActivation("cac_x", endorsement, "1"))).body, Challenge)


def of_renewal(cloud: Fabric, endorsement: EndorsementEvidence, machine: Machine) -> RenewalChallenge:
    device = cloud.node_chain(machine.node_key.public_key(), 1)[0]
    return json_decode(cloud._start_renewal(request(StartRenewal(device, endorsement, "1"))).body, RenewalChallenge)


def check(answered: Answered, secret: bytes, machine: Machine) -> None:
    assert answered.secret == secret
    assert x509.load_der_x509_csr(answered.csr).public_key() == machine.node_key.public_key()
    assert answered.key.public == machine.node_key.public


async def test_the_evidence_names_the_chip_and_the_attestation_key(
    endorsement: EndorsementEvidence, machine: Machine
) -> None:
    assert endorsement.ak_public == machine.ak.public
    assert endorsement.ek_certificate


async def test_the_challenges_of_both_exchanges_are_answered(
    cloud: Fabric, endorsement: EndorsementEvidence, machine: Machine, tpm: Tpm
) -> None:
    activation = of_activation(cloud, endorsement)
    answered = await answer(tpm, machine.ak, machine.node_key, activation)
    check(answered, cloud._exchanges[activation.activation].secret, machine)
    renewal = of_renewal(cloud, endorsement, machine)
    answered = await answer(tpm, machine.ak, machine.node_key, renewal)
    check(answered, cloud._exchanges[renewal.renewal].secret, machine)


async def test_the_proof_is_bound_to_its_exchange(
    cloud: Fabric, endorsement: EndorsementEvidence, machine: Machine, tpm: Tpm
) -> None:
    made = of_activation(cloud, endorsement)
    other = msgspec.structs.replace(made, activation=of_activation(cloud, endorsement).activation)
    first, second = [await answer(tpm, machine.ak, machine.node_key, challenge) for challenge in (made, other)]
    assert first.secret == second.secret
    assert first.key.attestation != second.key.attestation


async def test_a_secret_of_another_length_is_no_answer(
    cloud: Fabric, endorsement: EndorsementEvidence, machine: Machine, tpm: Tpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.simulators.fabric.secrets.token_bytes", lambda count: os.urandom(min(count, 16)))
    with pytest.raises(CloudUnreachable, match="cannot use the cloud's challenge"):
        await answer(tpm, machine.ak, machine.node_key, of_activation(cloud, endorsement))


async def test_a_challenge_for_another_key_is_not_answered(
    cloud: Fabric, endorsement: EndorsementEvidence, machine: Machine, tpm: Tpm
) -> None:
    """The TPM releases the secret only to the attestation key that the challenge was made for."""
    other = msgspec.structs.replace(endorsement, ak_public=machine.node_key.public)
    with pytest.raises(TpmIntegrity):
        await answer(tpm, machine.ak, machine.node_key, of_activation(cloud, other))


class Cloud:
    """A cloud that refuses with these codes, one a request, and then takes the evidence."""

    def __init__(self, *codes: Code) -> None:
        self.codes = list(codes)
        self.taken: list[EndorsementEvidence] = []

    async def start(self, evidence: EndorsementEvidence) -> str:
        self.taken.append(evidence)
        if self.codes:
            raise CloudRefused(ProblemDocument(type="", title="Refused", status=422, code=self.codes.pop(0)))
        return "challenge"


async def test_a_cloud_that_knows_one_key_only_gets_one_key(endorsement: EndorsementEvidence) -> None:
    assert endorsement.others
    plain = msgspec.structs.replace(endorsement, others=(), intermediates=())
    old = Cloud("invalid")
    assert await start(old.start, endorsement) == "challenge"
    assert old.taken == [endorsement, plain]
    for sent, codes in ((plain, ("invalid",)), (endorsement, ("invalid", "invalid")), (endorsement, ("code_refused",))):
        refusing = Cloud(*codes)
        with pytest.raises(CloudRefused) as refused:
            await start(refusing.start, sent)
        assert "allow-ek" not in refused.value.next
        assert len(refusing.taken) == len(codes)


@pytest.mark.parametrize("code", ["evidence_refused", "tier_refused"])
async def test_a_refused_chip_is_told_by_its_name(endorsement: EndorsementEvidence, code: Code) -> None:
    with pytest.raises(CloudRefused) as refused:
        await start(Cloud(code).start, endorsement)
    assert f"allow-ek TENANT {name_of(endorsement.ek_public).hex()}`" in refused.value.next
    ecc = msgspec.structs.replace(endorsement, ek_public=endorsement.others[0].ek_public)
    with pytest.raises(CloudRefused) as refused:
        await start(Cloud(code).start, ecc)
    assert "allow-ek" not in refused.value.next


def test_the_recorded_ek_is_the_challenged_one() -> None:
    first, second = b"\x00\x01\x00\x0b first", b"\x00\x23\x00\x0b second"
    sent = EndorsementEvidence(first, b"ak", others=(OtherEndorsement(second, b"certificate"),))
    assert challenged_ek(sent, name_of(second)) == second
    for name in (name_of(first), b"", name_of(b"another chip")):
        assert challenged_ek(sent, name) == first
