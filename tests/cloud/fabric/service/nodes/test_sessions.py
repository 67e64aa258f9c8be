"""`cloud.fabric.service.nodes.sessions`: a valid proof opens a session, and each mutation is refused at its step."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric import errors
from cloud.fabric.licensing.standing import Change
from cloud.fabric.store.rows import GenerationRow, NodeRow
from protocol.limits import NONCE_LIFE
from protocol.messages.sessions import Certificate, OpenSession
from protocol.signed.statements import Revocation, Suspension
from tests.cloud.breakwater.support import TRUST_DOMAIN
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.support import URL, Machine, World, change


async def test_a_session_never_outlives_twelve_hours(world: World, machine: Machine) -> None:
    session = await machine.session()
    leaf = x509.load_der_x509_certificate(session.certificate_chain[0])
    assert leaf.not_valid_after_utc - world.clock() <= timedelta(hours=12)
    assert world.verified(session.current, await machine.peer()).generation == 1


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_the_mode_that_a_proof_reports_is_shown_and_its_changes_are_audited(
    world: World, machine: Machine
) -> None:
    """A proof without the field is of production mode, or of an agent that does not report its mode."""

    async def shown_after(**changes: Any) -> bool:
        await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, **changes))
        await world.parts.nodes.seen.store()
        shown = await world.parts.operators.node_lists.detail(machine.node)
        return shown.node.development

    assert [await shown_after(), await shown_after(development=False)] == [False, False]
    assert "node.mode_changed" not in await world.actions(machine.node)
    assert [await shown_after(development=True), await shown_after(development=True)] == [True, True]
    assert await shown_after() is False
    entries = await world.stores.audit.page("", machine.node, "node.mode_changed", "aud_8", 200)
    assert [(entry.actor, entry.tenant, entry.detail) for entry in reversed(entries)] == [
        (
            f"spiffe://{TRUST_DOMAIN}/tenant/{world.tenant}/node/{machine.node}",
            world.tenant,
            {"generation": "1", "mode": mode},
        )
        for mode in ("development", "production")
    ]


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
        ({"clock": msgspec.UNSET}, "no clock of the TPM"),
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


async def test_the_key_must_be_the_generations_own(world: World, machine: Machine) -> None:
    other = Machine(world, "another ek")
    await other.join((await world.code()).secret)
    assert machine.activated is not None
    assert other.activated is not None
    mixed = msgspec.structs.replace(other.ask_for_session(), device_certificate=machine.activated.certificate_chain[0])
    with pytest.raises(errors.ProofRefused):
        await world.parts.nodes.sessions.open_session(mixed)


async def test_a_session_csr_that_asks_for_extensions(world: World, machine: Machine) -> None:
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


def _bad_csr(body: OpenSession, machine: Machine) -> OpenSession:
    csr = b"\x30\x03\x02\x01\x00"
    claims = msgspec.structs.replace(machine.claims(csr), **REPORTED)
    return msgspec.structs.replace(body, csr=csr, proof=machine.sealed(claims))


REPORTED: dict[str, Any] = {
    "fingerprint": {"board_serial": "cd" * 32},
    "agent_version": "9.9",
    "development": True,
    "trust_version": 1,
}
"""A report that differs from the activation in every value that Fabric stores after its answer."""

REFUSED: dict[str, Callable[[Machine], OpenSession]] = {
    "another request": lambda machine: machine.ask_for_session(None, method="PUT", **REPORTED),
    "an unreadable nonce": lambda machine: machine.ask_for_session(None, nonce="!", **REPORTED),
    "another key": lambda machine: machine.ask_for_session(ec.generate_private_key(ec.SECP256R1()), **REPORTED),
    "no certificate": lambda machine: msgspec.structs.replace(
        machine.ask_for_session(None, **REPORTED), device_certificate=b"\x30\x00"
    ),
    "not a CSR": lambda machine: _bad_csr(machine.ask_for_session(None, **REPORTED), machine),
}


async def test_a_refused_session_leaves_nothing_to_store_later(world: World, machine: Machine) -> None:
    """The background tasks store nothing of a refused session. They store the same report of an accepted session."""

    async def stored() -> tuple[NodeRow, GenerationRow, tuple[object, ...]]:
        nodes = world.parts.nodes
        await nodes.seen.store()
        await nodes.fingerprints.store()
        await nodes.sessions.trust_reports.store()
        rows = await world.node(machine.node), await world.generation(machine.node, 1)
        return *rows, await world.stores.nodes.machines(machine.node, 1)

    before = await stored()
    for name, make in REFUSED.items():
        with pytest.raises(errors.Refused):
            await world.parts.nodes.sessions.open_session(make(machine))
        assert await stored() == before, name
    await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, **REPORTED))
    node, generation, _ = await stored()
    assert node.development
    assert generation.agent_version == "9.9"
    assert generation.holders != before[1].holders
    assert generation.drift != before[1].drift
