"""Runs groups of cases in parallel threads, called lanes. A lane takes groups until none is left."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

L = TypeVar("L")
G = TypeVar("G")


def run_lanes(
    lanes: Sequence[L],
    groups: Sequence[G],
    work: Callable[[L, G], None],
    cost: Callable[[L, G], int] = lambda lane, group: 0,
) -> None:
    """Run `work(lane, group)` once for every group, in one thread for each lane.

    A free lane takes the group with the least `cost` for it, the first of several. `work` stores its results and errors
    itself.
    """
    waiting = list(groups)
    turn = threading.Lock()

    def run(lane: L) -> None:
        while True:
            with turn:
                if not waiting:
                    return
                group = min(waiting, key=lambda group: cost(lane, group))
                waiting.remove(group)
            work(lane, group)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # After an interrupt no lane takes another group.
        with turn:
            waiting.clear()
        for thread in threads:
            thread.join()
