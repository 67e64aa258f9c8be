"""Migration: adds PCR quotes of generations, policies for them, and an index for long lists of allowed EKs."""

from piccolo.columns import Text, Timestamptz

from cloud.storage.schema import add_column, add_index

STEPS = (
    add_column("tenant", pcr_policies=Text(default="{}")),
    add_column("generation", pcr_accepted=Text(default="[]")),
    add_column("generation", pcr_values=Text(default="[]")),
    add_column("generation", pcr_fault=Text()),
    add_column("generation", pcr_changed_at=Timestamptz(null=True, default=None)),
    add_index("ek_allowed", "tenant", "id"),
)
