"""`cloud.contracts.fabric_events`: the bodies have a version in their names, no secret, and a place in the pages."""

import re
from pathlib import Path

import pytest

from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.fabric_events import NODE, NOUNS
from tools.events_schemas import document, promises_of

PAGE = Path(__file__).parents[3] / "docs" / "events.md"
_SECRET = re.compile(r"secret|hash|salt|key|token|proof|csr|fingerprint|enrolled|holders|ek_|ak_|pcr_values|decided_by")


def fields(noun: EventNoun) -> set[str]:
    promised = promises_of(noun.schema_name, document(noun))
    return {each.place for each in promised if each.presence != "type"}


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.noun)
def test_a_body_has_no_secret_and_its_version_in_its_name(noun: EventNoun) -> None:
    assert noun.body.__name__.endswith(f"V{noun.version}")
    assert noun.service == "fabric"
    assert len(set(noun.pasts)) == len(noun.pasts)
    assert [each for each in fields(noun) if _SECRET.search(each)] == []
    assert "tenant" in fields(noun) or noun.noun == "tenant"


def test_the_node_has_its_standing() -> None:
    assert {"standing", "standing_reason", "standing_at"} <= fields(NODE)


def test_the_page_lists_every_type() -> None:
    page = PAGE.read_text()
    for noun in NOUNS:
        row = re.search(rf"^- `{noun.noun}`:(?P<pasts>[^:]*?)(?=\n-|\n\n)", page, re.MULTILINE)
        assert row is not None
        assert tuple(re.findall(r"`(\w+)`", row["pasts"])) == noun.pasts
