"""Migration: adds recovery cases, the claims of activations that recover a node, and the ends of grace and overlap."""

from piccolo.columns import Boolean, Integer, Text, Timestamptz, Varchar

from cloud.storage.schema import add_column, add_index, add_table

STEPS = (
    add_table(
        "recovery_case",
        id=Varchar(length=64, primary_key=True),
        tenant=Varchar(length=64),
        node=Varchar(length=64, index=True),
        situation=Varchar(length=32),
        state=Varchar(length=16, index=True),
        needs=Varchar(length=32),
        evidence=Text(),
        activation=Varchar(length=64, index=True),
        ek_hash=Varchar(length=64),
        old_ek_hash=Varchar(length=64, index=True),
        old_generation=Integer(),
        generation=Integer(),
        overlap_until=Timestamptz(null=True, default=None),
        opened_at=Timestamptz(default=None),
        decide_by=Timestamptz(default=None),
        next_allowed_at=Timestamptz(null=True, default=None),
        decided_at=Timestamptz(null=True, default=None),
        decided_by=Varchar(length=64),
        reason=Text(),
        code=Varchar(length=64),
        grace=Boolean(default=False),
        grace_until=Timestamptz(null=True, default=None),
        returned_at=Timestamptz(null=True, default=None),
    ),
    add_index("recovery_case", "tenant", "id"),
    add_index("recovery_case", "tenant", "grace", "opened_at"),
    add_column("activation", recovery=Varchar(length=64, default="")),
    add_column("activation", claim=Text(default="null")),
    add_column("generation", recovery=Varchar(length=64, default="")),
    add_column("generation", grace_until=Timestamptz(null=True, default=None)),
    add_column("node", overlap_until=Timestamptz(null=True, default=None)),
    add_index("node", "tenant", "overlap_until"),
)
