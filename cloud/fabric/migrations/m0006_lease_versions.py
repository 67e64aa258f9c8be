"""Migration: adds the version of leases that a generation reads, its chip, and intervals of activation codes."""

from piccolo.columns import Integer, Text, Varchar

from cloud.storage.schema import add_column

STEPS = (
    add_column("activation", ek_name=Varchar(length=256, default="")),
    add_column("generation", ek_name=Varchar(length=256, default="")),
    add_column("generation", lease_version=Integer(default=1)),
    add_column("generation", lease_facts=Varchar(length=64, default="")),
    add_column("code", intervals=Text(default="null")),
    add_column("node", intervals=Text(default="null")),
)
