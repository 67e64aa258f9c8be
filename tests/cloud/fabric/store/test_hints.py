"""`cloud.fabric.store.hints`: the text of a hint names its nodes, within the length that the storage port allows."""

from cloud.fabric.store.hints import NODES, NODES_MAX, hint_of, nodes_of
from cloud.storage.engine import HINT_CHARS_MAX
from protocol.ids import NodeId, make_id


def test_a_hint_names_its_nodes() -> None:
    nodes = [NodeId(make_id("node", number, bytes(10))) for number in range(NODES_MAX)]
    topic, _, text = hint_of(nodes).partition(" ")
    assert (topic, nodes_of(text)) == (NODES, nodes)
    assert len(hint_of(nodes)) <= HINT_CHARS_MAX
    assert (hint_of([]), nodes_of("")) == (NODES, [])
