"""Adapter: updates trust with the TUF library, over HTTP without redirects, proxies or unbounded answers.

The adapter keeps no state between updates. The node has its own adapter, with a deadline for a hostile network
(`node/trust/update.py`). Cloud and node share only the package `protocol`, which does no I/O.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import httpcore
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    RepositoryError,
    SlowRetrievalError,
)
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from cloud.cli.errors import TrustError, TrustUnreachable
from protocol.encoding import sha256_hex
from protocol.limits import (
    TRUST_ROOT_BYTES_MAX,
    TRUST_ROOT_ROTATIONS_MAX,
    TRUST_SNAPSHOT_BYTES_MAX,
    TRUST_STEP_SECONDS_MAX,
    TRUST_TARGETS_BYTES_MAX,
    TRUST_TIMESTAMP_BYTES_MAX,
    TRUST_UPDATE_SECONDS_MAX,
)
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGETS

_TIMEOUTS = dict.fromkeys(("connect", "read", "write", "pool"), TRUST_STEP_SECONDS_MAX)
_CONFIG = UpdaterConfig(
    max_root_rotations=TRUST_ROOT_ROTATIONS_MAX,
    max_delegations=0,
    root_max_length=TRUST_ROOT_BYTES_MAX,
    timestamp_max_length=TRUST_TIMESTAMP_BYTES_MAX,
    snapshot_max_length=TRUST_SNAPSHOT_BYTES_MAX,
    targets_max_length=TRUST_TARGETS_BYTES_MAX,
)


def update(base: str, pin: TrustPin, known: Mapping[str, bytes], now: datetime) -> dict[str, bytes]:
    """Fetch and verify the files that are published at the URL `base`. Blocking.

    `known` has the files of an earlier update; the update starts from them and refuses older ones. `known` and the
    result map the TUF library's path of each file to its content. `now` decides which metadata have expired. The
    library works in a temporary directory that is removed after the update. Raises TrustError, TrustUnreachable.
    """
    if not base.startswith("http://"):
        raise TrustError(
            f"cannot use the repository {base}: its URL does not begin with http:// "
            "(the repository is served over http; its files are signed)"
        )
    with TemporaryDirectory() as name:
        scratch = Path(name)
        for folder in ("metadata/root_history", "targets"):
            (scratch / folder).mkdir(parents=True)
        for file, content in known.items():
            (scratch / file).write_bytes(content)
        try:
            with httpcore.ConnectionPool(max_connections=1) as pool:
                _verify(_Fetcher(pool), base, pin, scratch, now)
        except DownloadLengthMismatchError as error:
            raise TrustError(f"cannot verify the repository at {base}: a file exceeds its maximum length") from error
        except DownloadError as error:
            raise TrustUnreachable(f"cannot fetch the published trust from {base}: {error}") from error
        except (RepositoryError, ValueError, KeyError, TypeError) as error:
            # The library raises the last three for metadata that are signed JSON but have an unexpected form.
            raise TrustError(f"cannot verify the repository at {base}: {error}") from error
        return {
            str(path.relative_to(scratch)): path.read_bytes()
            for path in sorted(scratch.rglob("*.json"))
            if not path.is_symlink()
        }


def _verify(fetcher: FetcherInterface, base: str, pin: TrustPin, scratch: Path, now: datetime) -> None:
    root_path = scratch / f"metadata/root_history/{pin.version}.root.json"
    root = root_path.read_bytes() if root_path.exists() else b""
    if sha256_hex(root) != pin.sha256:
        try:
            root = fetcher.download_bytes(f"{base}/tuf/metadata/{pin.version}.root.json", TRUST_ROOT_BYTES_MAX)
        except DownloadHTTPError as error:
            if error.status_code != 404:
                raise
            raise RepositoryError(f"the repository lacks the pinned root, version {pin.version}") from error
    if sha256_hex(root) != pin.sha256:
        raise TrustError(f"cannot trust the repository at {base}: its root {pin.version} differs from the pinned root")
    updater = Updater(
        metadata_dir=str(scratch / "metadata"),
        metadata_base_url=f"{base}/tuf/metadata/",
        target_dir=str(scratch / "targets"),
        target_base_url=f"{base}/tuf/targets/",
        fetcher=fetcher,
        config=_CONFIG,
        bootstrap=root,
    )
    # The library compares dates with the wall clock and has no public parameter for the time.
    updater._trusted_set.reference_time = now  # noqa: SLF001  (no public parameter)
    updater.refresh()
    for name in TARGETS:
        target = updater.get_targetinfo(name)
        if target is None or target.length > TRUST_TARGETS_BYTES_MAX:
            raise RepositoryError(f"the target {name} is missing or longer than {TRUST_TARGETS_BYTES_MAX} bytes")
        path = str(scratch / "targets" / name)
        if updater.find_cached_target(target, path) is None:
            updater.download_target(target, path)


class _Fetcher(FetcherInterface):
    """Sends GET requests without redirect, proxy or decoding. The library's `download_file` limits the length."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool
        self._ends_at = time.monotonic() + TRUST_UPDATE_SECONDS_MAX

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with self._pool.stream("GET", url, extensions={"timeout": _TIMEOUTS}) as response:
                if response.status != 200:
                    raise DownloadHTTPError(f"{url} was answered with status {response.status}", response.status)
                for piece in response.iter_stream():
                    if time.monotonic() > self._ends_at:
                        raise SlowRetrievalError(f"{url} took longer than {TRUST_UPDATE_SECONDS_MAX:.0f} s")
                    yield piece
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise DownloadError(f"{url} could not be fetched: {error}") from error
