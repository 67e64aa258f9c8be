"""Migration: what a cloud needs after a restore from a backup, and after the loss of its database.

The epoch in which each node has presented its last statement, nodes without new leases, reconstructed nodes, the AK of
a renewal, generations that are known to be closed of nodes without a row, and serial numbers of imported CRLs.
"""

from piccolo.columns import BigInt, Bytea, Text, Timestamptz, Varchar

from cloud.storage.schema import add_column, add_index, add_table

STEPS = (
    add_column("node", presented_epoch=BigInt(default=1)),
    add_column("node", hold=Varchar(length=16, default="")),
    add_column("node", hold_at=Timestamptz(null=True, default=None)),
    add_column("node", reconstructed_at=Timestamptz(null=True, default=None)),
    add_index("node", "hold", "id"),
    add_column("renewal", ak_public=Bytea(default=b"")),
    add_table(
        "closed_node",
        node=Varchar(length=64, primary_key=True),
        tenant=Varchar(length=64),
        closed_up_to=BigInt(),
        closed=Text(default="[]"),
        source=Varchar(length=16),
        at=Timestamptz(default=None),
    ),
    add_table(
        "revoked_serial",
        serial=Varchar(length=40, primary_key=True),
        at=Timestamptz(default=None),
    ),
)
