"""Bodies of Breakwater's API: strict requests, answers that may get new fields, and the numbers of CRL reasons."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from cryptography import x509

from cloud.contracts import breakwater
from cloud.contracts.breakwater import REASON_NUMBERS, CloseGenerations, GenerationsPage, RevocationReason
from protocol.ids import NodeId, TenantId, make_id

REQUESTS = ("OpenGeneration", "CloseGenerations", "CloseGeneration", "IssueNodeCertificate", "SupersedeKeys")


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_with_a_field_too_many_is_refused(name: str) -> None:
    kind = getattr(breakwater, name)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"extra": 1}', type=kind, strict=True)


def test_a_request_in_json() -> None:
    made = CloseGenerations(TenantId(make_id("ten", 1, b"0123456789")), NodeId(make_id("node", 1, b"0123456789")), 3)
    assert msgspec.json.decode(msgspec.json.encode(made), type=CloseGenerations, strict=True) == made
    assert made.reason == "superseded"


def test_an_answer_may_grow() -> None:
    answer = msgspec.to_builtins(GenerationsPage((), "", 5))
    assert msgspec.convert({**answer, "later": 1}, GenerationsPage) == GenerationsPage((), "", 5)


def test_reasons_are_those_of_the_rfc() -> None:
    assert tuple(REASON_NUMBERS) == get_args(RevocationReason)
    for reason, number in REASON_NUMBERS.items():
        entry = x509.RevokedCertificateBuilder().serial_number(1).revocation_date(datetime(2026, 11, 22, tzinfo=UTC))
        flag = x509.ReasonFlags(reason)
        found = entry.add_extension(x509.CRLReason(flag), critical=False).build()
        encoded = found.extensions.get_extension_for_class(x509.CRLReason).value.public_bytes()
        assert encoded == bytes((0x0A, 0x01, number))


OTHER_SPELLINGS = re.compile(
    r"(?<!ReasonFlags\.)\b(key[_-]compromise|ca[_-]compromise|caCompromise|CACompromise|KeyCompromise"
    r"|affiliation[_-]changed|AffiliationChanged|cessation[_-]of[_-]operation|CessationOfOperation"
    r"|privilege[_-]withdrawn|PrivilegeWithdrawn)\b"
)


def test_a_reason_has_one_spelling() -> None:
    root = Path(breakwater.__file__).parents[2]
    files = [path for name in ("cloud", "node", "protocol", "docs", "packaging") for path in (root / name).rglob("*")]
    texts = [path for path in files if path.suffix in (".py", ".md", ".json", ".toml", ".html")]
    assert len(texts) > 300
    found = [
        f"{path.relative_to(root)}: {match[0]}"
        for path in texts
        for match in OTHER_SPELLINGS.finditer(path.read_text())
    ]
    assert found == []
    assert all(OTHER_SPELLINGS.search(f"a {text} b") for text in ("key_compromise", "CACompromise", "ca-compromise"))
    assert not any(OTHER_SPELLINGS.search(name) for name in REASON_NUMBERS)
