"""Process state: limits of requests by caller. Each route names its bucket, and the guard asks before the handler.

    @get("/v1/things", opt=operation_options(NODE, bucket=THINGS))

A caller is a node, an operator's token, a service, or the source address of a caller without an identity. A request
takes a permit of the caller, of the caller's tenant if it is a node, and of all callers of its kind
(`cloud.tasks.buckets`). Callers without an identity are of two kinds: the source has shown an identity in another
request lately, or it is a stranger. So a flood of strangers takes nothing from known callers. All addresses of one IPv6
network of 48 bits together get at most half of the bucket of their kind.

A refusal is `rate_limited` (429) with `Retry-After` in seconds. The guard answers it a second late. So a caller that
ignores the answer gets one refusal a second on each of its connections. A use case may refuse a caller by a limit too,
after the check of a proof or a code; this refusal is as late. Other refusals of a use case are answered at once,
because the request has taken a permit.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from time import monotonic

import msgspec
from litestar.handlers.base import BaseRouteHandler

from cloud.http.problems import Refusal
from cloud.mtls.peer import NodePeer, ServicePeer
from cloud.tasks.buckets import KEYS_MAX, Buckets, Level, Rate, admit
from cloud.tasks.source import site_of, source_of

BUCKET = "bucket"
"""Key of the bucket in a route's `opt`."""
OnRefusal = Callable[[str, str, str], None]
"""Called with the name of the bucket, the kind of the caller, and the limit: `own`, `shared` or `use case`."""
DELAY_SECONDS = 1.0
DELAYED_MAX = 512
"""Refusals that wait at a time, in about 10 kB each. Further refusals are answered at once and end their connection."""
REFUSALS = Rate(50, 0.2)
"""Refusals by the guard that a source gets at once: missing certificates, wrong tokens. Later ones are delayed."""
REFUSALS_OF_SITE = Rate(1_000, 0.02)
"""The same for all sources of one IPv6 site."""


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a group of routes: of each caller, of each tenant's nodes, and of all callers of one kind.

    Services are limited by `each` only, and not at all if `each` is None. Each of their requests to another service is
    caused by a request that was admitted.
    """

    name: str
    each: Rate | None
    tenant: Rate | None = None
    whole: Rate | None = None


class Quota(msgspec.Struct, frozen=True):
    """What is left of a caller's own bucket, in the form of draft-ietf-httpapi-ratelimit-headers-10.

    The policy's name is that of the bucket. The key of the caller is in neither header.
    """

    name: str
    rate: Rate
    remaining: int
    seconds: int
    """After this time the bucket is full again if nothing is taken; in a refusal, there may be a permit."""

    @property
    def headers(self) -> dict[str, str]:
        """`RateLimit-Policy` and `RateLimit`. An empty bucket is full again after the window `w`, in seconds."""
        window = math.ceil(self.rate.burst * self.rate.seconds)
        return {
            "RateLimit-Policy": f'"{self.name}";q={self.rate.burst};w={window}',
            "RateLimit": f'"{self.name}";r={self.remaining};t={self.seconds}',
        }


class Caller(msgspec.Struct, frozen=True):
    """Who calls: the kind, the key of the caller's own bucket, and the tenant of a node."""

    kind: str
    key: str
    tenant: str = ""


SERVICES = Bucket(name="services", each=None)
"""For routes that only other services call."""
PROBES = Bucket(name="probes", each=Rate(200, 0.05), whole=Rate(2_000, 0.005))
"""For `/healthz` and `/readyz`. Twenty load balancers that ask once a second stay below it from one address."""


def node_caller(peer: NodePeer) -> Caller:
    """Return the caller of a node. All its generations share one bucket."""
    return Caller("node", peer.node, peer.tenant)


def service_caller(peer: ServicePeer) -> Caller:
    """Return the caller of a service."""
    return Caller("service", peer.name)


def operator_caller(token: str) -> Caller:
    """Return the caller of an operator's token, by the token's id."""
    return Caller("operator", token)


def bucket_of(handler: BaseRouteHandler) -> Bucket | None:
    """Return the bucket of a route, or None if it has none."""
    bucket = handler.opt.get(BUCKET)
    return bucket if isinstance(bucket, Bucket) else None


class Admission:
    """The buckets of one service, in the memory of one process.

    Addresses in `shared_networks` are those of proxies and load balancers, which pass on the requests of many callers.
    They share one bucket of the size for all callers. All limits are multiplied by `factor`. `clock` returns seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        *,
        shared_networks: Sequence[str] = (),
        factor: float = 1.0,
        delay_seconds: float = DELAY_SECONDS,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self._clock = clock
        self._shared = tuple(map(ip_network, shared_networks))
        self._factor = factor
        self._delay_seconds = delay_seconds
        self._keys_max = keys_max
        self._tables: dict[str, Buckets] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._delayed = 0
        self.on_refusal: OnRefusal = lambda _bucket, _kind, _limit: None

    def note_known(self, host: str) -> None:
        """Store that an identified caller has this address."""
        source = source_of(host)
        self._known[source] = None
        self._known.move_to_end(source)
        if len(self._known) > self._keys_max:
            self._known.popitem(last=False)

    async def check(self, bucket: Bucket | None, caller: Caller | None, host: str) -> Quota | None:
        """Take a permit for a request. `caller` is None for a caller without an identity. Its key is then `host`.

        Returns what is left of the caller's own bucket, or None if the caller has none of its own.

        Raises:
            Refusal: `rate_limited` if there is no permit, `peer_refused` if the route names no bucket.
        """
        if bucket is None:
            raise Refusal("peer_refused", "this route has no limits")
        wait = self.take(bucket, caller, host)
        if wait > 0:
            await self.delay()
            raise too_many(wait, self.quota(bucket, caller, host, wait))
        return self.quota(bucket, caller, host)

    def quota(self, bucket: Bucket, caller: Caller | None, host: str, wait: float = 0.0) -> Quota | None:
        """Return what is left of the caller's own bucket. A caller that has to wait has nothing left for `wait` seconds.

        All callers behind one proxy share a bucket. None of them learns what the others have used.
        """
        kind = self._kind(caller, host)
        if bucket.each is None or kind == "shared":
            return None
        own = self._levels(bucket, caller, host, kind)[0]
        used = own.buckets.used(own.key, own.rate, self._clock())
        seconds = wait or used * own.rate.seconds
        remaining = 0 if wait else int(own.rate.burst - used)
        return Quota(bucket.name, own.rate, remaining, math.ceil(seconds))

    def take(self, bucket: Bucket, caller: Caller | None, host: str = "") -> float:
        """Take a permit, and return 0. If there is none, return the seconds until there may be one."""
        now, kind = self._clock(), self._kind(caller, host)
        levels = self._levels(bucket, caller, host, kind)
        wait = admit(levels, now)
        if wait > 0:
            own = kind != "shared" and levels[0].buckets.wait(levels[0].key, levels[0].rate, now) > 0
            self.on_refusal(bucket.name, kind, "own" if own else "shared")
        return wait

    async def refused(self, host: str) -> None:
        """Count a refusal by the guard, and wait if the source or its site has had too many."""
        levels = [Level(self._table("refusals"), source_of(host), REFUSALS.times(self._factor))]
        if site := site_of(host):
            levels.append(Level(self._table("refusals/site"), site, REFUSALS_OF_SITE.times(self._factor)))
        if not self._is_shared(host) and admit(levels, self._clock()) > 0:
            self.on_refusal("refusals", self._kind(None, host), "own")
            await self.delay()

    async def refused_in_use_case(self, bucket: Bucket | None, kind: str) -> None:
        """Count a refusal of a limit in a use case, and wait. `kind` is the kind of the caller.

        A bucket without a limit for each caller is that of a service, which is answered at once. Raises Refusal at once
        if too many refusals wait already.
        """
        if bucket is not None and bucket.each is not None:
            self.on_refusal(bucket.name, kind, "use case")
            await self.delay()

    async def delay(self) -> None:
        """Wait before a refusal is answered. Raises Refusal at once if too many refusals wait already."""
        if self._delayed >= DELAYED_MAX:
            raise Refusal("rate_limited", headers={"Retry-After": "10", "Connection": "close"})
        self._delayed += 1
        try:
            await asyncio.sleep(self._delay_seconds)
        finally:
            self._delayed -= 1

    def _kind(self, caller: Caller | None, host: str) -> str:
        if caller is not None:
            return caller.kind
        if self._is_shared(host):
            return "shared"
        return "known" if source_of(host) in self._known else "stranger"

    def _levels(self, bucket: Bucket, caller: Caller | None, host: str, kind: str) -> list[Level]:
        if bucket.each is None:
            return []
        each, name = bucket.each.times(self._factor), bucket.name
        levels: list[Level] = []
        if caller is not None:
            levels.append(Level(self._table(f"{name}/{kind}"), caller.key, each))
        elif kind != "shared":
            levels.append(Level(self._table(f"{name}/address"), source_of(host), each))
            site = site_of(host)
            if site and bucket.whole is not None:
                levels.append(Level(self._table(f"{name}/site"), site, bucket.whole.half.times(self._factor)))
        if bucket.tenant is not None and caller is not None and caller.tenant:
            levels.append(Level(self._table(f"{name}/tenant"), caller.tenant, bucket.tenant.times(self._factor)))
        if bucket.whole is not None and kind != "service":
            levels.append(Level(self._table(name), kind, bucket.whole.times(self._factor)))
        return levels

    def _is_shared(self, host: str) -> bool:
        if not self._shared:
            return False
        try:
            address = ip_address(source_of(host).partition("/")[0])
        except ValueError:
            return False
        return any(address in network for network in self._shared)

    def _table(self, name: str) -> Buckets:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Buckets(self._keys_max)
        return table


def too_many(wait: float, quota: Quota | None = None) -> Refusal:
    """Return the refusal of a caller that has to wait, in seconds."""
    headers = quota.headers if quota is not None else {}
    return Refusal("rate_limited", headers={"Retry-After": str(max(1, math.ceil(wait))), **headers})
