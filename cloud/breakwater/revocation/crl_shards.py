"""Use case: certificates get places in CRL shards, of bounded size and fixed at issuance; and the paths of all that
is published.

It knows no certificate and no key. Rule: a place is reserved in the database before it is used and never given back, so
that a shard never has more certificates than `PLACES_MAX`, whatever crashes and however many processes issue.
"""

import asyncio
import re

import msgspec

from cloud.breakwater.pkix.profiles import Distribution
from cloud.breakwater.store.shards import ShardStore, shard_id
from protocol.faults import fault_point

PLACES_MAX = 5000
"""Certificates of a shard, for ever. A CRL costs a verifier time by its bytes: 5,000 entries are 260 kB."""
PLACES_RESERVED = 500
"""Places a process takes at once: one write in 500 issuances, and at most so many lost at a restart."""

OCSP_PATH = "/ocsp"

_SHARD = re.compile(r"((?:root|nodes|services)-[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")


class Place(msgspec.Struct, frozen=True):
    """A place for one certificate: the id of its shard, and the addresses that stand in the certificate."""

    shard: str
    distribution: Distribution


class Places:
    """The places that this process has reserved. `take` is called outside of any transaction.

    `base_url` is where the world finds CRLs, OCSP responder and CA certificates.
    """

    def __init__(self, store: ShardStore, base_url: str) -> None:
        self._store = store
        self._base_url = base_url
        self._locks: dict[str, asyncio.Lock] = {}
        self._left: dict[str, tuple[str, int]] = {}

    async def take(self, authority: str) -> Place:
        """A place for one certificate of `authority`."""
        async with self._locks.setdefault(authority, asyncio.Lock()):
            shard, left = self._left.get(authority, ("", 0))
            if not left:
                with fault_point("breakwater.shard.reserve"):
                    shard = await self._store.reserve(authority, PLACES_RESERVED, PLACES_MAX)
                left = PLACES_RESERVED
            self._left[authority] = shard, left - 1
            return Place(shard, distribution(self._base_url, authority, shard))


def crl_path(shard: str) -> str:
    """The path at which a shard's CRL is served; it stands in the certificates of the shard."""
    authority, number = split_shard(shard)
    return f"/crl/{authority}/{number}.crl"


def distribution(base_url: str, authority: str, shard: str) -> Distribution:
    """The addresses that stand in a certificate of `authority` with a place in `shard`.

    Rule: `base_url` never changes while a certificate with it lives; a CRL names the address that its certificates do.
    """
    base = base_url.rstrip("/")
    return Distribution(base + crl_path(shard), base + OCSP_PATH, base + ca_path(authority))


def ca_path(authority: str) -> str:
    """The path at which the certificate of an authority is served."""
    return f"/ca/{authority}.cer"


def split_shard(shard: str) -> tuple[str, int]:
    """Authority and number of a shard's id. Raises ValueError."""
    match = _SHARD.fullmatch(shard)
    if match is None:
        raise ValueError("not the id of a shard")
    return match[1], int(match[2])


def shard_of_path(authority: str, file: str) -> str:
    """The id of the shard whose CRL is at `/crl/AUTHORITY/FILE`. Raises ValueError."""
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
    "shard_id",
    "shard_of_path",
    "split_shard",
]
