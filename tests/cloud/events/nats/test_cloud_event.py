"""`cloud.events.nats.cloud_event`: the library `cloudevents` reads what the copy writes."""

from datetime import UTC, datetime

import msgspec
from cloudevents.core.formats.json import JSONFormat

from cloud.contracts.events import NUMBER_MAX
from cloud.events.nats.cloud_event import message_of
from cloud.events.store.outbox import EventRow

ROW = EventRow(
    position=7,
    id="evt_1",
    type="dev.cascade.fabric.node.activated.v1",
    subject="node/nod_1",
    sequence=3,
    time=datetime(2026, 12, 1, 4, 0, 0, 5, tzinfo=UTC),
    tenant="tnt_1",
    traceparent="00-a-b-01",
    data=b'{"id":"nod_1"}',
)


def test_an_event_is_a_cloud_event() -> None:
    message = message_of(ROW, "fabric", 1_796_000_000_000)
    assert message is not None
    assert message.subject == "cascade.tnt_1.fabric.node.activated.nod_1"
    assert message.id == "evt_1"
    event = JSONFormat().read(None, message.content)
    assert event.get_attributes() == {
        "specversion": "1.0",
        "id": "evt_1",
        "source": "/fabric",
        "type": "dev.cascade.fabric.node.activated.v1",
        "subject": "node/nod_1",
        "time": ROW.time,
        "datacontenttype": "application/json",
        "tenant": "tnt_1",
        "epoch": "0000001796000000000",
        "sequence": "0000000000000000003",
        "traceparent": "00-a-b-01",
    }
    assert event.get_data() == {"id": "nod_1"}


def test_numbers_as_texts_keep_their_order() -> None:
    largest = message_of(msgspec.structs.replace(ROW, sequence=NUMBER_MAX, traceparent=""), "fabric", NUMBER_MAX)
    assert largest is not None
    attributes = JSONFormat().read(None, largest.content).get_attributes()
    assert attributes["sequence"] == attributes["epoch"] == str(NUMBER_MAX)
    assert "traceparent" not in attributes
    assert str(NUMBER_MAX) > "0000000000000000003"


def test_an_event_without_a_tenant_is_for_services_only() -> None:
    assert message_of(msgspec.structs.replace(ROW, tenant=""), "fabric", 1) is None


def test_a_replayed_event_is_the_same_event_under_another_id_of_the_server() -> None:
    first, again = message_of(ROW, "fabric", 1), message_of(ROW, "fabric", 1, replay=2)
    assert first is not None
    assert again == first._replace(id="evt_1-2")
