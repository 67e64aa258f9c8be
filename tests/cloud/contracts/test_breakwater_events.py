"""`cloud.contracts.breakwater_events`: the bodies have a version in their names, no secret, and a place in the pages."""

import re
from pathlib import Path

import msgspec
import pytest

from cloud.contracts.breakwater_events import CLOSED_MAX, GENERATIONS, NOUNS, GenerationsV1
from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import DATA_BYTES_MAX
from protocol.ids import NodeId, TenantId
from tools.events_schemas import document, promises_of

PAGE = Path(__file__).parents[3] / "docs" / "events.md"
_SECRET = re.compile(r"secret|hash|salt|key$|token|csr|caller")


def fields(noun: EventNoun) -> set[str]:
    promised = promises_of(noun.schema_name, document(noun))
    return {each.place for each in promised if each.presence != "type"}


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.noun)
def test_a_body_has_no_secret_and_its_version_in_its_name(noun: EventNoun) -> None:
    assert noun.body.__name__.endswith(f"V{noun.version}")
    assert noun.service == "breakwater"
    assert len(set(noun.pasts)) == len(noun.pasts)
    assert [each for each in fields(noun) if _SECRET.search(each)] == []


def test_only_generations_have_a_tenant() -> None:
    assert [noun for noun in NOUNS if "tenant" in fields(noun)] == [GENERATIONS]


def test_the_largest_list_of_closed_generations_fits_into_an_event() -> None:
    largest = GenerationsV1(
        node=NodeId("node_" + "z" * 26),
        tenant=TenantId("ten_" + "z" * 26),
        closed_up_to=999_999_999,
        closed=(999_999_999,) * CLOSED_MAX,
    )
    assert len(msgspec.json.encode(largest)) <= DATA_BYTES_MAX


def test_the_page_lists_every_type() -> None:
    page = PAGE.read_text()
    for noun in NOUNS:
        row = re.search(rf"^- `{noun.noun}`:(?P<pasts>[^:]*?)(?=\n-|\n\n)", page, re.MULTILINE)
        assert row is not None
        assert tuple(re.findall(r"`(\w+)`", row["pasts"])) == noun.pasts
