"""`cloud.fabric.store.events.bodies`: bodies fit their schemas, and have nothing of what is private in a row."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import msgspec
import pytest

from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import DATA_BYTES_MAX
from cloud.contracts.fabric_events import CODE as CODES
from cloud.contracts.fabric_events import NODE, STATEMENT
from cloud.contracts.fabric_events import TENANT as TENANTS
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.lease_schemas import LeaseTerms
from cloud.fabric.store.events.bodies import code_body, node_body, statement_body, tenant_body
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX, ENTITLEMENTS_MAX
from protocol.signed.lease import Entitlement
from tests.cloud.fabric.store.support import HOUR, NOW, code, generation, node, tenant
from tools.events_schemas import document

TERMS = Entitlement(name="cameras", limit=4, not_before=NOW, until=NOW + HOUR, attributes={"colour": "yes"})
FULL = (
    (TENANTS, tenant_body(tenant(lease_terms={"tpm": LeaseTerms(1, 2, 3, 4)}, recovery=RecoveryPolicy(grace_quota=2)))),
    (NODE, node_body(node(entitlements=("press", TERMS), clone_cause="chip", clone_at=NOW, hold_at=NOW))),
    (NODE, node_body(node(code=""))),
    (CODES, code_body(code(entitlements=("press", TERMS), revoked_at=NOW))),
    (STATEMENT, statement_body(generation(statement_type="lease", issued_at=NOW, refresh_after=NOW), node())),
)


@pytest.mark.parametrize(("noun", "body"), FULL)
def test_a_body_fits_its_schema(noun: EventNoun, body: msgspec.Struct) -> None:
    assert isinstance(body, noun.body)
    schema, encoded = document(noun), msgspec.json.encode(body)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(json.loads(encoded))
    assert msgspec.json.decode(encoded, type=noun.body) == body


@pytest.mark.parametrize(
    ("standing", "reason"), [("suspended", "late payment"), ("revoked", ""), ("released", ""), ("active", "")]
)
def test_only_the_reason_of_a_suspension_is_public(standing: Any, reason: str) -> None:
    assert node_body(node(standing=standing, standing_reason="late payment")).standing_reason == reason


def test_there_is_no_body_before_the_first_statement() -> None:
    assert statement_body(generation(statement_type="", issued_at=None), node()) is None


def test_the_largest_body_fits_into_an_event() -> None:
    """A lease has at most 17 kB of entitlements, and a body makes each of them an object."""
    names = tuple(f"{number:0{ENTITLEMENT_NAME_CHARS_MAX}}" for number in range(ENTITLEMENTS_MAX))
    assert len(msgspec.json.encode(node_body(node(entitlements=names)))) < DATA_BYTES_MAX
    assert len(msgspec.json.encode(code_body(code(entitlements=names)))) < DATA_BYTES_MAX
