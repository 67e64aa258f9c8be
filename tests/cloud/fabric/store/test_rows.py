"""`cloud.fabric.store.rows`: keys made from several values, and rows that set the columns of their table."""

import msgspec
import pytest
from piccolo.table import Table

from cloud.fabric import tables
from cloud.fabric.store import rows
from cloud.fabric.store.rows import generation_id
from tests.cloud.fabric.store.support import NODES, generation, node


def test_the_key_of_a_generation_names_node_and_number() -> None:
    assert generation_id(NODES[0], 12) == f"{NODES[0]}.12"


TABLES: dict[type[msgspec.Struct], type[Table]] = {
    rows.TenantRow: tables.Tenant,
    rows.EkRootRow: tables.EkRoot,
    rows.EkAllowedRow: tables.EkAllowed,
    rows.CodeRow: tables.Code,
    rows.ActivationRow: tables.Activation,
    rows.NodeRow: tables.Node,
    rows.GenerationRow: tables.Generation,
    rows.RenewalRow: tables.Renewal,
    rows.RecoveryCaseRow: tables.RecoveryCase,
    rows.RecoveryCodeRow: tables.RecoveryCode,
    rows.TokenRow: tables.OperatorToken,
    rows.AuditRow: tables.Audit,
}


APART: dict[type[msgspec.Struct], set[str]] = {rows.GenerationRow: {"machines"}}
"""Columns that are read and written alone, so that no session pays for them."""


@pytest.mark.parametrize("row", TABLES, ids=lambda row: row.__name__)
def test_a_row_has_the_columns_of_its_table(row: type[msgspec.Struct]) -> None:
    columns = {column._meta.name for column in TABLES[row].all_columns()}
    assert set(row.__struct_fields__) == columns - APART.get(row, set())


def test_every_row_has_its_table() -> None:
    assert set(TABLES) == {kind for name, kind in vars(rows).items() if name.endswith("Row")}


def test_an_offered_generation_says_itself_whether_the_machine_has_a_tpm() -> None:
    """A machine has gained or lost its TPM. The node has the tier of the generation in force until the confirm."""
    offered = generation(state="offered", ak_public=b"key", node_public_key=b"key")
    with_tpm = generation(state="offered", ak_public=b"ak", node_public_key=b"key")
    for tier in ("attested", "software"):
        assert rows.without_tpm(node(tier=tier), offered)
        assert not rows.without_tpm(node(tier=tier), with_tpm)
    assert rows.without_tpm(node(tier="software"), generation(state="confirmed"))
    assert not rows.without_tpm(node(tier="attested"), generation(state="confirmed"))
