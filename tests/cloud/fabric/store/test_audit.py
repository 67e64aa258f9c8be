"""`cloud.fabric.store.audit`: entries are added, and read by pages."""

from cloud.fabric.store import Stores
from cloud.fabric.store.rows import AuditRow
from protocol.ids import make_id
from tests.cloud.fabric.store.support import NODES, NOW, TENANT


def entry(number: int, action: str = "node.revoke", subject: str = NODES[0], tenant: str = TENANT) -> AuditRow:
    key = make_id("aud", number, bytes(10))
    return AuditRow(id=key, at=NOW, actor="system", action=action, object=subject, tenant=tenant, detail={"seq": "1"})


async def test_the_newest_comes_first_and_filters_match(stores: Stores) -> None:
    entries = [entry(1), entry(2, "node.resume"), entry(3, subject=NODES[1]), entry(4, tenant="")]
    for each in entries:
        await stores.audit.insert(each)
    newest = entries[::-1]
    assert await stores.audit.page("", "", "", "aud_8", 10) == newest
    assert await stores.audit.page("", "", "", "aud_8", 2) == newest[:2]
    assert await stores.audit.page("", "", "", newest[1].id, 10) == newest[2:]
    assert await stores.audit.page(TENANT, "", "", "aud_8", 10) == newest[1:]
    assert await stores.audit.page("", NODES[1], "", "aud_8", 10) == [entries[2]]
    assert await stores.audit.page("", "", "node.resume", "aud_8", 10) == [entries[1]]
    assert await stores.audit.page(TENANT, NODES[0], "node.revoke", "aud_8", 10) == [entries[0]]
