"""`cloud.fabric.service.nodes.sessions`: a good proof gets a session, one mutation of it is refused at its step."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.fabric import errors
from cloud.fabric.licensing.standing import Change
from cloud.fabric.service.nodes import session_refusals
from cloud.fabric.service.nodes.device_certificate import Device, read_device_certificate
from protocol.ids import EKU_DEVICE
from protocol.limits import NONCE_LIFE
from protocol.messages.sessions import Certificate
from protocol.signed.statements import Revocation, Suspension
from tests.cloud.fabric.support import URL, Machine, World, change
from tests.cloud.pki import Pki


@pytest.fixture
async def machine(world: World) -> Machine:
    made = Machine(world)
    await made.join((await world.code()).secret)
    return made


async def test_a_session_never_outlives_twelve_hours(world: World, machine: Machine) -> None:
    session = await machine.session()
    leaf = x509.load_der_x509_certificate(session.certificate_chain[0])
    assert leaf.not_valid_after_utc - world.clock() <= timedelta(hours=12)
    assert world.verified(session.current, await machine.peer()).generation == 1


async def test_a_repeated_proof_gets_the_same_certificate(world: World, machine: Machine) -> None:
    body = machine.ask_for_session()
    first = await world.parts.nodes.sessions.open_session(body)
    again = await world.parts.nodes.sessions.open_session(body)
    assert again.certificate_chain == first.certificate_chain


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": "https://elsewhere:8440/v1/node/sessions"}, "another request"),
        ({"url": URL + "/v1/node/confirm"}, "another request"),
        ({"method": "PUT"}, "another request"),
        ({"csr_sha256": "00" * 32}, "another certificate request"),
        ({"generation": 2}, "another node or generation"),
        ({"node": "node_01jd8xk3v5e2r9qz7w4m6n8p0a"}, "another node or generation"),
        ({"nonce": "A" * 70}, "nonce"),
        ({"nonce": "!"}, "nonce cannot be read"),
    ],
)
async def test_a_proof_for_something_else(world: World, machine: Machine, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(errors.ProofRefused, match=why):
        await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, **changes))
    assert (await world.actions(machine.node))[-1] == "session.refused"


async def test_the_nonce_ages(world: World, machine: Machine) -> None:
    body = machine.ask_for_session()
    world.clock.forward(NONCE_LIFE)
    await world.parts.nodes.sessions.open_session(body)
    world.clock.forward(timedelta(seconds=1))
    with pytest.raises(errors.ProofRefused, match="too old"):
        await world.parts.nodes.sessions.open_session(body)


async def test_a_proof_by_another_key(world: World, machine: Machine) -> None:
    with pytest.raises(errors.ProofRefused, match="key"):
        await world.parts.nodes.sessions.open_session(
            machine.ask_for_session(key=ec.generate_private_key(ec.SECP256R1()))
        )
    body = machine.ask_for_session()
    with pytest.raises(errors.ProofRefused):
        await world.parts.nodes.sessions.open_session(msgspec.structs.replace(body, proof=body.proof[:-4] + "AAAA"))


async def test_a_session_certificate_is_no_device_certificate(world: World, machine: Machine) -> None:
    chain = (await machine.session()).certificate_chain
    body = msgspec.structs.replace(machine.ask_for_session(), device_certificate=chain[0])
    with pytest.raises(errors.CertificateRefused, match="extended key usage"):
        await world.parts.nodes.sessions.open_session(body)


async def test_an_expired_device_certificate(world: World, machine: Machine) -> None:
    world.clock.forward(timedelta(days=800))
    with pytest.raises(errors.CertificateRefused, match="not valid at this time"):
        await world.parts.nodes.sessions.open_session(machine.ask_for_session())


async def test_certificates_of_another_kind(world: World, machine: Machine) -> None:
    assert machine.activated is not None
    foreign = Pki().node().certificate.public_bytes(serialization.Encoding.DER)
    for der in (b"", b"no certificate", foreign, machine.activated.certificate_chain[1]):
        body = msgspec.structs.replace(machine.ask_for_session(), device_certificate=der)
        with pytest.raises(errors.CertificateRefused):
            await world.parts.nodes.sessions.open_session(body)


def test_each_rule_of_device_certificates() -> None:
    """Certificates by the right CA, each wrong in one thing."""
    from tests.cloud import pki as paper

    made = Pki()
    device = (x509.ObjectIdentifier(EKU_DEVICE),)
    subject = ((NameOID.COMMON_NAME, str(paper.NODE_ID)), (NameOID.SERIAL_NUMBER, "1"))
    good = made.leaf(made.nodes, (paper.NODE_URI,), subject=subject, usages=device)
    now = good.certificate.not_valid_before_utc + timedelta(minutes=6)
    bad = {
        "CA of its class": made.leaf(made.services, (paper.NODE_URI,), subject=subject, usages=device),
        "extended key usage": made.leaf(made.nodes, (paper.NODE_URI,), subject=subject, usages=(*device, paper.CLIENT)),
        "not one of a node": made.leaf(made.nodes, (paper.service_uri("fabric"),), subject=subject, usages=device),
        "2 URI names": made.leaf(made.nodes, (paper.NODE_URI, paper.NODE_URI), subject=subject, usages=device),
        "does not name": made.leaf(made.nodes, (paper.NODE_URI,), subject=subject[1:], usages=device),
        "cannot be read": made.leaf(
            made.nodes, (paper.NODE_URI,), subject=(subject[0], (NameOID.SERIAL_NUMBER, "01")), usages=device
        ),
    }

    def read(leaf: paper.Leaf) -> Device:
        der = leaf.certificate.public_bytes(serialization.Encoding.DER)
        return read_device_certificate(der, made.trust.node_issuers, paper.TRUST_DOMAIN, now)

    assert (read(good).generation, read(good).spiffe.node) == (1, paper.NODE_ID)
    for why, leaf in bad.items():
        with pytest.raises(errors.CertificateRefused, match=why):
            read(leaf)


async def test_the_key_must_be_the_generations_own(world: World, machine: Machine) -> None:
    other = Machine(world, "another ek")
    await other.join((await world.code()).secret)
    assert machine.activated is not None
    assert other.activated is not None
    mixed = msgspec.structs.replace(other.ask_for_session(), device_certificate=machine.activated.certificate_chain[0])
    with pytest.raises(errors.ProofRefused):
        await world.parts.nodes.sessions.open_session(mixed)


async def test_a_session_csr_that_wishes_for_extensions(world: World, machine: Machine) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    body = msgspec.structs.replace(machine.ask_for_session(), csr=csr, proof=machine.sealed(machine.claims(csr)))
    with pytest.raises(errors.CsrRefused):
        await world.parts.nodes.sessions.open_session(body)


async def test_no_session_without_the_issuer(world: World, machine: Machine) -> None:
    world.issuer.down = True
    with pytest.raises(errors.IssuerUnavailable):
        await machine.session()


async def test_what_changes_while_the_issuer_works_counts(world: World, machine: Machine) -> None:
    issue = world.issuer.issue_session
    todo: list[Change] = ["suspend", "revoke"]

    async def slow(*arguments: Any) -> Certificate:
        made = await issue(*arguments)
        await change(world, machine, todo.pop(0))
        return made

    world.issuer.issue_session = slow  # type: ignore[assignment, method-assign]
    assert isinstance(world.statement((await machine.session()).current.statement), Suspension)
    with pytest.raises(errors.GenerationClosed) as caught:
        await machine.session()
    assert isinstance(world.statement(caught.value.statement), Revocation)
    assert caught.value.freshness


async def test_a_stolen_device_certificate_cannot_fill_the_audit(world: World, machine: Machine) -> None:
    async def refusals(count: int) -> int:
        for _ in range(count):
            with pytest.raises(errors.ProofRefused):
                await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, method="PUT"))
        return (await world.actions(machine.node)).count("session.refused")

    assert await refusals(session_refusals.REFUSALS_AUDITED_MAX + 5) == session_refusals.REFUSALS_AUDITED_MAX
    world.clock.forward(session_refusals.REFUSALS_PERIOD)
    assert await refusals(2) == session_refusals.REFUSALS_AUDITED_MAX + 2


@pytest.mark.parametrize("fingerprint", [{"a" * 65: "b"}, {"a": "b" * 65}, {str(n): "b" for n in range(33)}])
async def test_a_fingerprint_is_bounded(world: World, machine: Machine, fingerprint: dict[str, str]) -> None:
    with pytest.raises(errors.Invalid, match="fingerprint"):
        await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, fingerprint=fingerprint))
