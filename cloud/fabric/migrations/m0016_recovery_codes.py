"""Migration: adds the recovery codes, and the tenant's policy for recoveries."""

from piccolo.columns import Text, Timestamptz, Varchar

from cloud.storage.schema import add_column, add_table

STEPS = (
    add_column("tenant", recovery=Text(default="{}")),
    add_table(
        "recovery_code",
        id=Varchar(length=64, primary_key=True),
        tenant=Varchar(length=64, index=True),
        secret_hash=Varchar(length=64, unique=True),
        node=Varchar(length=64, index=True),
        recovery_case=Varchar(length=64),
        created_at=Timestamptz(default=None),
        created_by=Varchar(length=64),
        usable_from=Timestamptz(default=None),
        expires_at=Timestamptz(default=None),
        used_at=Timestamptz(null=True, default=None),
        used_case=Varchar(length=64),
        revoked_at=Timestamptz(null=True, default=None),
    ),
)
