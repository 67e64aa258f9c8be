"""`cloud.fabric.store.hints`: the text of a hint names its nodes, within the length that the storage port allows."""

from cloud.fabric.store.hints import NODES_MAX, hint_of, nodes_of
from cloud.storage.engine import HINT_CHARS_MAX
from protocol.ids import NodeId, make_id


def test_a_hint_names_its_nodes() -> None:
    nodes = [NodeId(make_id("node", number, bytes(10))) for number in range(NODES_MAX)]
    assert nodes_of(hint_of(nodes)) == nodes
    assert len(hint_of(nodes)) <= HINT_CHARS_MAX
    assert nodes_of(hint_of([])) == []
