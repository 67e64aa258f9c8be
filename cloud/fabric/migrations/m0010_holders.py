"""Migration: holders of a generation's key, suspicion of a clone, and the tenant's policy for it."""

from piccolo.columns import Integer, Text, Timestamptz, Varchar

from cloud.storage.schema import add_column, add_index

STEPS = (
    add_column("tenant", clone_policy=Varchar(length=32, default="newest-in-grace")),
    add_column("node", clone_cause=Varchar(length=32, default="")),
    add_column("node", clone_at=Timestamptz(null=True, default=None)),
    add_index("node", "clone_cause", "id"),
    add_column("generation", holders=Text(default="")),
    add_column("generation", holders_version=Integer(default=0)),
    add_column("generation", sessions_from=Timestamptz(null=True, default=None)),
)
