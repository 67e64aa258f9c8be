"""`cloud.contracts.event_nouns`: names of types and schemas."""

from typing import Literal

import msgspec

from cloud.contracts.event_nouns import EventNoun, pasts_of


class BodyV2(msgspec.Struct, frozen=True):
    """A thing."""


def test_a_type_names_service_noun_participle_and_version() -> None:
    noun = EventNoun(
        service="lab", noun="thing", version=2, body=BodyV2, pasts=pasts_of(Literal["made", "clone_suspected"])
    )
    assert noun.types == ("dev.cascade.lab.thing.made.v2", "dev.cascade.lab.thing.clone_suspected.v2")
    assert noun.schema_name == "lab.thing.v2"
