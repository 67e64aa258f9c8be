"""Pure functions: the order in which a run's tests are dealt to its worker processes.

pytest-xdist's `worksteal` gives each worker one contiguous part of the collected tests, of equal count. A worker that
has finished takes half of the remaining tests from the end of another worker's part. So `dealt` puts the long tests
first in every part. Only quick tests move between workers, and all workers end at about the same time.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Length(NamedTuple):
    """How long a test takes. Tests of one `group` share costly fixtures, so one worker runs them all."""

    seconds: float
    group: str = ""


def dealt(tests: Sequence[T], length_of: Callable[[T], Length | None], workers: int) -> list[T]:
    """The tests in a new order: one part for each worker, and the long tests first in each part.

    `length_of` returns None for a quick test. Long tests are dealt by group, the longest group first. Each group goes
    to the worker with the least total time so far. The order within a group, and of the quick tests, does not change.
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
