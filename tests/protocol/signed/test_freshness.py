"""Freshness: it verifies for its own nonce, node and statement, and for no other."""

import pytest

from protocol.encoding import sha256_hex
from protocol.signed import freshness as fresh
from tests.protocol.vectors import examples
from tests.protocol.vectors.__main__ import vectors

VECTORS = vectors()


FRESH_MUTATIONS: dict[str, dict[str, object]] = {
    "another nonce": {"nonce": "bm90IHRoaXM"},
    "another node": {"node": "node_01jd7xq2vbh5s0d2yq8wv6g7pf"},
    "another generation": {"generation": 3},
    "another trust domain": {"trust_domain": "other.example"},
    "another statement": {"statement": "x"},
}


def test_freshness_verifies_for_its_own_question_only() -> None:
    statement = VECTORS["lease"]["token"]
    word = fresh.Freshness(
        trust_domain=examples.TRUST_DOMAIN,
        node=examples.NODE,
        generation=2,
        nonce="bm9uY2U",
        statement_sha256=sha256_hex(statement.encode()),
        at=examples.ISSUED,
    )
    token = examples.seal(fresh.TYP_FRESHNESS, "freshness", fresh.payload_of(word))
    asked = {
        "trust_domain": examples.TRUST_DOMAIN,
        "node": str(examples.NODE),
        "generation": 2,
        "nonce": "bm9uY2U",
        "statement": statement,
    }
    assert fresh.verify_freshness(token, examples.ring(), **asked) == word  # type: ignore[arg-type]  # a table of arguments
    for changes in FRESH_MUTATIONS.values():
        with pytest.raises(fresh.FreshnessError):
            fresh.verify_freshness(token, examples.ring(), **{**asked, **changes})  # type: ignore[arg-type]  # as above
