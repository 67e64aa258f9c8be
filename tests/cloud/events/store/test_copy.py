"""`cloud.events.store.copy`: one process holds the row of the copy, and only that process changes it."""

from datetime import timedelta

import msgspec

from cloud.events.store.copy import CopyRow, CopyStore
from tests.cloud.events.support import START, Producer

LATER = START + timedelta(seconds=30)


async def test_one_process_holds_the_row(producer: Producer) -> None:
    store = CopyStore(producer.engine)
    assert await store.hold("first", START, LATER) is None
    await store.begin(START)
    row = await store.hold("first", START, LATER)
    assert row == CopyRow("", 0, 0, 0, 0)
    assert await store.hold("second", START, LATER) is None
    assert await store.hold("first", START, LATER) == row
    assert await store.advance("second", row, LATER) is None
    assert await store.hold("second", LATER, LATER + timedelta(seconds=30)) == row
    assert await store.advance("first", row, LATER) is None
    await store.release("first", START)
    assert await store.hold("first", LATER, LATER) is None
    await store.release("second", LATER)
    assert await store.hold("first", LATER, LATER) == row


async def test_progress_and_orders_to_replay_do_not_undo_each_other(producer: Producer) -> None:
    store = CopyStore(producer.engine)
    assert await store.replay(1, 2) is None
    await store.begin(START)
    row = await store.hold("first", START, LATER)
    assert row is not None
    assert await store.replay(3, 5) == CopyRow("", 0, 1, 3, 5)
    assert await store.replay(4, 6) is None
    held = await store.hold("first", START, LATER)
    assert held is not None
    moved = msgspec.structs.replace(held, stream="s", position=9, replay_next=4)
    assert await store.advance("first", moved, LATER) == CopyRow("s", 9, 1, 4, 5)
    done = msgspec.structs.replace(moved, replay_next=0)
    assert await store.advance("first", done, LATER) == CopyRow("s", 9, 1, 0, 5)
    assert await store.replay(4, 6) == CopyRow("s", 9, 2, 4, 6)
    assert await store.find() == CopyRow("s", 9, 2, 4, 6)
