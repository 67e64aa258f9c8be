"""Adapter: one update from the TUF repository, with the client workflow of the library `tuf` and our own fetcher.

The update blocks its thread. No other module of the node but `node.trust.library` imports `tuf`. `node.trust.published` imports this module only
for an update, because the import is slow. Every fetched file is verified, from the pinned root on, or refused. The
update writes to the scratch directory only. The operators' command line has a separate adapter (docs/adr/0010).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

import httpcore
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    RepositoryError,
    SlowRetrievalError,
)

from node.clock import monotonic
from node.disk.files import ensure_private_dir, read_bounded, write_scratch
from node.link.connect import LinkFailed, open_in_turn
from node.trust.errors import TrustError, TrustOlder, TrustUnreachable
from node.trust.files import FILE_BYTES_MAX, METADATA, Generation, is_root_name, root_name
from node.trust.library import FetcherInterface, Updater, UpdaterConfig
from protocol.encoding import sha256_hex
from protocol.limits import (
    TRUST_ROOT_BYTES_MAX,
    TRUST_ROOT_ROTATIONS_MAX,
    TRUST_SNAPSHOT_BYTES_MAX,
    TRUST_STEP_SECONDS_MAX,
    TRUST_TARGETS_BYTES_MAX,
    TRUST_TIMESTAMP_BYTES_MAX,
)
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGETS
from protocol.urls import UrlError, check_base_url

# The library logs details that the raised error already has.
logging.getLogger("tuf").setLevel(logging.ERROR)

_CARRIED = "carried://files"
"""In the place of the URL of a repository whose files were carried to this machine."""


def update(
    repository_url: str, pin: TrustPin, known: Mapping[str, bytes], scratch: Path, now: datetime, seconds_max: float
) -> Generation:
    """Fetch and verify root, timestamp, snapshot, targets and the three target files.

    Args:
        repository_url: the repository's URL, http.
        pin: version and SHA-256 of the root to start from.
        known: files of the last stored generation, by name. Metadata that are older than these are refused.
        scratch: an empty directory to work in.
        now: the time at which expiry dates are judged.
        seconds_max: bound of all requests; a name look-up can take longer.

    Raises TrustError if a file does not verify, TrustUnreachable if the repository gives no usable answer, StateError or
    (from the library) OSError if the scratch directory cannot be used.
    """
    try:
        # Not https: the files are signed.
        check_base_url(repository_url, "http", with_path=True)
    except UrlError as error:
        raise TrustError(f"cannot use the repository {repository_url}: {error}") from error
    base = repository_url.rstrip("/")
    source = f"repository at {base}"
    try:
        with httpcore.ConnectionPool(
            max_connections=1, network_backend=_DeadlineBackend(monotonic() + seconds_max)
        ) as pool:
            return _updated(_Fetcher(pool), base, source, Generation(repository_url, pin, known), scratch, now)
    except DownloadError as error:
        raise TrustUnreachable(f"cannot fetch the published trust from {base}: {error}") from error


def update_from_files(
    files: Mapping[str, str],
    repository_url: str,
    pin: TrustPin,
    known: Mapping[str, bytes],
    scratch: Path,
    now: datetime,
) -> Generation:
    """As `update`, from files that were carried to this machine, by their path in the repository.

    `repository_url` is stored with the result. Raises TrustError, also if a file is missing; TrustOlder if the files are
    older than the known ones; StateError or OSError as `update`.
    """
    source = "published trust that was carried here"
    try:
        return _updated(_Carried(files), _CARRIED, source, Generation(repository_url, pin, known), scratch, now)
    except DownloadError as error:
        raise TrustError(f"cannot verify the {source}: {error}") from error


def _updated(
    fetcher: FetcherInterface, base: str, source: str, before: Generation, scratch: Path, now: datetime
) -> Generation:
    """The update of `before`, whose files are the known ones. `source` names the origin of the files in errors."""
    pin = before.pin
    _lay_out(before.files, scratch)
    try:
        root = _pinned_root(fetcher, base, source, pin, before.files)
        current = _verify(fetcher, base, source, root, scratch, now)
    except DownloadLengthMismatchError as error:
        raise TrustError(f"cannot verify the {source}: a file is longer than allowed") from error
    except DownloadError:
        raise
    except BadVersionNumberError as error:
        raise TrustOlder(f"cannot verify the {source}: it is older than the trust of this machine: {error}") from error
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        # The library raises the last three for signed JSON that does not have the form of metadata.
        raise TrustError(f"cannot verify the {source}: {error}") from error
    names = [*METADATA, *TARGETS, *(root_name(version) for version in range(pin.version, current + 1))]
    files = {name: read_bounded(scratch / _place(name), FILE_BYTES_MAX) for name in names}
    return Generation(before.repository_url, pin, files)


def _lay_out(known: Mapping[str, bytes], scratch: Path) -> None:
    for folder in ("metadata/root_history", "targets"):
        ensure_private_dir(scratch / folder)
    for name, content in known.items():
        write_scratch(scratch / _place(name), content)


def _place(name: str) -> Path:
    """The library's path for a file of a generation."""
    if is_root_name(name):
        return Path("metadata/root_history", name)
    return Path("metadata" if name in METADATA else "targets", name)


def _pinned_root(fetcher: FetcherInterface, base: str, source: str, pin: TrustPin, known: Mapping[str, bytes]) -> bytes:
    root = known.get(root_name(pin.version), b"")
    if sha256_hex(root) == pin.sha256:
        return root
    try:
        root = fetcher.download_bytes(f"{base}/tuf/metadata/{pin.version}.root.json", TRUST_ROOT_BYTES_MAX)
    except DownloadHTTPError as error:
        if error.status_code != 404:
            raise
        raise TrustError(
            f"cannot trust the {source}: it does not have the pinned root, version {pin.version}"
        ) from error
    if sha256_hex(root) != pin.sha256:
        raise TrustError(f"cannot trust the {source}: the hash of its root {pin.version} is not that of the pin")
    return root


def _verify(fetcher: FetcherInterface, base: str, source: str, root: bytes, scratch: Path, now: datetime) -> int:
    """Update the files in `scratch`. Returns the version of the newest root."""
    updater = Updater(
        metadata_dir=str(scratch / "metadata"),
        metadata_base_url=f"{base}/tuf/metadata/",
        target_dir=str(scratch / "targets"),
        target_base_url=f"{base}/tuf/targets/",
        fetcher=fetcher,
        config=UpdaterConfig(
            max_root_rotations=TRUST_ROOT_ROTATIONS_MAX,
            max_delegations=0,
            root_max_length=TRUST_ROOT_BYTES_MAX,
            timestamp_max_length=TRUST_TIMESTAMP_BYTES_MAX,
            snapshot_max_length=TRUST_SNAPSHOT_BYTES_MAX,
            targets_max_length=TRUST_TARGETS_BYTES_MAX,
        ),
        bootstrap=root,
    )
    # The library judges dates by the wall clock, and has no public argument for the time.
    trusted = updater._trusted_set  # noqa: SLF001 (see above)
    trusted.reference_time = now
    updater.refresh()
    for name in TARGETS:
        target = updater.get_targetinfo(name)
        if target is None:
            raise TrustError(f"cannot use the {source}: it has no {name}")
        if target.length > TRUST_TARGETS_BYTES_MAX:
            raise TrustError(f"cannot use the {source}: {name} is larger than {TRUST_TARGETS_BYTES_MAX} bytes")
        path = str(scratch / "targets" / name)
        if updater.find_cached_target(target, path) is None:
            updater.download_target(target, path)
    return trusted.root.version


class _Fetcher(FetcherInterface):
    """GET over HTTP/1.1, without redirects, proxies, cookies and decoding, and with one deadline for all requests."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def _fetch(self, url: str) -> Iterator[bytes]:
        """The body in pieces. The library's `download_file` compares their total with the bound of the file."""
        limits = dict.fromkeys(("connect", "read", "write", "pool"), TRUST_STEP_SECONDS_MAX)
        try:
            with self._pool.stream("GET", url, extensions={"timeout": limits}) as response:
                if response.status != 200:
                    raise DownloadHTTPError(f"the answer for {url} has status {response.status}", response.status)
                yield from response.iter_stream()
        except httpcore.TimeoutException as error:
            raise SlowRetrievalError(f"the answer for {url} took too long") from error
        except (LinkFailed, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise DownloadError(f"the request for {url} failed: {error}") from error


class _Carried(FetcherInterface):
    """Files in memory, by their path in the repository."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(f"{_CARRIED}/tuf/")
        if path not in self._files:
            raise DownloadHTTPError(f"the file {path} is missing", 404)
        yield self._files[path].encode()


class _DeadlineBackend(httpcore.NetworkBackend):
    """Connections with one deadline for all waits.

    Time-outs of single reads do not bound an exchange. A server that sends one byte of a header every few seconds could
    block the thread for days.
    """

    def __init__(self, ends_at: float) -> None:
        self._ends_at = ends_at
        self._inner = httpcore.SyncBackend()

    def left(self, timeout: float | None) -> float:
        left = self._ends_at - monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time for the update is over")
        return min(left, TRUST_STEP_SECONDS_MAX if timeout is None else timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        def open_one(address: str, seconds: float) -> httpcore.NetworkStream:
            try:
                return self._inner.connect_tcp(address, port, seconds, local_address, socket_options)
            except httpcore.TimeoutException as error:
                raise TimeoutError from error
            except httpcore.NetworkError as error:
                raise OSError(str(error)) from error

        return _DeadlineStream(open_in_turn(host, port, self.left(timeout), open_one), self)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, backend: _DeadlineBackend) -> None:
        self._inner = inner
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._backend.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._backend.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)
