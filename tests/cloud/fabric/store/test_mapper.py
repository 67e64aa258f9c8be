"""`cloud.fabric.store.mapper`: structs and rows."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from cloud.fabric import schemas
from cloud.fabric.licensing import statements
from cloud.fabric.store.mapper import Mapper
from protocol.ids import NodeId, TenantId, make_id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SUBJECT = statements.Subject(
    trust_domain="cascade.test",
    tenant=TenantId(make_id("ten", 1, bytes(10))),
    node=NodeId(make_id("node", 1, bytes(10))),
    generation=3,
    epoch=1,
    tier="attested",
    profile="standard",
    entitlements=("press",),
    terms=statements.TERMS["attested"],
)


class Thing(msgspec.Struct, frozen=True):
    id: NodeId
    flag: bool
    terms: schemas.LeaseTerms | None
    names: tuple[str, ...]
    at: datetime | None
    raw: tuple[bytes, ...] = ()


@pytest.mark.parametrize("terms", [None, schemas.LeaseTerms(1, 2, 3, 4)])
def test_a_row_comes_back_as_it_went(terms: schemas.LeaseTerms | None) -> None:
    mapper = Mapper(Thing, "thing")
    thing = Thing(SUBJECT.node, True, terms, ("a", "b"), NOW, (b"\x00\xff",))
    row = dict(zip(Thing.__struct_fields__, mapper.args(thing), strict=True))
    assert all(value is None or isinstance(value, str | bytes | int | datetime) for value in row.values())
    assert mapper.read(row | {"flag": 1}) == thing
    assert mapper.read_one(None) is None
    assert mapper.insert.positional(mapper.args(thing)) == mapper.args(thing)
