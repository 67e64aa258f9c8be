"""Use case: fetch, verify and store the published trust: signing keys, X.509 bundle and service URLs, under one pin.

`stage` starts from the pin of an activation file and stores nothing; only an activation calls it. `refresh` starts from
the stored trust; only `node.trust.current` calls it. `repair` replaces a damaged trust at a start. `load` reads the
stored trust. A failed update changes nothing. So a node that is offline for longer than the TUF timestamp is valid keeps
its verified trust. `protocol.signed.envelope` decides which documents a signing key may sign, and for which dates.
"""

import errno
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio
from cryptography import x509

from node.clock import utc_now
from node.disk.files import ensure_private_dir
from node.disk.thread import DISK_SECONDS_MAX, on_disk
from node.errors import DiskFull, NodeError, StateDamaged, StateError, StateUnsafe, StateUnwritable
from node.link.certificates import UNREADABLE
from node.link.connect import network_limiter
from node.trust.errors import TrustError, TrustUnreachable
from node.trust.files import (
    Current,
    Generation,
    is_root_name,
    publish,
    read_current,
    read_record,
    salvage,
    scratch,
    scratch_in_memory,
)
from protocol.encoding import json_decode
from protocol.faults import fault_point
from protocol.ids import IdError, parse_trust_domain
from protocol.limits import TRUST_UPDATE_SECONDS_MAX
from protocol.messages.activation import TrustPin
from protocol.signed.envelope import KeyRing
from protocol.signed.trust import (
    TARGET_FORMAT,
    TARGET_SERVICES,
    TARGET_SIGNING_KEYS,
    TARGET_X509_BUNDLE,
    ServiceUrls,
    SigningKeys,
    X509Bundle,
)
from protocol.urls import UrlError, check_base_url

__all__ = [
    "TrustError",
    "TrustNotStored",
    "TrustSet",
    "TrustUnreachable",
    "load",
    "origin",
    "refresh",
    "repair",
    "root_version",
    "stage",
    "stage_files",
]

LOOK_UP_SECONDS_MAX = 10.0
"""Extra time for a name look-up. The resolver takes no deadline; after this time its thread is left behind."""

T = TypeVar("T")

log = logging.getLogger("cascadia.trust")


class TrustSet(msgspec.Struct, frozen=True):
    """The values of one stored generation. `version` is the version of the TUF targets; the node reports it.

    `repository_url` is the signed URL of the repository; without one the URL that the generation came from.
    """

    signing_keys: KeyRing
    bundle: X509Bundle
    urls: ServiceUrls
    pin: TrustPin
    repository_url: str
    generation: int
    version: int


class TrustNotStored(NodeError):
    """A verified, newer trust could not be stored. `value` is the trust, `cause` the fault of the disk."""

    code = "trust_not_stored"

    def __init__(self, value: TrustSet, cause: NodeError) -> None:
        super().__init__(f"the new published trust is in memory only: {cause.text}", next_step=cause.next)
        self.value = value
        self.cause = cause


def repository_urls(stored: Generation) -> tuple[str, ...]:
    """The URLs of the repository: the signed one first, then the one that the stored trust came from.

    The URL of an activation file has no signature. It serves until signed targets name a URL, and afterwards only if
    the signed URL does not answer. Raises TrustError.
    """
    signed = _decode(stored, TARGET_SERVICES, ServiceUrls).repository
    return tuple(dict.fromkeys(url for url in (signed, stored.repository_url) if url))


class _Signed(msgspec.Struct, frozen=True):
    version: int


class _Metadata(msgspec.Struct, frozen=True):
    """The part of verified metadata that this module reads."""

    signed: _Signed


def load(state_dir: Path) -> TrustSet:
    """The trust that was verified and stored last, also if its metadata have expired since. It uses the disk only.

    Raises StateDamaged, StateError; TrustError if another version of the agent stored it and this version cannot use
    it.
    """
    return _parse(*read_current(_home(state_dir)))


class Staged:
    """Verified trust that is not stored. `value` has its values; `keep` stores it in place of the present trust."""

    def __init__(self, home: Path, verified: Generation, value: TrustSet) -> None:
        self._home = home
        self._verified = verified
        self.value = value

    async def keep(self) -> TrustSet:
        """Store the trust, from which the next start loads it, and return it. A repetition is harmless.

        Raises StateError.
        """

        def store() -> int:
            ensure_private_dir(self._home)
            return publish(self._home, self._verified)

        number = await on_disk(store)
        return msgspec.structs.replace(self.value, generation=number)


def stored(state_dir: Path) -> Staged:
    """The stored trust as a staged one, for a machine whose repository does not answer. Raises as `load`."""
    number, generation = read_current(_home(state_dir))
    return Staged(_home(state_dir), generation, _parse(number, generation))


async def stage(
    repository_url: str,
    pin: TrustPin,
    state_dir: Path,
    *,
    clock: Callable[[], datetime] = utc_now,
    seconds_max: float = TRUST_UPDATE_SECONDS_MAX,
) -> Staged:
    """Fetch and verify the trust, starting from the pinned root. The present trust stays in force.

    Args:
        repository_url: the repository's URL, http.
        pin: version and SHA-256 of the root to start from.
        state_dir: the state directory.
        clock: the time at which expiry dates are judged.
        seconds_max: bound of the update; a name look-up may add LOOK_UP_SECONDS_MAX.

    If stored metadata verify under this pin too, older metadata are refused. Raises TrustError, TrustUnreachable,
    StateError.
    """
    home = _home(state_dir)
    known = await on_disk(partial(_known, home))
    verified = await _fetch(repository_url, pin, known, home, clock, seconds_max)
    return Staged(home, verified, _parse(0, verified))


async def stage_files(
    files: Mapping[str, str], repository_url: str, pin: TrustPin, state_dir: Path, *, clock: Callable[[], datetime]
) -> Staged:
    """Verify trust that was carried to this machine, as `stage`. `files` are by their path in the repository.

    Raises TrustError, TrustOlder, StateError.
    """
    home = _home(state_dir)

    def verify() -> Generation:
        from node.trust.update import update_from_files

        known = _known(home)
        with scratch_in_memory() as directory:
            return update_from_files(files, repository_url, pin, known, directory, clock())

    verified = await trio.to_thread.run_sync(verify)
    return Staged(home, verified, _parse(0, verified))


def origin(state_dir: Path) -> tuple[str, TrustPin] | None:
    """Repository and pin that the stored trust came from; None if the record cannot be read. Uses the disk."""
    with suppress(StateError):
        record = read_record(_home(state_dir))
        return record.repository_url, record.pin
    return None


def root_version(state_dir: Path) -> int:
    """The version of the newest stored TUF root, 0 without one. Uses the disk; raises nothing."""
    with suppress(StateError):
        names = read_record(_home(state_dir)).files
        return max(int(name.partition(".")[0]) for name in names if is_root_name(name))
    return 0


def _known(home: Path) -> Mapping[str, bytes]:
    """The stored files, also of a damaged trust. An update that starts from them accepts no older files."""
    try:
        return read_current(home)[1].files
    except (StateDamaged, StateUnsafe):
        return salvage(home)


async def refresh(
    state_dir: Path,
    *,
    held: TrustSet | Current | None = None,
    clock: Callable[[], datetime] = utc_now,
    seconds_max: float = TRUST_UPDATE_SECONDS_MAX,
    disk_seconds_max: float = DISK_SECONDS_MAX,
) -> TrustSet:
    """Update the stored trust from its own repository, with its own pin.

    `held` is the trust in use, or the record in `current.json`. If the stored trust is damaged, or other users could
    write it, the update starts from the pin of `held` and verifies every stored file again. It then stores an intact
    trust.

    Raises TrustError, TrustUnreachable, StateDamaged, StateError, DiskSilent; TrustNotStored, with the new trust.
    """
    home = _home(state_dir)

    def read() -> tuple[tuple[str, ...], TrustPin, Mapping[str, bytes]]:
        try:
            _, stored = read_current(home)
        except StateError:
            if held is None:
                raise
            return (held.repository_url,), held.pin, salvage(home)
        return repository_urls(stored), stored.pin, stored.files

    urls, pin, known = await on_disk(read, seconds_max=disk_seconds_max)
    try:
        verified = await _fetch(urls[0], pin, known, home, clock, seconds_max)
    except TrustUnreachable as error:
        if len(urls) == 1:
            raise
        log.warning("%s; asking %s", error.text, urls[1])
        verified = await _fetch(urls[1], pin, known, home, clock, seconds_max)
    value = _parse(0, verified)
    try:
        number = await on_disk(partial(publish, home, verified), seconds_max=disk_seconds_max)
    except NodeError as error:
        raise TrustNotStored(value, error) from error
    return msgspec.structs.replace(value, generation=number)


async def repair(state_dir: Path, *, clock: Callable[[], datetime] = utc_now) -> TrustSet:
    """Fetch and store the trust again, from the pin in `current.json`. Raises as `refresh`; StateError without a pin."""
    record = await on_disk(partial(read_record, _home(state_dir)), seconds_max=DISK_SECONDS_MAX)
    return await refresh(state_dir, held=record, clock=clock)


async def _fetch(
    repository_url: str,
    pin: TrustPin,
    known: Mapping[str, bytes],
    home: Path,
    clock: Callable[[], datetime],
    seconds_max: float,
) -> Generation:
    """One update, in a thread. Raises TrustError, TrustUnreachable, StateError."""

    def fetch() -> Generation:
        # Imported here because it takes 150 ms and 3 MB. A start with stored trust does not need it.
        from node.trust.update import update

        def fetch_in(place: AbstractContextManager[Path]) -> Generation:
            with place as directory, fault_point("node.trust.fetch"):
                return update(repository_url, pin, known, directory, clock(), seconds_max)

        try:
            return fetch_in(scratch(home))
        except (StateError, OSError) as error:
            # A full or read-only disk must not keep the keys of a rotation away: no lease would verify any more.
            log.warning("%s; the published trust is fetched in memory", error)
            return fetch_in(scratch_in_memory())

    verified: Generation | None = None
    with trio.move_on_after(seconds_max + LOOK_UP_SECONDS_MAX):
        # A cancelled thread is left behind. It writes to its own scratch directory only.
        try:
            verified = await trio.to_thread.run_sync(fetch, abandon_on_cancel=True, limiter=network_limiter())
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise DiskFull(home) if full else StateUnwritable(home, error.strerror or str(error)) from error
    if verified is None:
        raise TrustUnreachable(f"cannot fetch the published trust from {repository_url}: it took too long")
    return verified


def _home(state_dir: Path) -> Path:
    return state_dir / "trust"


def _parse(number: int, generation: Generation) -> TrustSet:
    """The values in the verified targets. Raises TrustError if this agent cannot use them."""
    keys = _decode(generation, TARGET_SIGNING_KEYS, SigningKeys)
    bundle = _decode(generation, TARGET_X509_BUNDLE, X509Bundle)
    urls = _decode(generation, TARGET_SERVICES, ServiceUrls)
    if any(target.format != TARGET_FORMAT for target in (keys, bundle, urls)):
        raise TrustError(
            "cannot use the published trust: this agent does not know its format. Install a newer version of Cascadia"
        )
    if len({key.kid for key in keys.keys}) != len(keys.keys):
        raise TrustError("cannot use the published trust: it names a signing key twice")
    try:
        parse_trust_domain(bundle.trust_domain)
        for der in (*bundle.roots, *bundle.node_issuers, *bundle.service_issuers):
            x509.load_der_x509_certificate(der)
    except (IdError, *UNREADABLE) as error:
        raise TrustError("cannot use the published trust: its certificates cannot be read") from error
    if not (bundle.roots and bundle.node_issuers and bundle.service_issuers):
        raise TrustError("cannot use the published trust: it has no certificates for a class of peers")
    for url in (urls.fabric, urls.breakwater):
        try:
            check_base_url(url, "https", with_path=False)
        except UrlError as error:
            raise TrustError(f"cannot use the published trust: it names the service {url}: {error}") from error
    try:
        check_base_url(urls.repository or generation.repository_url, "http", with_path=True)
    except UrlError as error:
        raise TrustError(
            f"cannot use the published trust: it names the repository {urls.repository}: {error}"
        ) from error
    return TrustSet(
        signing_keys=keys.ring(),
        bundle=bundle,
        urls=urls,
        pin=generation.pin,
        repository_url=urls.repository or generation.repository_url,
        generation=number,
        version=_decode(generation, "targets.json", _Metadata).signed.version,
    )


def _decode(generation: Generation, name: str, kind: type[T]) -> T:
    try:
        return json_decode(generation.files[name], kind)
    except msgspec.MsgspecError as error:
        raise TrustError(f"cannot use the published trust: {name} cannot be read: {error}") from error
