"""The X.509 bundle and the service URLs, under the trust pin: how an operator's command line comes to trust Fabric.

The client workflow of the TUF library, over HTTP without redirects, proxies or unbounded answers. What was verified
is kept in one file of the caller's cache directory, which the next update starts from, so that older metadata are
refused; within `FRESH_FOR` it is used as it is, and the library is not even imported.
The node has a twin with generations on disk and a deadline for a hostile network (`node/trust/published.py`): the two sides
share `protocol` only, and that is pure, so each has its own shell around the library.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import httpcore
import msgspec

from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, write_secret
from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGET_SERVICES, TARGET_X509_BUNDLE, TARGETS, ServiceUrls, X509Bundle

if TYPE_CHECKING:
    from tuf.ngclient import FetcherInterface

T = TypeVar("T")

FORMAT = 1
TARGET_FORMAT = 1
FRESH_FOR = timedelta(hours=1)
"""How long verified trust is used without asking again; nodes ask once a day."""
USABLE_FOR = timedelta(days=7)
"""How long it is used when the repository does not answer: as long as a timestamp lives."""
STEP_SECONDS_MAX = 10.0
UPDATE_SECONDS_MAX = 60.0
ROOT_BYTES_MAX = 64 * 1024
TIMESTAMP_BYTES_MAX = 16 * 1024
SNAPSHOT_BYTES_MAX = 64 * 1024
TARGETS_BYTES_MAX = 256 * 1024
"""Of targets.json, and of each target."""
ROOT_ROTATIONS_MAX = 64
CACHE_BYTES_MAX = 8 * 1024 * 1024
"""All of the above, in base64, with every root since the pin."""

_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
"""A time at which nothing has expired."""
_NAME = re.compile(r"(metadata(/root_history)?|targets)/[a-z0-9.-]{1,64}\.json", re.ASCII)


class TrustError(Exception):
    """What the repository serves does not verify under the pin, or cannot be kept."""


class TrustUnreachable(TrustError):
    """The repository gave no usable answer, and nothing recent enough was kept."""


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cache file. `files`: path as the library lays it out -> content."""

    format: int
    pin: TrustPin
    repository_url: str
    verified_at: datetime
    files: dict[str, bytes]


def fetch(
    repository_url: str,
    pin: TrustPin,
    directory: Path,
    now: Callable[[], datetime] = utc_now,
    *,
    fresh_for: timedelta = FRESH_FOR,
    judge_dates: bool = True,
) -> tuple[X509Bundle, ServiceUrls]:
    """The verified bundle and URLs. `directory` is made when it is missing. Blocking.

    What was kept is used without asking for `fresh_for`. `judge_dates` as in `read`.
    Raises TrustError, TrustUnreachable.
    """
    at = now()
    kept = _read(directory / "trust.json", pin)
    age = at - kept.verified_at if kept else None
    if kept and age is not None and timedelta(0) <= age < fresh_for and kept.repository_url == repository_url:
        return _parse(kept.files)
    try:
        return _parse(read(repository_url, pin, directory, lambda: at, judge_dates=judge_dates))
    except TrustUnreachable:
        if kept and age is not None and timedelta(0) <= age < USABLE_FOR:
            return _parse(kept.files)
        raise


def read(
    repository_url: str,
    pin: TrustPin,
    directory: Path,
    now: Callable[[], datetime] = utc_now,
    *,
    judge_dates: bool = True,
) -> dict[str, bytes]:
    """All that is published, asked for and verified now: path as the library lays it out -> content. Blocking.

    Without `judge_dates` metadata that have expired are taken too, which only somebody wants who signs them again:
    signatures and versions are held to all the same. Raises TrustError, TrustUnreachable.
    """
    at = now()
    kept = _read(directory / "trust.json", pin)
    files = _update(repository_url.rstrip("/"), pin, kept.files if kept else {}, at if judge_dates else _BEFORE_ALL)
    _parse(files)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(directory / "trust.json", json_encode(_Kept(FORMAT, pin, repository_url, at, files)))
    except (OSError, KeyFileError) as error:
        raise TrustError(f"cannot keep the verified trust in {directory}: {error}") from error
    return files


def _read(path: Path, pin: TrustPin) -> _Kept | None:
    """What was kept under this pin; a file that cannot be read is as good as none, since nothing else is lost."""
    try:
        with path.open("rb") as file:
            kept = json_decode(file.read(CACHE_BYTES_MAX), _Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    known = all(map(_NAME.fullmatch, kept.files))
    return kept if kept.format == FORMAT and kept.pin == pin and known else None


def _update(base: str, pin: TrustPin, known: Mapping[str, bytes], now: datetime) -> dict[str, bytes]:
    """Fetch and verify, starting from `known`; the library lays the files out in a directory for the while."""
    # 150 ms that a command with fresh trust does not pay.
    from tuf.api.exceptions import DownloadError, DownloadLengthMismatchError, RepositoryError

    if not base.startswith("http://"):
        raise TrustError(f"cannot use the repository {base}: it is served over http:// (its files are signed)")
    with TemporaryDirectory() as name:
        scratch = Path(name)
        for folder in ("metadata/root_history", "targets"):
            (scratch / folder).mkdir(parents=True)
        for file, content in known.items():
            (scratch / file).write_bytes(content)
        try:
            with httpcore.ConnectionPool(max_connections=1) as pool:
                _verify(_make_fetcher(pool), base, pin, scratch, now)
        except DownloadLengthMismatchError as error:
            raise TrustError(f"cannot verify the repository at {base}: a file is longer than it may be") from error
        except DownloadError as error:
            raise TrustUnreachable(f"cannot fetch the published trust from {base}: {error}") from error
        except (RepositoryError, ValueError, KeyError, TypeError) as error:
            # The library lets the last three through for metadata that are signed JSON but not of the form it expects.
            raise TrustError(f"cannot verify the repository at {base}: {error}") from error
        return {
            str(path.relative_to(scratch)): path.read_bytes()
            for path in sorted(scratch.rglob("*.json"))
            if not path.is_symlink()
        }


def _verify(fetcher: "FetcherInterface", base: str, pin: TrustPin, scratch: Path, now: datetime) -> None:
    from tuf.api.exceptions import DownloadHTTPError, RepositoryError
    from tuf.ngclient import Updater, UpdaterConfig

    root_path = scratch / f"metadata/root_history/{pin.version}.root.json"
    root = root_path.read_bytes() if root_path.exists() else b""
    if sha256_hex(root) != pin.sha256:
        try:
            root = fetcher.download_bytes(f"{base}/tuf/metadata/{pin.version}.root.json", ROOT_BYTES_MAX)
        except DownloadHTTPError as error:
            if error.status_code != 404:
                raise
            raise RepositoryError(f"it has no root {pin.version}, the pinned one") from error
    if sha256_hex(root) != pin.sha256:
        raise TrustError(f"cannot trust the repository at {base}: its root {pin.version} is not the pinned one")
    config = UpdaterConfig(
        max_root_rotations=ROOT_ROTATIONS_MAX,
        max_delegations=0,
        root_max_length=ROOT_BYTES_MAX,
        timestamp_max_length=TIMESTAMP_BYTES_MAX,
        snapshot_max_length=SNAPSHOT_BYTES_MAX,
        targets_max_length=TARGETS_BYTES_MAX,
    )
    updater = Updater(
        metadata_dir=str(scratch / "metadata"),
        metadata_base_url=f"{base}/tuf/metadata/",
        target_dir=str(scratch / "targets"),
        target_base_url=f"{base}/tuf/targets/",
        fetcher=fetcher,
        config=config,
        bootstrap=root,
    )
    # The library judges dates by the wall clock and has no public way to be told the time.
    updater._trusted_set.reference_time = now  # noqa: SLF001
    updater.refresh()
    for name in TARGETS:
        target = updater.get_targetinfo(name)
        if target is None or target.length > TARGETS_BYTES_MAX:
            raise RepositoryError(f"it has no {name} of at most {TARGETS_BYTES_MAX} bytes")
        path = str(scratch / "targets" / name)
        if updater.find_cached_target(target, path) is None:
            updater.download_target(target, path)


def _make_fetcher(pool: httpcore.ConnectionPool) -> "FetcherInterface":
    from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
    from tuf.ngclient import FetcherInterface

    ends_at = time.monotonic() + UPDATE_SECONDS_MAX
    limits = dict.fromkeys(("connect", "read", "write", "pool"), STEP_SECONDS_MAX)

    class Fetcher(FetcherInterface):
        """GET without redirect, proxy or decoding; the library's `download_file` counts the body against its bound."""

        def _fetch(self, url: str) -> Iterator[bytes]:
            try:
                with pool.stream("GET", url, extensions={"timeout": limits}) as response:
                    if response.status != 200:
                        raise DownloadHTTPError(f"{url} was answered with status {response.status}", response.status)
                    for piece in response.iter_stream():
                        if time.monotonic() > ends_at:
                            raise SlowRetrievalError(f"{url} took too long")
                        yield piece
            except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
                raise DownloadError(f"{url} could not be fetched: {error}") from error

    return Fetcher()


def _parse(files: Mapping[str, bytes]) -> tuple[X509Bundle, ServiceUrls]:
    bundle, urls = _decode(files, TARGET_X509_BUNDLE, X509Bundle), _decode(files, TARGET_SERVICES, ServiceUrls)
    if bundle.format != TARGET_FORMAT or urls.format != TARGET_FORMAT:
        raise TrustError("cannot use the published trust: it is of a format that this command does not know; update it")
    if not (bundle.roots and bundle.service_issuers):
        raise TrustError("cannot use the published trust: it has no certificates of services")
    if not (urls.fabric.startswith("https://") and urls.breakwater.startswith("https://")):
        raise TrustError("cannot use the published trust: a service's URL is not https://")
    return bundle, urls


def _decode(files: Mapping[str, bytes], name: str, kind: type[T]) -> T:
    try:
        return json_decode(files[f"targets/{name}"], kind)
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrustError(f"cannot use the published trust: {name} cannot be read") from error
