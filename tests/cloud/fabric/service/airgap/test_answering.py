"""`cloud.fabric.service.airgap.answering`: an operator answers requests, and a machine imports the answers."""

from datetime import timedelta

import pytest

from cloud.fabric import schemas
from cloud.fabric.bodies.airgap import VALID_DAYS_MAX, AnswerAirgapRequest
from cloud.fabric.errors import AirgapExpired, AirgapInvalid, Invalid, IssuerUnavailable, NotFound, TokenRefused
from cloud.fabric.tuf.offline import Changes
from cloud.fabric.tuf.repository import pin_of, sign_root
from cloud.http.guard import Operator
from protocol.airgap.answer import ANSWER_LIFE
from protocol.airgap.errors import AnswerExpired, AnswerOutdated, AnswerUsed
from protocol.airgap.request import REQUEST_LIFE
from protocol.messages.activation import TrustPin
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.authorities import Generation
from tests.cloud.fabric.carried import Site, a_site
from tests.cloud.fabric.publishing import YEAR, Holders
from tests.cloud.fabric.support import ALICE, World, change, run_once

DAY = timedelta(days=1)


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_from_the_activation_to_the_revocation_without_a_network(world: World) -> None:
    site = a_site(world)
    first = await site.activate((await world.code(seats=1)).secret)
    world.clock.forward(DAY)
    second = await site.refresh()
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    assert second.terminate_at - first.terminate_at == DAY, "each answer has a lease of the full length"
    await change(world, site.machine, "suspend", "unpaid")
    suspended = await site.refresh()
    assert isinstance(suspended, Suspension)
    assert suspended.reason == "unpaid"
    await change(world, site.machine, "resume")
    assert isinstance(await site.refresh(), Lease)
    await change(world, site.machine, "revoke")
    assert isinstance(await site.refresh(), Revocation)
    assert (await world.generation(site.machine.node, 1)).told_at is not None
    assert [each.statement for each in await site.exchanges()] == [
        "lease",
        "lease",
        "suspension",
        "lease",
        "revocation",
    ]
    assert [each.state for each in await site.exchanges()] == [*["received"] * 4, "answered"]
    actions = await world.actions(site.machine.node)
    assert actions.count("airgap.answered") == 5
    assert actions.count("airgap.received") == 4


async def test_the_same_request_gets_the_same_answer(site: Site) -> None:
    text = site.text()
    first = await site.send(text)
    site.world.clock.forward(DAY)
    assert (await site.send(text)).answer == first.answer
    assert (await site.send(text, valid_days=30)).answer == first.answer
    actions = await site.world.actions(site.machine.node)
    assert actions.count("airgap.answered") == 2, "one for the activation, and one for the request"


async def test_after_a_change_of_the_standing_the_same_request_gets_the_present_statement(site: Site) -> None:
    text = site.text()
    await site.send(text)
    await change(site.world, site.machine, "suspend")
    assert isinstance(site.read(await site.answered(text)), Suspension)
    await change(site.world, site.machine, "resume")
    # Any of the answers may reach the site. Its receipt is recognised.
    assert isinstance(site.take(await site.answered(text)), Lease)
    await site.refresh()
    assert [each.state for each in await site.exchanges()] == ["received", "received", "answered"]


async def test_an_answer_can_be_imported_once_and_until_its_end(site: Site) -> None:
    text = site.text()
    answer = await site.answered(text)
    site.world.clock.forward(ANSWER_LIFE)
    with pytest.raises(AnswerExpired):
        site.take(answer)
    renewed = await site.answered(site.text())
    with pytest.raises(AnswerOutdated):
        site.take(answer)
    site.take(renewed)
    with pytest.raises(AnswerUsed):
        site.take(renewed)


async def test_a_request_is_answered_while_it_is_young(site: Site) -> None:
    text = site.text()
    site.world.clock.forward(REQUEST_LIFE)
    first = await site.send(text)
    site.world.clock.forward(timedelta(seconds=1))
    with pytest.raises(AirgapExpired, match="is answered within 14 days"):
        await site.send(text)
    assert first.exchange is not None
    suspect = site.text(made_at=site.world.clock() - YEAR, clock=site.clock(suspect=True))
    assert isinstance(site.take(await site.answered(suspect)), Lease), "a dead battery locks no site"


async def test_an_expired_answer_is_made_again(site: Site) -> None:
    text = site.text(made_at=site.world.clock() + ANSWER_LIFE)
    first = await site.send(text)
    site.world.clock.forward(ANSWER_LIFE)
    second = await site.send(text)
    assert second.answer != first.answer
    assert isinstance(site.take(await site.answered(text)), Lease)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: "{}", "no request"),
        (lambda text: "not a request", "cannot be|no line|text|REQUEST"),
        (lambda text: text[:-20], "cut short or damaged"),
        (lambda text: text.replace("refresh", "activate"), "changed"),
        (lambda text: text.replace("cascade-airgap-request", "cascade-airgap-answer"), "is the answer"),
    ],
)
async def test_a_damaged_request_changes_nothing(site: Site, change: object, reason: str) -> None:
    text = site.text()
    before = await site.world.actions(site.machine.node)
    with pytest.raises(AirgapInvalid, match=reason):
        await site.send(change(text))  # type: ignore[operator]  # one of the functions above
    assert await site.world.actions(site.machine.node) == before
    assert isinstance(site.take(await site.answered(text)), Lease)


async def test_bounds(site: Site) -> None:
    for days in (0, VALID_DAYS_MAX + 1):
        with pytest.raises(Invalid, match="valid_days"):
            await site.send(site.text(), valid_days=days)
    answer = await site.send(site.text(), valid_days=VALID_DAYS_MAX)
    assert answer.exchange is not None
    assert answer.exchange.valid_until == site.world.clock() + timedelta(days=VALID_DAYS_MAX)
    with pytest.raises(Invalid, match="fingerprint"):
        await site.send(site.text(fingerprint={"a\nb": "1"}))
    with pytest.raises(AirgapInvalid, match="lease_version"):
        await site.send(site.text(lease_version=0))


async def test_a_slept_through_rotation_of_the_root_is_in_the_answer(site: Site, holders: Holders) -> None:
    world, second = site.world, Generation()
    first_root = await holders.newest("root")
    site.root_version, site.trust_version = 1, 1
    await site.refresh()
    assert site.files == {}, "the machine has the current trust"
    for _ in range(3):
        world.clock.forward(DAY)
        newest = await holders.newest("root")
        renewed = sign_root(world.clock() + 10 * YEAR, newest, holders.root)
        await world.parts.trust.publishing.publish(ALICE, schemas.PublishTrust(roots=(renewed.data,)))
    await holders.publish(Changes(add_roots=(second.root.der,), add_nodes=(second.nodes.der,)))
    assert isinstance(await site.refresh(pin=pin_of(first_root)), Lease)
    roots = [path for path in site.files if path.endswith("root.json")]
    assert roots == ["metadata/2.root.json", "metadata/3.root.json", "metadata/4.root.json"]
    assert len(site.files) == len(roots) + 3 + 3
    site.root_version, site.trust_version = 4, 2
    await site.refresh()
    assert site.files == {}
    await world.parts.trust.trust_reports.store()
    assert (await world.generation(site.machine.node, 1)).trust_version == 2


async def test_a_request_with_the_pin_of_another_installation_is_refused(site: Site) -> None:
    with pytest.raises(AirgapInvalid, match="of another installation"):
        await site.send(site.text(pin=TrustPin(1, "0" * 64)))


async def test_exchanges_are_listed_by_tenant_node_and_state(site: Site) -> None:
    answers = site.world.parts.airgap.airgap_answers
    await site.refresh()
    page = await answers.page(site.world.tenant, "", "", "", 1)
    assert len(page.items) == 1
    assert page.next_cursor
    rest = await answers.page(site.world.tenant, "", "", page.next_cursor, 10)
    assert [each.state for each in (*page.items, *rest.items)] == ["received", "answered"]
    assert [each.kind for each in await site.exchanges("answered")] == ["refresh"]
    with pytest.raises(Invalid, match="state"):
        await answers.page("", "", "lost", "", 10)
    with pytest.raises(NotFound):
        await answers.page("ten_01jd8xk3v5e2r9qz7w4m6n8p0a", "", "", "", 10)


async def test_a_revoked_token_answers_nothing(site: Site) -> None:
    text = site.text()
    before = await site.exchanges()
    made = await site.world.parts.operators.tokens.create(ALICE, schemas.CreateToken("bob"))
    await site.world.parts.operators.tokens.revoke(ALICE, made.token.id)
    with pytest.raises(TokenRefused):
        await site.world.parts.airgap.airgap_answers.answer(Operator(made.token.id, "bob"), AnswerAirgapRequest(text))
    assert await site.exchanges() == before


async def test_old_exchanges_are_deleted_by_the_background_work(site: Site) -> None:
    await site.refresh()
    site.world.clock.forward(ANSWER_LIFE + timedelta(seconds=1))
    await run_once(site.world)
    newest = await site.world.stores.airgap.newest(site.machine.node)
    assert newest is not None
    assert newest.answer == ""
    assert len(await site.exchanges()) == 2
    site.world.clock.forward(timedelta(days=400))
    await run_once(site.world)
    assert [each.state for each in await site.exchanges()] == ["answered"], "its receipt is still outstanding"


async def test_no_request_is_answered_before_the_comparison_after_a_restore(site: Site) -> None:
    """The restored database may have a node as active that was revoked after the backup."""
    pending = site.world.parts.restored.reconciling.pending
    before, pending.waits = await site.exchanges(), True
    with pytest.raises(IssuerUnavailable, match="compares its records first"):
        await site.send(site.text())
    assert await site.exchanges() == before
    pending.waits = False
    assert isinstance(await site.refresh(), Lease)
