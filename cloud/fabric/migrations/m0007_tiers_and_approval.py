"""Migration: adds tiers and dates of tenants and codes, waiting activations with their evidence, enrolled fingerprints."""

from piccolo.columns import Boolean, Text, Timestamptz, Varchar

from cloud.storage.schema import add_column, add_index, add_table

STEPS = (
    add_column("tenant", approval_tiers=Text(default="[]")),
    add_column("tenant", lease_terms=Text(default="{}")),
    add_column("code", approval=Boolean(default=False)),
    add_column("code", tier_min=Varchar(length=16, default="software")),
    add_column("activation", ek_issuer=Text()),
    add_column("activation", address=Text()),
    add_column("activation", fingerprint=Text(default="{}")),
    add_column("activation", matched=Varchar(length=16)),
    add_column("activation", candidate=Varchar(length=64)),
    add_column("activation", seat_reserved=Boolean(default=False)),
    add_column("activation", asked_at=Timestamptz(null=True, default=None)),
    add_column("activation", approve_by=Timestamptz(null=True, default=None)),
    add_column("activation", decided_at=Timestamptz(null=True, default=None)),
    add_column("activation", decided_by=Varchar(length=64)),
    add_column("activation", decision_reason=Text()),
    add_column("node", enrolled=Text(default="{}")),
    add_index("activation", "tenant", "state", "id"),
    add_index("activation", "code", "ek_hash"),
    add_table(
        "enrolled_component",
        id=Varchar(length=192, primary_key=True),
        tenant=Varchar(length=64),
        value=Varchar(length=64, index=True),
        node=Varchar(length=64, index=True),
    ),
)
