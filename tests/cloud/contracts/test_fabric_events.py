"""`cloud.contracts.fabric_events`: the bodies have a version in their names, no secret, and a place in the pages."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import DATA_BYTES_MAX
from cloud.contracts.fabric_events import (
    NODE,
    NOUNS,
    CodeV1,
    GrantedEntitlement,
    LeaseDates,
    RecoveryRules,
    TenantV1,
)
from cloud.fabric.service.operators.pcr_policies import POLICIES_MAX
from protocol.ids import CodeId, NodeId, TenantId
from protocol.limits import (
    ENTITLEMENTS_BYTES_MAX,
    ENTITLEMENTS_MAX,
    ID_CHARS_MAX,
    NAME_CHARS_MAX,
    REASON_CHARS_MAX,
    SEATS_MAX,
)
from protocol.signed.lease import Tier
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


WIDE = "\N{SMILING FACE WITH SUNGLASSES}"
"""A letter of four bytes."""
AT = datetime(2026, 11, 22, 12, 0, 0, 999999, tzinfo=UTC)
RULES = RecoveryRules(
    grace_quota=9, period_days=9, grace_hours=9, silence_minutes=9, repair_quota=9, code_delay_hours=9, case_days=9
)


def test_the_largest_states_fit_into_an_event() -> None:
    """A change whose event does not fit would fail."""
    dates = LeaseDates(refresh_after_seconds=1, expires_seconds=2, grace_seconds=3, terminate_seconds=4)
    tenant = TenantV1(
        id=TenantId("t" * ID_CHARS_MAX),
        name=WIDE * NAME_CHARS_MAX,
        created_at=AT,
        tiers=get_args(Tier),
        approval_tiers=get_args(Tier),
        lease_terms=dict.fromkeys(get_args(Tier), dates),
        pcr_policies={f"{number:03}" + WIDE * (NAME_CHARS_MAX - 3): "required" for number in range(POLICIES_MAX)},
        clone_policy="newest-in-grace",
        recovery=RULES,
    )
    assert 30_000 < len(msgspec.json.encode(tenant)) < DATA_BYTES_MAX
    # Names alone have the most overhead: an entitlement without terms is stored as its name.
    each = ENTITLEMENTS_BYTES_MAX // ENTITLEMENTS_MAX - 3
    code = CodeV1(
        id=CodeId("c" * ID_CHARS_MAX),
        tenant=TenantId("t" * ID_CHARS_MAX),
        created_at=AT,
        expires_at=AT,
        expired=True,
        revoked_at=AT,
        seats=SEATS_MAX,
        seats_taken=SEATS_MAX,
        profile=WIDE * NAME_CHARS_MAX,
        entitlements=tuple(GrantedEntitlement(name="e" * each) for _ in range(ENTITLEMENTS_MAX)),
        readmit_node=NodeId("n" * ID_CHARS_MAX),
        approval=False,
        tier_min="software",
    )
    entitlements = len(msgspec.json.encode(code.entitlements))
    assert entitlements > ENTITLEMENTS_BYTES_MAX
    assert len(msgspec.json.encode(code)) < DATA_BYTES_MAX
    # A node has the entitlements of its code, and a few short texts.
    assert entitlements + 8 * NAME_CHARS_MAX * 4 + REASON_CHARS_MAX * 4 < DATA_BYTES_MAX
