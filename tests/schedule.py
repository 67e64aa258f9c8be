"""Pure functions: the order in which a run's tests are dealt to its worker processes.

pytest-xdist's `worksteal` gives each worker one contiguous part of the collected tests, of equal count. A worker without
work takes half of what is left at the end of another worker's part. So the long tests stand first in every part, and
the quick tests behind them are what moves at the end: all workers end together.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Length(NamedTuple):
    """How long a test takes. Tests of one `group` share what is costly to prepare, so one worker runs them all."""

    seconds: float
    group: str = ""


def dealt(tests: Sequence[T], length_of: Callable[[T], Length | None], workers: int) -> list[T]:
    """The tests in the order that they are collected in: a part for each worker, the long tests of each part first.

    `length_of` returns None for a quick test. Long tests are dealt by group, the longest group first, each to the worker
    with the least to do so far. Within a group, and among quick tests, the order stays.
    """
    groups: dict[str, list[T]] = {}
    seconds: dict[str, float] = {}
    quick: list[T] = []
    for number, test in enumerate(tests):
        length = length_of(test)
        if length is None:
            quick.append(test)
            continue
        key = length.group or str(number)
        groups.setdefault(key, []).append(test)
        seconds[key] = seconds.get(key, 0.0) + length.seconds
    parts: list[list[T]] = [[] for _ in range(workers)]
    loads = [0.0] * workers
    for key in sorted(groups, key=lambda key: -seconds[key]):
        least = loads.index(min(loads))
        parts[least] += groups[key]
        loads[least] += seconds[key]
    sizes = [(len(tests) + number) // workers for number in range(workers)]
    rest = iter(quick)
    for part, size in zip(parts, sizes, strict=True):
        part.extend(itertools.islice(rest, max(size - len(part), 0)))
    return [*itertools.chain.from_iterable(parts), *rest]
