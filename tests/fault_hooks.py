"""Context manager that installs a hook at the fault points of this process for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from protocol import faults


@contextmanager
def hooked(hook: faults.Hook) -> Iterator[None]:
    """Call `hook(name, stage)` at every fault point that the block passes."""
    faults.install(hook)
    try:
        yield
    finally:
        faults._hooks.remove(hook)
