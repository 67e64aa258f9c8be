"""`cloud.breakwater.store.audit`: adds rows, and cuts texts that are too long."""

import pytest

from cloud.breakwater.store import Stores
from cloud.breakwater.store.audit import CALLER_CHARS_MAX, DETAIL_CHARS_MAX, OBJECT_CHARS_MAX
from cloud.breakwater.tables import Audit
from cloud.storage import IntegrityError, compiled
from tests.cloud.breakwater.store.samples import NODE, NOW, TENANT, entry

ALL = compiled(Audit.select().order_by(Audit.id).limit(10))


async def test_a_row_has_every_field_of_its_entry(stores: Stores) -> None:
    await stores.audit.add(entry(3, id="a", object="o", outcome="refused", detail="é"))
    assert await stores.engine.fetch(ALL) == [
        {
            "id": "a",
            "at": NOW,
            "caller": "service/fabric",
            "action": "test",
            "tenant": TENANT,
            "node": NODE,
            "generation": 3,
            "object": "o",
            "outcome": "refused",
            "detail": "é",
            "request": "",
        }
    ]
    with pytest.raises(IntegrityError):
        await stores.audit.add(entry(id="a"))


async def test_texts_that_are_too_long_are_cut(stores: Stores) -> None:
    await stores.audit.add(entry(actor="é" * 2000, object="é" * 2000, detail="é" * 2000))
    (row,) = await stores.engine.fetch(ALL)
    lengths = {name: len(row[name]) for name in ("caller", "object", "detail")}
    assert lengths == {"caller": CALLER_CHARS_MAX, "object": OBJECT_CHARS_MAX, "detail": DETAIL_CHARS_MAX}
