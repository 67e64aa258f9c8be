"""Use case: give each new certificate a place in a CRL shard of bounded size. Also: the paths of published objects.

A certificate stays in its shard for ever. Rule: A place is reserved in the database before it is used and is never
returned. So a shard never has more than `PLACES_MAX` certificates, even after crashes and with several issuing
processes.
"""

import asyncio
import re

import msgspec

from cloud.breakwater.pkix.profiles import Distribution
from cloud.breakwater.store.shards import ShardStore, shard_id
from protocol.faults import fault_point

PLACES_MAX = 5000
"""Certificates in a shard. It bounds the size of a CRL, which every verifier downloads: 5,000 entries are 260 kB."""
PLACES_RESERVED = 500
"""Places that a process reserves in one write. At a restart at most this many places are lost."""

OCSP_PATH = "/ocsp"

_SHARD = re.compile(r"((?:root|nodes|services)-[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")


class Place(msgspec.Struct, frozen=True):
    """A place for one certificate: the id of its shard, and the addresses that the certificate contains."""

    shard: str
    distribution: Distribution


class Places:
    """The places that this process has reserved.

    `base_url` is the public address of CRLs, OCSP responder and CA certificates. Call `take` outside of a transaction.
    `reserved` is the number of places that one write reserves, `places_max` the number of places in a shard.
    """

    def __init__(
        self, store: ShardStore, base_url: str, *, reserved: int = PLACES_RESERVED, places_max: int = PLACES_MAX
    ) -> None:
        self._store = store
        self._base_url = base_url
        self._reserved = reserved
        self._places_max = places_max
        self._locks: dict[str, asyncio.Lock] = {}
        self._left: dict[str, tuple[str, int]] = {}

    async def take(self, authority: str) -> Place:
        """Return a place for one certificate of `authority`. Raises StorageError."""
        async with self._locks.setdefault(authority, asyncio.Lock()):
            shard, left = self._left.get(authority, ("", 0))
            if not left:
                with fault_point("breakwater.shard.reserve"):
                    shard = await self._store.reserve(authority, self._reserved, self._places_max)
                left = self._reserved
            self._left[authority] = shard, left - 1
            return Place(shard, distribution(self._base_url, authority, shard))


def crl_path(shard: str) -> str:
    """Return the path of a shard's CRL. The certificates of the shard contain it. Raises ValueError."""
    authority, number = split_shard(shard)
    return f"/crl/{authority}/{number}.crl"


def root_crl_path(authority: str) -> str:
    """Return the path of a root's CRL. A root has one CRL, because it signs few certificates."""
    return crl_path(shard_id(authority, 1))


def distribution(base_url: str, authority: str, shard: str) -> Distribution:
    """Return the addresses for a certificate of `authority` with a place in `shard`.

    Rule: `base_url` must not change while an unexpired certificate contains it, because a CRL and its certificates have
    to contain the same address.
    """
    base = base_url.rstrip("/")
    return Distribution(base + crl_path(shard), base + OCSP_PATH, base + ca_path(authority))


def ca_path(authority: str) -> str:
    """Return the path of an authority's CA certificate."""
    return f"/ca/{authority}.cer"


def split_shard(shard: str) -> tuple[str, int]:
    """Split a shard's id into authority and number. Raises ValueError."""
    match = _SHARD.fullmatch(shard)
    if match is None:
        raise ValueError("not the id of a shard")
    return match[1], int(match[2])


def shard_of_path(authority: str, file: str) -> str:
    """Return the id of the shard whose CRL has the path `/crl/AUTHORITY/FILE`. Raises ValueError."""
    number = file.removesuffix(".crl")
    identifier = f"{authority}.{number}"
    if number == file or _SHARD.fullmatch(identifier) is None:
        raise ValueError("not the path of a CRL")
    return identifier


__all__ = [
    "OCSP_PATH",
    "PLACES_MAX",
    "PLACES_RESERVED",
    "Place",
    "Places",
    "ca_path",
    "crl_path",
    "distribution",
    "root_crl_path",
    "shard_id",
    "shard_of_path",
    "split_shard",
]
