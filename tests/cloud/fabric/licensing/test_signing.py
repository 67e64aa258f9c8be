"""`cloud.fabric.licensing.signing`: each purpose has one key, and only documents of these keys are accepted."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.keyfile import KeyFileError
from cloud.fabric.licensing import signing, statements
from protocol.ids import NodeId, TenantId, make_id
from protocol.signed.envelope import KeyRing
from protocol.signed.statements import Lease, Revocation, Suspension, verify_statement

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


def test_a_document_verifies_under_the_key_of_its_purpose_only() -> None:
    keys = [signing.SigningKey(ec.generate_private_key(ec.SECP256R1())) for _ in range(3)]
    signer = signing.Signer("cascade.test", lease=keys[0], revocation=keys[1], freshness=keys[2])
    ring = KeyRing(signer.published(NOW - DAY, NOW + DAY))
    for statement, key in (
        (statements.lease(SUBJECT, 1, NOW), keys[0]),
        (statements.suspension(SUBJECT, 2, NOW, "unpaid"), keys[1]),
        (statements.revocation(SUBJECT, 3, NOW, "revoked"), keys[1]),
    ):
        token = signer.statement(statement)
        verified = verify_statement(token, ring, "cascade.test")
        assert (verified.statement, verified.kid) == (statement, key.kid)
        assert signer.presented(token) == statement
        assert signer.presented(token[:-3] + ("B" if token[-3] == "A" else "A") + token[-2:]) is None
        assert isinstance(statement, Lease | Suspension | Revocation)
    assert signer.presented("") is None
    other = signing.Signer("other.test", lease=keys[0], revocation=keys[1], freshness=keys[2])
    assert other.presented(signer.statement(statements.lease(SUBJECT, 1, NOW))) is None


def test_signing_keys_are_never_replaced(tmp_path: Path) -> None:
    made = signing.make_signer(tmp_path, b"a passphrase for tests", "cascade.test").published(NOW, NOW + DAY)
    first = signing.read_signer(tmp_path, b"a passphrase for tests", "cascade.test").published(NOW, NOW + DAY)
    assert made == first
    assert len({key.kid for key in first}) == 3
    with pytest.raises(KeyFileError):
        signing.make_signer(tmp_path, b"a passphrase for tests", "cascade.test")
    with pytest.raises(KeyFileError):
        signing.read_signer(tmp_path, b"another passphrase", "cascade.test")
