"""Ids, SPIFFE ids, generations and trust domains: round trips, and forms that are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import (
    IdError,
    NodeSpiffeId,
    ServiceSpiffeId,
    make_id,
    parse_generation,
    parse_id,
    parse_spiffe,
    parse_trust_domain,
)
from tests.protocol.vectors import examples


@given(unix_ms=st.integers(0, 2**47), entropy=st.binary(min_size=10, max_size=10))
def test_ids_round_trip_and_sort_by_time(unix_ms: int, entropy: bytes) -> None:
    text = make_id("node", unix_ms, entropy)
    assert parse_id("node", text) == text
    assert text < make_id("node", unix_ms + 1, entropy)


@pytest.mark.parametrize(
    "text", ["", "node_", "node_01", "ten_01jd7xq2vafw6b8tn4rz9k3mec", "node_01JD7XQ2VBH5S0D2YQ8WV6G7PE", "../x"]
)
def test_ids_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(IdError):
        parse_id("node", text)


def test_spiffe_ids_round_trip() -> None:
    node = NodeSpiffeId("cascade.example", examples.TENANT, examples.NODE)
    service = ServiceSpiffeId("cascade.example", "fabric")
    assert parse_spiffe(str(node)) == node
    assert parse_spiffe(str(service)) == service


@pytest.mark.parametrize(
    "uri",
    [
        "https://cascade.example/service/fabric",
        "spiffe://cascade.example/service/other",
        "spiffe://cascade.example/service/fabric/",
        "spiffe://cascade.example/service/fabric?x",
        "spiffe://cascade.example/service/fabric#x",
        "spiffe://CASCADE.example/service/fabric",
        "spiffe://user@cascade.example/service/fabric",
        "spiffe://cascade.example:1/service/fabric",
        "spiffe:///service/fabric",
        f"spiffe://cascade.example/tenant/{examples.NODE}/node/{examples.NODE}",
        f"spiffe://cascade.example/tenant/{examples.TENANT}/node/{examples.TENANT}",
        f"spiffe://cascade.example/tenant/{examples.TENANT}/node/{examples.NODE}/x",
        f"spiffe://cascade.example/tenant/{examples.TENANT}",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(IdError):
        parse_spiffe(uri)


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "+1", "1.0", " 1", "1 ", "a", "1" * 10, "\u0661"])
def test_generations_have_one_text_each(text: str) -> None:
    with pytest.raises(IdError):
        parse_generation(text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a..b", "a/b", "a" * 255])
def test_trust_domains(text: str) -> None:
    with pytest.raises(IdError):
        parse_trust_domain(text)
