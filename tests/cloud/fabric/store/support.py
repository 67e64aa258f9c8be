"""Helper: valid rows of Fabric's tables. A test chooses a few fields."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from cloud.fabric.bodies.recovery import RecoveryEvidence
from cloud.fabric.store.rows import (
    ActivationRow,
    CodeRow,
    GenerationRow,
    NodeRow,
    RecoveryCaseRow,
    RenewalRow,
    TenantRow,
    generation_id,
)
from protocol.ids import ActivationId, CodeId, NodeId, RecoveryId, RenewalId, TenantId, make_id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TENANT = TenantId(make_id("ten", 1, bytes(10)))
CODE = CodeId(make_id("code", 1, bytes(10)))
NODES = [NodeId(make_id("node", number, bytes(10))) for number in range(1, 5)]


def tenant(**changes: Any) -> TenantRow:
    row = TenantRow(id=TENANT, name="Presses Ltd", fingerprint_salt=b"salt", tiers=("attested",), created_at=NOW)
    return msgspec.structs.replace(row, **changes)


def code(**changes: Any) -> CodeRow:
    row = CodeRow(
        id=CODE,
        tenant=TENANT,
        secret_hash="5ec",
        profile="standard",
        entitlements=("press",),
        lease=None,
        seats=2,
        seats_taken=0,
        readmit_node=None,
        created_at=NOW,
        expires_at=NOW + HOUR,
        revoked_at=None,
    )
    return msgspec.structs.replace(row, **changes)


def activation(number: int = 1, **changes: Any) -> ActivationRow:
    row = ActivationRow(
        id=ActivationId(make_id("act", number, bytes(10))),
        tenant=TENANT,
        code=CODE,
        state="challenged",
        tries=0,
        secret_hash="5ec",
        ek_hash="ek",
        ak_public=b"ak",
        tier="attested",
        agent_version="1.0",
        created_at=NOW,
        expires_at=NOW + HOUR,
        node=NodeId(""),
        generation=0,
        proof_hash="",
        csr=b"",
        not_after=None,
        confirm_by=None,
        certificate_chain=(),
    )
    return msgspec.structs.replace(row, **changes)


def node(number: int = 1, **changes: Any) -> NodeRow:
    """The node `NODES[number - 1]`, in its first generation."""
    row = NodeRow(
        id=NODES[number - 1],
        tenant=TENANT,
        ek_hash=f"ek {number}",
        standing="active",
        standing_reason="",
        standing_at=NOW,
        current_generation=1,
        last_generation=1,
        closed_up_to=0,
        closed_at_issuer=0,
        closing=False,
        epoch=1,
        seq=1,
        code=CODE,
        seat_held=True,
        tier="attested",
        profile="standard",
        entitlements=("press",),
        lease=None,
        lease_until=None,
        wake_cursor=0,
        created_at=NOW,
        confirmed_at=NOW,
    )
    return msgspec.structs.replace(row, **changes)


def generation(of: int = 1, **changes: Any) -> GenerationRow:
    """The first generation of `NODES[of - 1]`."""
    row = GenerationRow(
        id=generation_id(NODES[of - 1], 1),
        node=NODES[of - 1],
        number=1,
        state="confirmed",
        node_public_key=b"key",
        ak_public=b"ak",
        fingerprint={"board_serial": "ab"},
        agent_version="1.0",
        created_at=NOW,
        confirmed_at=NOW,
        certificate_not_after=None,
        statement="",
        statement_type="",
        seq=1,
        issued_at=None,
        refresh_after=None,
        terminate_at=None,
        told_at=None,
    )
    return msgspec.structs.replace(row, **changes)


def renewal(number: int = 1, **changes: Any) -> RenewalRow:
    row = RenewalRow(
        id=RenewalId(make_id("ren", number, bytes(10))),
        node=NODES[0],
        tenant=TENANT,
        generation=1,
        state="challenged",
        tries=0,
        secret_hash="5ec",
        expired=True,
        created_at=NOW,
        expires_at=NOW + HOUR,
        proof_hash="",
        csr=b"",
        node_public_key=b"",
        not_after=None,
        certificate_chain=(),
    )
    return msgspec.structs.replace(row, **changes)


def recovery_case(**changes: Any) -> RecoveryCaseRow:
    """A case of the first node that waits for an operator or a code."""
    evidence = RecoveryEvidence(
        same_chip=False,
        fingerprint="match",
        matched={"disk_serial": 30},
        changed={"mac": 10},
        statement=True,
        last_seen_at=NOW - HOUR,
        last_ran_at=None,
        tier="attested",
        address="192.0.2.1",
        agent_version="1.0",
    )
    row = RecoveryCaseRow(
        id=RecoveryId(make_id("rcv", 1, bytes(10))),
        tenant=TENANT,
        node=NODES[0],
        situation="hardware-replaced",
        state="needs_operator",
        needs="operator-or-code",
        evidence=evidence,
        activation=ActivationId(make_id("act", 1, bytes(10))),
        ek_hash="new",
        old_ek_hash="ek 1",
        old_generation=1,
        generation=0,
        overlap_until=NOW + HOUR,
        opened_at=NOW,
        decide_by=NOW + timedelta(days=14),
    )
    return msgspec.structs.replace(row, **changes)
