"""`cloud.events.nats.subjects`: the names that NATS stores."""

from cloud.events.nats import subjects


def test_names() -> None:
    assert subjects.of_tenant("tnt_1") == "cascade.tnt_1.>"
    assert subjects.next_of("c") == "$JS.API.CONSUMER.MSG.NEXT.CASCADE_EVENTS.c"
    assert subjects.acknowledgement_of("c") == "$JS.ACK.CASCADE_EVENTS.c.>"
    assert subjects.answers_of("c") == "_INBOX.c.>"


def test_a_service_publishes_its_own_events_and_rings_only() -> None:
    allowed = subjects.service_publishes("fabric")
    assert {"cascade.*.fabric.>", "cascade_rings.fabric"} <= set(allowed)
    assert not [each for each in allowed if each.endswith(".fabric") and "breakwater" in each]
    # No request that deletes or purges the stream, or one event of it.
    assert not [each for each in allowed if "PURGE" in each or "STREAM.DELETE" in each or "MSG.DELETE" in each]
    assert subjects.service_hears("fabric") == ("cascade_rings.*", "_INBOX.fabric.>")
