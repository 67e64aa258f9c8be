"""`cloud.fabric.service.airgap.activations`: a machine activates in one round, and only its chip opens the answer."""

from datetime import timedelta

import msgspec
import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.errors import (
    AirgapInvalid,
    AirgapOutdated,
    ApprovalDenied,
    CodeExpired,
    CodeRefused,
    CodeRevoked,
    CsrRefused,
    EvidenceNotAccepted,
    IssuerUnavailable,
    NodeRevoked,
    SeatsExhausted,
    TierNotAllowed,
)
from protocol.airgap.answer import open_claims
from protocol.airgap.errors import SealUnopened
from protocol.airgap.request import Request, RequestFile, certified_data
from protocol.airgap.sealing import SECRET_BYTES, open_sealed
from protocol.encoding import json_decode, json_encode
from protocol.evidence import ClockInfo, EndorsementEvidence
from protocol.limits import CONFIRM_WITHIN
from protocol.signed.statements import Lease, Suspension
from tests.cloud.breakwater.support import TRUST_DOMAIN
from tests.cloud.fabric.carried import Site, a_site
from tests.cloud.fabric.support import ALICE, World, change, decide, run_once
from tests.simulators.forged_evidence import PaperChip, ek_public, p256, request, rsa2048


async def refused(site: Site, text: str, error: type[errors.Refused], reason: str = "") -> None:
    """Send a request that is refused. It takes no seat and makes no node."""
    nodes = await site.world.stores.nodes.page("", "", "", 50)
    with pytest.raises(error, match=reason or None):
        await site.send(text)
    assert await site.world.stores.nodes.page("", "", "", 50) == nodes
    assert await site.world.stores.airgap.page("", "", "", "", 50) == []


async def test_the_machine_becomes_a_node_in_its_seat(world: World) -> None:
    code = await world.code(seats=1)
    site = a_site(world)
    lease = await site.activate(code.secret)
    node = await world.node(site.machine.node)
    assert isinstance(lease, Lease)
    assert (lease.node, lease.generation) == (node.id, 1)
    assert (node.standing, node.current_generation, node.seat_held) == ("active", 1, True)
    assert await world.seats_taken(code) == 1
    actions = await world.actions(node.id)
    assert actions == ["activation.proved", "activation.issued", "activation.confirmed", "airgap.answered"]
    detail = await world.parts.operators.node_lists.detail(node.id)
    assert detail.receipt_outstanding_since == world.clock()
    await site.refresh()
    assert (await site.exchanges())[0].state == "received"


async def test_the_fingerprint_is_enrolled_with_the_second_request(world: World) -> None:
    site = a_site(world)
    await site.activate((await world.code()).secret)
    assert (await world.generation(site.machine.node, 1)).fingerprint == {}
    await site.refresh()
    assert (await world.generation(site.machine.node, 1)).fingerprint == site.machine.fingerprint
    assert (await world.node(site.machine.node)).enrolled == site.machine.fingerprint
    site.machine.fingerprint = {"board_serial": "cd" * 32}
    await site.refresh()
    assert (await world.generation(site.machine.node, 1)).fingerprint != site.machine.fingerprint
    await world.parts.nodes.fingerprints.store()
    assert "node.fingerprint_changed" in await world.actions(site.machine.node)


async def test_a_thief_with_both_files_opens_nothing(world: World) -> None:
    site = a_site(world)
    text = site.text("activate", code=(await world.code()).secret)
    answer = await site.answered(text)
    assert answer.body == ""
    assert answer.sealed is not None
    assert site.outstanding is not None
    digest = bytes.fromhex(site.outstanding.request_sha256)
    # The secret of another challenge is what another chip, or none, can offer.
    for secret in (bytes(SECRET_BYTES), digest):
        with pytest.raises(SealUnopened):
            open_sealed(answer.sealed.ciphertext, secret, digest, answer.sealed.iv)
    sent = json_encode(answer).decode()
    node = (await site.exchanges())[0].node
    generation = await world.generation(node, 1)
    assert generation.statement not in sent
    assert node not in sent
    assert open_claims(answer, world.ring, TRUST_DOMAIN).request == site.outstanding.request
    assert isinstance(site.take(answer), Lease)


async def test_the_same_chip_is_the_same_node_and_its_old_generation_ends(world: World) -> None:
    code = await world.code(seats=1)
    site = a_site(world)
    await site.activate(code.secret)
    first = site.machine.node
    await change(world, site.machine, "suspend", "held")
    again = await site.activate(code.secret)
    assert isinstance(again, Suspension), "standing belongs to the node"
    assert (site.machine.node, again.generation) == (first, 2)
    assert (await world.generation(first, 1)).state == "closed"
    assert await world.seats_taken(code) == 1
    await run_once(world)
    assert (await world.node(first)).closed_at_issuer == 1


async def test_codes_and_seats(world: World) -> None:
    code = await world.code(seats=1)
    await a_site(world).activate(code.secret)
    other = a_site(world, "ek 2")
    with pytest.raises(SeatsExhausted):
        await other.send(other.text("activate", code=code.secret))
    assert await world.seats_taken(code) == 1
    third = a_site(world, "ek 3")
    mistyped = code.secret[:-1] + ("x" if code.secret[-1] != "x" else "y")
    for text in ("cac_unknown", mistyped):
        with pytest.raises(CodeRefused):
            await third.send(third.text("activate", code=text))
    short = await world.code(life=timedelta(hours=1))
    world.clock.forward(timedelta(hours=1))
    with pytest.raises(CodeExpired):
        await third.send(third.text("activate", code=short.secret))
    gone = await world.code()
    await world.parts.operators.codes.revoke(ALICE, gone.code.id)
    with pytest.raises(CodeRevoked):
        await third.send(third.text("activate", code=gone.secret))


async def test_a_request_does_not_show_its_code(world: World) -> None:
    """A reader of the file has no seat. The code itself in a request is refused, and so is the proof of another one."""
    code, site = await world.code(), a_site(world)
    text = site.text("activate", code=code.secret)
    assert code.secret.removeprefix("cac_") not in text
    copied = json_decode(text.encode(), RequestFile)
    stolen = json_decode(copied.body.encode(), Request).code
    thief = a_site(world, "ek 2")
    for proof in (stolen, code.secret):
        made = msgspec.structs.replace(thief.request("activate"), code=proof)
        await refused(thief, json_encode(thief.file(made)).decode(), CodeRefused)
    assert isinstance(site.take(await site.answered(text)), Lease)


async def test_a_code_that_was_revoked_after_the_answer_does_not_stop_a_repeat(world: World) -> None:
    code, site = await world.code(), a_site(world)
    text = site.text("activate", code=code.secret)
    first = await site.send(text)
    await world.parts.operators.codes.revoke(ALICE, code.code.id)
    assert (await site.send(text)).answer == first.answer
    assert first.exchange is not None
    node = await world.node(first.exchange.node)
    await world.parts.operators.standings.change(ALICE, node.id, "suspend", "")
    assert isinstance(site.take(await site.answered(text)), Suspension)


async def test_an_operator_approves_first_and_answers_the_same_file_again(world: World) -> None:
    code = await world.code(approval=True)
    site = a_site(world)
    text = site.text("activate", code=code.secret)
    waiting = await site.send(text)
    assert (waiting.answer, waiting.exchange) == ("", None)
    assert waiting.activation is not None
    assert waiting.approve_by is not None
    assert (await site.send(text)).activation == waiting.activation
    assert await world.seats_taken(code) == 0
    await decide(world, waiting.activation, "approved")
    assert await world.seats_taken(code) == 1
    assert isinstance(site.take(await site.answered(text)), Lease)
    assert await world.seats_taken(code) == 1


async def test_a_denied_machine_is_refused_with_the_reason(world: World) -> None:
    site = a_site(world)
    text = site.text("activate", code=(await world.code(approval=True)).secret)
    waiting = await site.send(text)
    assert waiting.activation is not None
    await decide(world, waiting.activation, "denied", "not ours")
    for each in (text, text):
        with pytest.raises(ApprovalDenied, match="not ours"):
            await site.send(each)


async def test_an_activation_that_lapsed_is_started_again_by_the_same_file(world: World) -> None:
    code = await world.code(seats=1)
    site = a_site(world)
    text = site.text("activate", code=code.secret)
    world.issuer.down = True
    with pytest.raises(IssuerUnavailable):
        await site.send(text)
    assert await world.seats_taken(code) == 1
    world.issuer.down = False
    world.clock.forward(CONFIRM_WITHIN)
    await run_once(world)
    assert await world.seats_taken(code) == 0
    assert isinstance(site.take(await site.answered(text)), Lease)
    assert await world.seats_taken(code) == 1


async def test_an_interrupted_answer_is_continued(world: World) -> None:
    """The issuer fails after it has issued. The repeat gets the same certificate and generation."""
    code, site = await world.code(seats=1), a_site(world)
    text = site.text("activate", code=code.secret)
    broken = [True]

    def fail(name: str) -> None:
        if name == "device" and broken.pop():
            raise IssuerUnavailable("the answer was lost")

    world.issuer.after = fail
    with pytest.raises(IssuerUnavailable):
        await site.send(text)
    world.issuer.after = lambda name: None
    lease = site.take(await site.answered(text))
    assert lease.generation == 1
    assert await world.seats_taken(code) == 1


async def test_a_revoked_machine_needs_a_code_that_readmits_it(world: World) -> None:
    site = a_site(world)
    await site.activate((await world.code()).secret)
    await change(world, site.machine, "revoke")
    world.clock.forward(timedelta(hours=1))
    with pytest.raises(NodeRevoked):
        await site.send(site.text("activate", code=(await world.code()).secret))
    readmits = await world.code(readmit=site.machine.node)
    assert isinstance(await site.activate(readmits.secret), Lease)


async def test_a_later_request_takes_the_place_of_an_earlier_one(world: World) -> None:
    code, site = await world.code(), a_site(world)
    first = site.text("activate", code=code.secret)
    await site.send(first)
    world.clock.forward(timedelta(hours=1))
    await site.activate(code.secret)
    with pytest.raises(AirgapOutdated, match="a later request of this node was answered"):
        await site.send(first)


async def test_an_earlier_request_is_refused_after_a_later_one(world: World) -> None:
    code, site = await world.code(), a_site(world)
    first = site.text("activate", code=code.secret)
    world.clock.forward(timedelta(hours=1))
    await site.activate(code.secret)
    with pytest.raises(AirgapOutdated, match="made before the request"):
        await site.send(first)
    assert (await world.node(site.machine.node)).current_generation == 1


async def test_a_request_whose_node_was_revoked_is_not_answered_again(world: World) -> None:
    code, site = await world.code(), a_site(world)
    text = site.text("activate", code=code.secret)
    first = await site.send(text)
    assert first.exchange is not None
    await world.parts.operators.standings.change(ALICE, first.exchange.node, "revoke", "")
    with pytest.raises(AirgapOutdated, match="closed"):
        await site.send(text)


async def test_a_request_from_before_an_activation_over_the_network_is_refused(world: World) -> None:
    """It was never answered. An answer would close the generation with which the machine runs."""
    code, site = await world.code(), a_site(world)
    text = site.text("activate", code=code.secret)
    world.clock.forward(timedelta(hours=1))
    await site.machine.activate(code.secret)
    session = site.machine.ask_for_session(clock=ClockInfo(site.ticks + 1, 1, 0, True))
    peer = world.peer((await world.parts.nodes.sessions.open_session(session)).certificate_chain[0])
    await world.parts.nodes.confirmations.confirm(peer, site.machine.ask())
    with pytest.raises(AirgapOutdated, match="made before the node's contact"):
        await site.send(text)
    assert (await world.node(site.machine.node)).last_generation == 1


async def test_forged_requests(world: World) -> None:
    """Each wrong part is refused by name, before a seat is taken."""
    code, site = (await world.code()).secret, a_site(world)

    def made(**changes: object) -> Request:
        return site.request("activate", code=code, **changes)

    def text(file: object) -> str:
        return json_encode(file).decode()

    other_chip = PaperChip(ak=p256("other ak"), node_key=site.machine.node_key, extra_data=bytes(32)).prove()
    await refused(site, text(site.file(made(), key=other_chip.key)), EvidenceNotAccepted, r"\(step 21\)")
    asked = made()
    stale = PaperChip(ak=site.machine.ak, node_key=site.machine.node_key, extra_data=certified_data(b"another")).prove()
    await refused(site, text(site.file(asked, key=stale.key)), EvidenceNotAccepted, r"for another request \(step 24\)")
    strange = p256("strange")
    asked = made(csr=request(strange))
    await refused(site, text(site.file(asked)), CsrRefused, r"\(step 27\)")
    asked = made()
    stolen = PaperChip(ak=site.machine.ak, node_key=strange, extra_data=certified_data(json_encode(asked))).prove()
    await refused(site, text(site.file(asked, key=stolen.key)), CsrRefused, r"\(step 27\)")
    asked = made(csr=request(strange))
    stolen = PaperChip(ak=site.machine.ak, node_key=strange, extra_data=certified_data(json_encode(asked))).prove()
    await refused(site, text(site.file(asked, key=stolen.key)), AirgapInvalid, "another key than the certified one")
    bare = EndorsementEvidence(ek_public(rsa2048("ek").public_key()), site.machine.evidence().ak_public)
    await refused(site, site.text("activate", code=code, endorsement=bare), TierNotAllowed)
    await refused(site, text(site.file(made(), key=msgspec.UNSET)), AirgapInvalid, "no evidence of a TPM")
    await refused(site, site.text("activate", code=""), AirgapInvalid, "no activation code")


async def test_a_tenant_that_requires_quotes_refuses_an_activation_without_one(world: World) -> None:
    await world.parts.operators.pcr_policies.set_policy(ALICE, world.tenant, schemas.SetPcrPolicy(policy="require"))
    site = a_site(world)
    with pytest.raises(errors.QuoteRefused):
        await site.send(site.text("activate", code=(await world.code()).secret))
