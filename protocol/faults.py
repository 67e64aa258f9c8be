"""Named fault points: where a crash between two durable steps can be provoked by a test.

Production code passes through them at no cost and nothing outside this process can arm them: no environment
variable, no option. A test installs a hook in its own child process (`install`) before it calls a `main`.
Rule: a name is a string literal, used once in the code base, `<side>.<noun>.<verb>`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Stage = Literal["before", "after"]
Hook = Callable[[str, Stage], None]

_hooks: list[Hook] = []


def install(hook: Hook) -> None:
    """Have `hook(name, stage)` called at every fault point of this process, for its whole life."""
    _hooks.append(hook)


@contextmanager
def fault_point(name: str) -> Iterator[None]:
    """Mark a durable write or a send. `after` is reached only when the step did not raise."""
    for hook in _hooks:
        hook(name, "before")
    yield
    for hook in _hooks:
        hook(name, "after")
