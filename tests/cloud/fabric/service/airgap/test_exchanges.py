"""`cloud.fabric.service.airgap.exchanges`: one answer a request, receipts, and later requests."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from cloud.fabric.errors import AirgapInvalid, AirgapOutdated, AirgapUsed, Conflict
from cloud.fabric.service.airgap import exchanges
from protocol.airgap.request import Receipt
from protocol.signed.statements import Lease
from tests.cloud.fabric.carried import Site, a_site
from tests.cloud.fabric.support import World

HOUR = timedelta(hours=1)


async def test_an_imported_answer_ends_its_request(site: Site) -> None:
    text = site.text()
    site.take(await site.answered(text))
    await site.refresh()
    with pytest.raises(AirgapUsed, match="the receipt of the answer came at"):
        await site.send(text)


async def test_a_later_answer_supersedes_one_without_a_receipt(site: Site) -> None:
    first = site.text()
    await site.send(first)
    site.world.clock.forward(HOUR)
    await site.send(site.text())
    with pytest.raises(AirgapOutdated, match="a later request of this node was answered"):
        await site.send(first)
    assert [each.state for each in await site.exchanges()] == ["received", "superseded", "answered"]


async def test_a_request_with_the_id_of_another_is_refused(site: Site, world: World) -> None:
    made = site.request()
    await site.send(msgspec.json.encode(site.file(made)).decode())
    other = msgspec.structs.replace(made, nonce="another nonce of 20 ch")
    with pytest.raises(AirgapInvalid, match="another request with this id"):
        await site.send(msgspec.json.encode(site.file(other)).decode())
    stranger = a_site(world, "ek 2")
    await stranger.activate((await world.code()).secret)
    with pytest.raises(AirgapInvalid, match="another request with this id"):
        await stranger.send(stranger.text(request=made.request))
    assert [each.state for each in await stranger.exchanges()] == ["answered"]


async def test_another_signature_over_the_same_request_gets_the_same_answer(site: Site) -> None:
    """An ECDSA signature can be made again. The request is its body."""
    made = site.request()
    one, two = (msgspec.json.encode(site.file(made)).decode() for _ in range(2))
    assert one != two
    assert (await site.send(one)).answer == (await site.send(two)).answer


@pytest.mark.parametrize("wrong", ["request", "hash", "node"])
async def test_a_receipt_that_names_no_answer_changes_nothing(site: Site, world: World, wrong: str) -> None:
    receipt = site.receipt
    assert receipt is not None
    if wrong == "node":
        other = a_site(world, "ek 2")
        await other.activate((await world.code()).secret)
        assert other.receipt is not None
        receipt = other.receipt
    if wrong == "request":
        receipt = msgspec.structs.replace(receipt, request=site.request().request)
    if wrong == "hash":
        receipt = msgspec.structs.replace(receipt, answer_sha256="0" * 64)
    site.receipt = receipt
    assert isinstance(await site.refresh(), Lease)
    assert "airgap.received" not in await world.actions(site.machine.node)
    assert [each.state for each in await site.exchanges()] == ["superseded", "answered"]


async def test_a_receipt_counts_once(site: Site) -> None:
    receipt = site.receipt
    await site.refresh()
    first = (await site.exchanges())[0]
    assert first.imported_at is not None
    assert first.received_at == site.world.clock()
    site.world.clock.forward(HOUR)
    site.receipt = receipt
    await site.refresh()
    assert (await site.exchanges())[0] == first
    assert (await site.world.actions(site.machine.node)).count("airgap.received") == 1


async def test_a_receipt_that_comes_late_is_recorded(site: Site) -> None:
    """A later request was answered first. The receipt still says which answer was imported."""
    first = site.receipt
    assert isinstance(first, Receipt)
    site.receipt = None
    await site.refresh()
    site.receipt = first
    await site.refresh()
    assert [each.state for each in await site.exchanges()] == ["received", "superseded", "answered"]


async def test_two_operators_who_answer_at_once_get_one_answer(
    site: Site, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = site.text()

    async def unseen(*_: object) -> None:
        """What both see at first."""

    with monkeypatch.context() as both:
        both.setattr(exchanges.Exchanges, "stored", unseen)
        answers = await asyncio.gather(site.send(text), site.send(text), site.send(text))
    assert len({each.answer for each in answers}) == 1
    assert isinstance(site.take(await site.answered(text)), Lease)
    assert (await world.actions(site.machine.node)).count("airgap.answered") == 2, "the activation and the refresh"


async def test_an_answer_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "ANSWER_BYTES_MAX", 1000)
    seq = (await site.world.node(site.machine.node)).seq
    with pytest.raises(Conflict, match="more than 1000 bytes"):
        await site.send(site.text())
    assert (await site.world.node(site.machine.node)).seq == seq
