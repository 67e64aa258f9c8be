"""`cloud.fabric.store.rows`: keys made of several values."""

from cloud.fabric.store.rows import generation_id
from tests.cloud.fabric.store.support import NODES


def test_the_key_of_a_generation_names_node_and_number() -> None:
    assert generation_id(NODES[0], 12) == f"{NODES[0]}.12"
