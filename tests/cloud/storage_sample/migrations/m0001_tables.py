"""Migration: the tables of the throw-away service."""

from piccolo.columns import BigInt, Boolean, Bytea, Text, Timestamptz, Varchar

from cloud.storage.schema import add_table

STEPS = (
    add_table(
        "widget",
        id=Varchar(length=64, primary_key=True),
        label=Text(),
        is_open=Boolean(default=True),
        amount_minor=BigInt(),
        blob=Bytea(),
        made_at=Timestamptz(),
    ),
    add_table(
        "part",
        id=Varchar(length=64, primary_key=True),
        widget=Varchar(length=64),
    ),
)
