"""`cloud.fabric.service.operators.tokens`: a token authenticates an operator until it expires or is revoked."""

from datetime import datetime, timedelta

import pytest

from cloud.fabric import schemas
from cloud.fabric.errors import Conflict, Invalid, NotFound, TokenRefused
from cloud.http.guard import Operator
from protocol.ids import TokenId, make_id
from tests.cloud.fabric.support import ALICE, World

HOUR = timedelta(hours=1)


async def test_a_token_authenticates_an_operator_until_it_expires(world: World) -> None:
    tokens = world.parts.operators.tokens
    made = await tokens.create(ALICE, schemas.CreateToken("ci", world.clock() + HOUR))
    assert await tokens.authenticate(made.secret) == Operator(made.token.id, "ci")
    for text in ("", "cot_wrong", made.secret[:-1], made.secret.replace("cot_", "cac_")):
        assert await tokens.authenticate(text) is None
    row = await world.stores.tokens.find(made.token.id)
    assert made.secret not in str(row)
    world.clock.forward(HOUR)
    assert await tokens.authenticate(made.secret) is None


async def test_a_revoked_token_is_refused_and_a_repeat_is_harmless(world: World) -> None:
    tokens = world.parts.operators.tokens
    world.clock.forward(timedelta(seconds=1))  # Ids of the same millisecond have no order.
    made = await tokens.create(ALICE, schemas.CreateToken("ci"))
    revoked = [await tokens.revoke(ALICE, made.token.id) for _ in range(2)]
    assert revoked[0] == revoked[1]
    assert await tokens.authenticate(made.secret) is None
    assert await world.actions(made.token.id) == ["token.created", "token.revoked", "token.refused"]
    page = await tokens.page("", 10)
    assert [(token.name, token.revoked_at is None) for token in page.items] == [
        ("init", True),
        ("ci", False),
        ("alice", True),
    ]


async def test_no_token_revokes_itself(world: World) -> None:
    tokens = world.parts.operators.tokens
    made = await tokens.create(ALICE, schemas.CreateToken("ci"))
    with pytest.raises(Conflict):
        await tokens.revoke(Operator(made.token.id, "ci"), made.token.id)
    assert await tokens.authenticate(made.secret) is not None
    with pytest.raises(NotFound):
        await tokens.revoke(ALICE, TokenId(make_id("tok", 9, bytes(10))))


async def test_an_expiry_time_is_in_the_future_and_has_a_zone(world: World) -> None:
    naive = datetime(2030, 1, 1)  # noqa: DTZ001  the test needs a time without a zone
    for end in (world.clock(), naive):
        with pytest.raises(Invalid, match="expires_at"):
            await world.parts.operators.tokens.create(ALICE, schemas.CreateToken("ci", end))
    with pytest.raises(Invalid, match="name"):
        await world.parts.operators.tokens.create(ALICE, schemas.CreateToken(" "))


async def test_a_token_makes_no_token_that_outlives_it(world: World) -> None:
    tokens = world.parts.operators.tokens
    end = world.clock() + HOUR
    short = await tokens.create(ALICE, schemas.CreateToken("short", end))
    maker = Operator(short.token.id, "short")
    with pytest.raises(Invalid, match="your own token expires"):
        await tokens.create(maker, schemas.CreateToken("longer", end + timedelta(seconds=1)))
    made = [await tokens.create(maker, schemas.CreateToken("same", at)) for at in (None, end)]
    assert [token.token.expires_at for token in made] == [end, end]
    assert (await tokens.create(maker, schemas.CreateToken("less", end - HOUR / 2))).token.expires_at == end - HOUR / 2
    endless = await tokens.create(ALICE, schemas.CreateToken("endless"))
    assert endless.token.expires_at is None
    world.clock.forward(HOUR)
    with pytest.raises(TokenRefused):
        await tokens.create(maker, schemas.CreateToken("too late"))


async def test_of_two_tokens_that_revoke_each_other_one_stays(world: World) -> None:
    tokens = world.parts.operators.tokens
    first, second = [(await tokens.create(ALICE, schemas.CreateToken(name))).token for name in ("first", "second")]
    await tokens.revoke(Operator(first.id, "first"), second.id)
    with pytest.raises(TokenRefused, match="in the meantime"):
        await tokens.revoke(Operator(second.id, "second"), first.id)
