"""`cloud.contracts.events`: the envelope of an event on the wire, types and subjects."""

from datetime import UTC, datetime

import msgspec
import pytest

from cloud.contracts.events import Changes, Event, EventType, parse_type, subject_of
from protocol.ids import EventId

EVENT = Event(
    id=EventId("evt_01jd9y4vt0e8p9jf3rkm4zq7xw"),
    type="dev.cascade.fabric.tenant.created.v1",
    source="/fabric",
    subject="tenant/ten_1",
    time=datetime(2026, 11, 22, 12, tzinfo=UTC),
    tenant="ten_1",
    epoch=1764504000000,
    sequence=1,
    position=7,
    traceparent="",
    data=msgspec.Raw(b'{"name":"Acme"}'),
)
ENCODED = (
    b'{"epoch":1764504000000,"events":[{"id":"evt_01jd9y4vt0e8p9jf3rkm4zq7xw",'
    b'"type":"dev.cascade.fabric.tenant.created.v1","source":"/fabric","subject":"tenant/ten_1",'
    b'"time":"2026-11-22T12:00:00Z","tenant":"ten_1","epoch":1764504000000,"sequence":1,"position":7,'
    b'"traceparent":"","data":{"name":"Acme"}}],"cursor":"fabric.1764504000000.7","head":9}'
)


def test_the_wire_form_has_the_data_as_it_was_stored() -> None:
    changes = Changes(1764504000000, (EVENT,), "fabric.1764504000000.7", 9)
    assert msgspec.json.encode(changes) == ENCODED
    assert msgspec.json.decode(ENCODED, type=Changes, strict=True) == changes


def test_types_are_parsed_into_their_parts() -> None:
    parsed = parse_type(EVENT.type)
    assert parsed == EventType("fabric", "tenant", "created", 1)
    assert str(parsed) == EVENT.type


@pytest.mark.parametrize(
    "text",
    [
        "",
        "com.example.fabric.tenant.created.v1",
        "dev.cascade.fabric.tenant.created",
        "dev.cascade.fabric.tenant.created.v0",
        "dev.cascade.fabric.tenant.created.v1 ",
        "dev.cascade.fabric.Tenant.created.v1",
        "dev.cascade.fabric.tenant.created.v1000",
    ],
)
def test_a_type_of_another_form_has_no_parts(text: str) -> None:
    assert parse_type(text) is None


def test_subjects() -> None:
    assert subject_of("tenant", "ten_1") == "tenant/ten_1"
    for noun, object_id in (("", "a"), ("a/b", "c"), ("tenant", "a.b"), ("tenant", "a>"), ("tenant", "a\n")):
        with pytest.raises(ValueError, match="a subject is"):
            subject_of(noun, object_id)
