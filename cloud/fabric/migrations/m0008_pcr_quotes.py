"""Migration: adds the PCR quotes of generations, and the policies for PCR quotes of tenants."""

from piccolo.columns import Text, Timestamptz

from cloud.storage.schema import add_column

STEPS = (
    add_column("tenant", pcr_policies=Text(default="{}")),
    add_column("generation", pcr_accepted=Text(default="[]")),
    add_column("generation", pcr_values=Text(default="[]")),
    add_column("generation", pcr_fault=Text()),
    add_column("generation", pcr_changed_at=Timestamptz(null=True, default=None)),
)
