"""`cloud.fabric.store.tokens`: operators' tokens."""

import msgspec

from cloud.fabric.store import Stores
from cloud.fabric.store.rows import TokenRow
from protocol.ids import TokenId, make_id
from tests.cloud.fabric.store.support import HOUR, NOW

TOKENS = [
    TokenRow(TokenId(make_id("tok", number, bytes(10))), f"token {number}", f"hash {number}", NOW, None, None)
    for number in (1, 2, 3)
]


async def test_tokens_are_found_by_id_and_hash_and_paged(stores: Stores) -> None:
    for row in TOKENS:
        await stores.tokens.insert(row)
    assert await stores.tokens.find(TOKENS[0].id) == await stores.tokens.find_by_hash("hash 1") == TOKENS[0]
    assert await stores.tokens.find_by_hash("hash 9") is None
    assert await stores.tokens.page("", 2) == TOKENS[:2]
    assert await stores.tokens.page(TOKENS[1].id, 2) == TOKENS[2:]


async def test_the_first_revocation_counts(stores: Stores) -> None:
    await stores.tokens.insert(TOKENS[0])
    await stores.tokens.revoke(TOKENS[0].id, NOW)
    await stores.tokens.revoke(TOKENS[0].id, NOW + HOUR)
    assert await stores.tokens.find(TOKENS[0].id) == msgspec.structs.replace(TOKENS[0], revoked_at=NOW)
