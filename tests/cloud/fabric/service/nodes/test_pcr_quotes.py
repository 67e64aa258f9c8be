"""`cloud.fabric.service.nodes.pcr_quotes`: what each policy does with a quote, at an activation and at a session."""

from typing import Any

import msgspec
import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.store.rows import GenerationRow
from protocol.evidence import PcrQuote, qualifying_data
from protocol.messages.activation import Activated
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.support import ALICE, Machine, World
from tests.simulators.forged_evidence import PCRS, pcr_quote

HEX = tuple(value.hex() for value in PCRS)
CHANGED = (b"\xff" * 32, *PCRS[1:])


async def policy(world: World, value: schemas.PcrPolicy, profile: str = "") -> None:
    body = schemas.SetPcrPolicy(value, profile)
    await world.parts.operators.pcr_policies.set_policy(ALICE, world.tenant, body)


async def session(world: World, machine: Machine, values: tuple[bytes, ...] = PCRS, **changes: Any) -> None:
    """Open a session with a quote of these values, and store what it reported."""
    nonce = world.parts.nodes.sessions.make_nonce().nonce
    quote: PcrQuote = pcr_quote(machine.ak, nonce.encode(), values)
    body = machine.ask_for_session(None, **{"nonce": nonce, "pcr_quote": quote, **changes})
    try:
        await world.parts.nodes.sessions.open_session(body)
    finally:
        await world.parts.nodes.seen.store()


async def row(world: World, machine: Machine, number: int = 1) -> GenerationRow:
    return await world.generation(machine.node, number)


async def activate(world: World, machine: Machine, quote: PcrQuote | None = None) -> Activated:
    """Activate with a valid quote, or with this one."""
    challenge = await machine.start((await world.code()).secret)
    proof = machine.proof(challenge)
    right = pcr_quote(machine.ak, qualifying_data(machine.secret, challenge.activation, proof.csr))
    return await machine.prove(challenge, msgspec.structs.replace(proof, pcr_quote=quote or right))


def pcr_columns(stored: GenerationRow) -> tuple[object, ...]:
    return stored.pcr_accepted, stored.pcr_values, stored.pcr_fault, stored.pcr_changed_at


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_values_are_recorded_when_they_change_and_only_then(world: World, machine: Machine) -> None:
    """The machine was activated without a quote, so the values of its first quote are the accepted ones."""
    await session(world, machine)
    first = await row(world, machine)
    assert (first.pcr_accepted, first.pcr_values, first.pcr_fault, first.pcr_changed_at) == (
        HEX,
        HEX,
        "",
        world.clock(),
    )
    await session(world, machine)
    assert pcr_columns(await row(world, machine)) == pcr_columns(first)
    await session(world, machine, CHANGED)
    await session(world, machine, pcr_quote=msgspec.UNSET)
    last = await row(world, machine)
    assert (last.pcr_accepted, last.pcr_values[0], last.pcr_fault) == (HEX, "ff" * 32, "the agent sent no quote")
    entries = await world.stores.audit.page("", machine.node, "node.pcrs_changed", "aud_8", 200)
    assert [(entry.detail.get("changed", ""), entry.detail.get("fault", "")) for entry in reversed(entries)] == [
        ("", ""),
        ("0", ""),
        ("0", "the agent sent no quote"),
    ]
    shown = (await world.parts.operators.node_lists.detail(machine.node)).generations[0]
    assert (shown.pcr_changed, shown.pcr_fault) == ((0,), "the agent sent no quote")


async def test_a_quote_for_another_session_is_a_fault(world: World, machine: Machine) -> None:
    await session(world, machine, pcr_quote=pcr_quote(machine.ak, b"an earlier nonce"))
    assert (await row(world, machine)).pcr_fault == "the quote is for another challenge (step 34)"


async def test_ignore_looks_at_nothing(world: World, machine: Machine) -> None:
    before = await row(world, machine)
    await policy(world, "ignore")
    await session(world, machine)
    kept = await row(world, machine)
    assert (kept.pcr_accepted, kept.pcr_values, kept.pcr_fault) == ((), (), before.pcr_fault)
    await activate(world, machine, PcrQuote(fault="no bank"))
    assert ((await row(world, machine, 2)).pcr_fault, (await row(world, machine, 2)).pcr_changed_at) == ("", None)


async def test_require_refuses_a_session_until_the_values_are_accepted(world: World, machine: Machine) -> None:
    await policy(world, "require", "standard")
    await session(world, machine)
    with pytest.raises(errors.QuoteRefused, match="the agent sent no quote"):
        await session(world, machine, pcr_quote=msgspec.UNSET)
    with pytest.raises(errors.QuoteRefused, match="the PCRs 0 have changed"):
        await session(world, machine, CHANGED)
    assert "session.refused" in await world.actions(machine.node)
    values = (await row(world, machine)).pcr_values
    await world.parts.operators.pcr_policies.accept(ALICE, machine.node, schemas.AcceptPcrs(values))
    await session(world, machine, CHANGED)


async def test_the_policy_of_another_profile_does_not_count(world: World, machine: Machine) -> None:
    await policy(world, "require", "other")
    await session(world, machine, pcr_quote=msgspec.UNSET)


async def test_an_activation_records_the_values_that_count_from_then_on(world: World) -> None:
    machine = Machine(world)
    await activate(world, machine)
    kept = await row(world, machine)
    assert (kept.pcr_accepted, kept.pcr_values, kept.pcr_fault) == (HEX, HEX, "")


async def test_require_refuses_an_activation_without_a_valid_quote(world: World) -> None:
    await policy(world, "require")
    machine = Machine(world)
    with pytest.raises(errors.QuoteRefused, match="another challenge"):
        await activate(world, machine, pcr_quote(machine.ak, b"another challenge"))
    with pytest.raises(errors.QuoteRefused, match="cannot make a quote: no bank"):
        await activate(world, machine, PcrQuote(fault="no bank"))
    await activate(world, machine)


async def test_a_machine_that_cannot_quote_is_activated_and_reported(world: World) -> None:
    machine = Machine(world)
    await activate(world, machine, PcrQuote(fault="no bank"))
    assert (await row(world, machine)).pcr_fault == "the agent cannot make a quote: no bank"


async def test_a_node_without_a_tpm_is_reported_and_gets_no_session_under_require(
    world: World, machine: Machine
) -> None:
    quotes, now = world.parts.nodes.sessions.pcr_quotes, world.clock()
    node = msgspec.structs.replace(await world.node(machine.node), tier="software")
    claims = machine.claims(b"")
    await quotes.at_session(node, await row(world, machine), claims, now)
    await world.parts.nodes.seen.store()
    assert (await row(world, machine)).pcr_fault == "the node has no TPM"
    await policy(world, "require")
    with pytest.raises(errors.QuoteRefused, match="has no TPM"):
        await quotes.at_session(node, await row(world, machine), claims, now)
