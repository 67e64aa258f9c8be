"""Port: named fault points, where a test can make the process crash between two durable steps.

Without a hook a fault point does nothing. No environment variable and no option installs a hook. A test installs a hook
with `install` in its own child process, before it calls a `main`. A name is a string literal of the form
`<side>.<noun>.<verb>` and is used once in the code base.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Stage = Literal["before", "after"]
Hook = Callable[[str, Stage], None]

_hooks: list[Hook] = []


def install(hook: Hook) -> None:
    """Have `hook(name, stage)` called at every fault point, until this process ends."""
    _hooks.append(hook)


@contextmanager
def fault_point(name: str) -> Iterator[None]:
    """Mark a durable write or a send. Hooks are called with stage `after` only if the step raised no error."""
    for hook in _hooks:
        hook(name, "before")
    yield
    for hook in _hooks:
        hook(name, "after")
