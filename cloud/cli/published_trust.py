"""Store: the operator's verified copy of the published trust.

The copy is one file in the operator's cache directory, one for each trust pin. Each update starts from the copy, so
that older metadata are refused. A copy younger than `FRESH_FOR` is used without a request; the TUF library
(`cloud/cli/tuf_client.py`) is then not imported.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec

from cloud.cli.errors import TrustError, TrustUnreachable
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, write_secret
from protocol.encoding import json_decode, json_encode
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGET_FORMAT, TARGET_SERVICES, TARGET_X509_BUNDLE, ServiceUrls, X509Bundle

T = TypeVar("T")

FORMAT = 1
FRESH_FOR = timedelta(hours=1)
"""How long a verified copy is used without a request to the repository. Nodes ask the repository once a day."""
USABLE_FOR = timedelta(days=7)
"""How long a verified copy is used when the repository does not answer. A TUF timestamp is valid equally long."""
CACHE_BYTES_MAX = 8 * 1024 * 1024
"""Room for all metadata and targets at their largest, in base64, with every root since the pin."""

_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
"""A time at which nothing has expired."""
_NAME = re.compile(r"(metadata(/root_history)?|targets)/[a-z0-9.-]{1,64}\.json", re.ASCII)


class _Copy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of the cache file. `files` maps the TUF library's path of each file to its content."""

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
    """Return the verified X.509 bundle and the services' URLs. Blocking.

    A copy younger than `fresh_for` is used without a request. When the repository does not answer, a copy younger than
    `USABLE_FOR` is used. `directory` holds the copy and is made if it is missing. `read` describes `judge_dates`.
    Raises TrustError, TrustUnreachable.
    """
    at = now()
    copy = _read(directory / "trust.json", pin)
    age = at - copy.verified_at if copy else None
    if copy and age is not None and timedelta(0) <= age < fresh_for and copy.repository_url == repository_url:
        return _parse(copy.files)
    try:
        return _parse(read(repository_url, pin, directory, lambda: at, judge_dates=judge_dates))
    except TrustUnreachable:
        if copy and age is not None and timedelta(0) <= age < USABLE_FOR:
            return _parse(copy.files)
        raise


def read(
    repository_url: str,
    pin: TrustPin,
    directory: Path,
    now: Callable[[], datetime] = utc_now,
    *,
    judge_dates: bool = True,
) -> dict[str, bytes]:
    """Fetch and verify everything that is published now, and store the copy. Blocking.

    Returns the TUF library's path of each file -> content. If `judge_dates` is False, expired metadata are accepted, so
    that an operator can sign them again. Signatures and versions are always checked. Raises TrustError,
    TrustUnreachable.
    """
    from cloud.cli.tuf_client import update  # The import takes 150 ms. A command with a fresh copy saves them.

    at = now()
    copy = _read(directory / "trust.json", pin)
    files = update(repository_url.rstrip("/"), pin, copy.files if copy else {}, at if judge_dates else _BEFORE_ALL)
    _parse(files)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(directory / "trust.json", json_encode(_Copy(FORMAT, pin, repository_url, at, files)))
    except (OSError, KeyFileError) as error:
        raise TrustError(f"cannot store the verified trust in {directory}: {error}") from error
    return files


def _read(path: Path, pin: TrustPin) -> _Copy | None:
    """Return the copy for this pin. Returns None for a file that is missing or invalid: it can be fetched again."""
    try:
        with path.open("rb") as file:
            copy = json_decode(file.read(CACHE_BYTES_MAX), _Copy)
    except (OSError, msgspec.MsgspecError):
        return None
    known = all(map(_NAME.fullmatch, copy.files))
    return copy if copy.format == FORMAT and copy.pin == pin and known else None


def _parse(files: Mapping[str, bytes]) -> tuple[X509Bundle, ServiceUrls]:
    bundle, urls = _decode(files, TARGET_X509_BUNDLE, X509Bundle), _decode(files, TARGET_SERVICES, ServiceUrls)
    if bundle.format != TARGET_FORMAT or urls.format != TARGET_FORMAT:
        raise TrustError("cannot use the published trust: its format is newer than this command; update `cascade`")
    if not (bundle.roots and bundle.service_issuers):
        raise TrustError("cannot use the published trust: it has no root or no issuer of services")
    if not (urls.fabric.startswith("https://") and urls.breakwater.startswith("https://")):
        raise TrustError("cannot use the published trust: the URL of a service does not begin with https://")
    return bundle, urls


def _decode(files: Mapping[str, bytes], name: str, kind: type[T]) -> T:
    try:
        return json_decode(files[f"targets/{name}"], kind)
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrustError(f"cannot use the published trust: its file {name} is missing or invalid") from error
