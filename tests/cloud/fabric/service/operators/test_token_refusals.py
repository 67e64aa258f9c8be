"""`cloud.fabric.service.operators.token_refusals`: refused tokens are in the audit, a limited number in an hour."""

from datetime import timedelta

from cloud.fabric import schemas
from cloud.fabric.service.operators.token_refusals import REFUSALS_AUDITED_MAX, REFUSALS_PERIOD, UNKNOWN
from protocol.codes import make_secret
from tests.cloud.fabric.support import ALICE, World


async def reasons(world: World, token: str) -> list[tuple[str, str, str]]:
    rows = await world.stores.audit.page("", token, "token.refused", "aud_8", 200)
    return sorted((row.actor, row.outcome, row.detail["reason"]) for row in rows)


async def test_the_entry_names_the_token_and_the_reason(world: World) -> None:
    tokens = world.parts.operators.tokens
    expired = await tokens.create(ALICE, schemas.CreateToken("ci", world.clock() + timedelta(hours=1)))
    revoked = await tokens.create(ALICE, schemas.CreateToken("old"))
    await tokens.revoke(ALICE, revoked.token.id)
    world.clock.forward(timedelta(hours=1))
    for text in (expired.secret, revoked.secret, make_secret("cot", bytes(20)), "no token"):
        assert await tokens.authenticate(text) is None
    assert await reasons(world, expired.token.id) == [("anonymous", "refused", "expired")]
    assert await reasons(world, revoked.token.id) == [("anonymous", "refused", "revoked")]
    assert await reasons(world, UNKNOWN) == [
        ("anonymous", "refused", "no such token"),
        ("anonymous", "refused", "the text is no token"),
    ]


async def test_the_entries_of_an_hour_are_limited(world: World) -> None:
    tokens = world.parts.operators.tokens
    for _ in range(REFUSALS_AUDITED_MAX + 5):
        assert await tokens.authenticate("no token") is None
    assert len(await reasons(world, UNKNOWN)) == REFUSALS_AUDITED_MAX
    world.clock.forward(REFUSALS_PERIOD)
    assert await tokens.authenticate("no token") is None
    assert len(await reasons(world, UNKNOWN)) == REFUSALS_AUDITED_MAX + 1
