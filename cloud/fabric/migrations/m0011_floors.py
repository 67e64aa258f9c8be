"""Migration: adds the counter in a node's TPM that versions its floor record."""

from piccolo.columns import BigInt

from cloud.storage.schema import add_column

STEPS = (add_column("node", floor_index=BigInt(default=0)), add_column("node", floor_value=BigInt(default=0)))
