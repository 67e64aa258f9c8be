"""Migration: adds the former keys of generations, the automatic repairs of nodes, and the holder of a renewal."""

from piccolo.columns import Boolean, Text, Varchar

from cloud.storage.schema import add_column

STEPS = (
    add_column("generation", former_keys=Text(default="[]")),
    add_column("node", repairs=Text(default="[]")),
    add_column("renewal", held_key=Varchar(length=64, default="")),
    add_column("renewal", agent_version=Text(default="")),
    add_column("renewal", returned=Boolean(default=False)),
)
