"""`cloud.fabric.licensing.later_keys`: a certificate that is later than the lease proves the later key."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from cloud.fabric.licensing import statements
from cloud.fabric.licensing.former_keys import FormerKey
from cloud.fabric.licensing.later_keys import follows_lease, former_of, in_force_since, other_key
from protocol.encoding import sha256_hex
from protocol.signed.statements import Statement
from tests.cloud.fabric.licensing.test_presented import SUBJECT

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OLD, NEW = sha256_hex(b"old"), sha256_hex(b"new")
NAMES_OLD = statements.lease(msgspec.structs.replace(SUBJECT, node_key=OLD), 1, NOW)
SUSPENSION = statements.suspension(SUBJECT, 1, NOW, "unpaid")
FIRST = statements.lease(msgspec.structs.replace(SUBJECT, version=1), 1, NOW)


@pytest.mark.parametrize(
    ("statement", "key", "issued_at", "follows"),
    [
        (NAMES_OLD, OLD, NOW - SECOND, True),
        (NAMES_OLD, NEW, NOW + SECOND, True),
        (NAMES_OLD, NEW, NOW, True),
        (NAMES_OLD, NEW, NOW - SECOND, False),
        (FIRST, NEW, NOW - SECOND, True),
        (SUSPENSION, NEW, NOW - SECOND, True),
    ],
)
def test_a_certificate_for_another_key_is_later_than_the_lease(
    statement: Statement, key: str, issued_at: datetime, follows: bool
) -> None:
    assert follows_lease(statement, key, issued_at) is follows
    assert other_key(statement, key) == (OLD if statement is NAMES_OLD and key == NEW else "")


def test_a_statement_or_a_rekey_shows_when_a_key_was_in_force() -> None:
    left = FormerKey(OLD, NOW + SECOND)
    assert in_force_since(OLD, NAMES_OLD, ()) == NOW
    assert in_force_since(NEW, NAMES_OLD, ()) is None
    assert in_force_since(NEW, NAMES_OLD, (left,)) == NOW + SECOND
    assert in_force_since(OLD, FIRST, (left,)) is None
    assert in_force_since(OLD, SUSPENSION, (left,)) is None


def test_the_key_that_a_lease_names_is_a_former_key() -> None:
    assert former_of((), NAMES_OLD, NEW, b"new", NOW) == (FormerKey(OLD, NOW),)
    assert former_of((), NAMES_OLD, OLD, b"old", NOW) == ()
