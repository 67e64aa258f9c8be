"""Adapter: the update client of the library `tuf`, imported without the HTTP client that the agent never uses.

`tuf.ngclient` imports its default fetcher, and with it urllib3, which stays in memory for good: 2.7 MiB. The agent has a
fetcher of its own (`node.trust.update`). A fetcher that refuses takes the place of the default one during the import.
If a later release has its default fetcher elsewhere, the import works as usual and costs the memory.
"""

import sys
from types import ModuleType
from typing import Any

_DEFAULT_FETCHER = "tuf.ngclient.urllib3_fetcher"


class _NoFetcher:
    """In the place of the default fetcher."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("the update has a fetcher of its own")


_stub = ModuleType(_DEFAULT_FETCHER)
_stub.Urllib3Fetcher = _NoFetcher  # type: ignore[attr-defined]  # the name that the library imports
_is_stubbed = sys.modules.setdefault(_DEFAULT_FETCHER, _stub) is _stub
try:
    from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
finally:
    if _is_stubbed:
        del sys.modules[_DEFAULT_FETCHER]

__all__ = ["FetcherInterface", "Updater", "UpdaterConfig"]
