"""Migration: adds the exchanges with nodes without a network, and the keys by which their requests prove a code."""

from piccolo.columns import BigInt, Integer, Text, Timestamptz, Varchar

from cloud.storage.schema import add_column, add_index, add_table

STEPS = (
    add_table(
        "airgap_exchange",
        id=Varchar(length=64, primary_key=True),
        tenant=Varchar(length=64),
        node=Varchar(length=64, index=True),
        generation=Integer(),
        kind=Varchar(length=16),
        state=Varchar(length=16),
        request_sha256=Varchar(length=64),
        activation=Varchar(length=64),
        made_at=Timestamptz(default=None),
        clock=Text(default="null"),
        answered_at=Timestamptz(default=None, index=True),
        valid_until=Timestamptz(default=None, index=True),
        answered_by=Varchar(length=64),
        seq=BigInt(),
        statement_type=Varchar(length=16),
        statement_sha256=Varchar(length=64),
        answer=Text(),
        answers_sha256=Text(default="[]"),
        received_at=Timestamptz(null=True, default=None),
        imported_at=Timestamptz(null=True, default=None),
    ),
    add_index("airgap_exchange", "tenant", "id"),
    add_index("activation", "proof_hash"),
    add_column("code", proof_key=Varchar(length=64, default="", index=True)),
)
