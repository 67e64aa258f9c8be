"""Migration: the CRLs of roots, which ceremonies sign."""

from piccolo.columns import BigInt, Bytea, Integer, Timestamptz, Varchar

from cloud.storage.schema import add_table

STEPS = (
    add_table(
        "root_crl",
        id=Varchar(length=80, primary_key=True),
        authority=Varchar(length=32, index=True),
        number=BigInt(),
        this_update=Timestamptz(default=None),
        next_update=Timestamptz(default=None),
        entries=Integer(),
        data=Bytea(),
    ),
)
