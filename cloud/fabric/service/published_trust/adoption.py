"""Who works by which trust: noted from what nodes tell, counted for operators, asked before anything is dropped.

Nodes tell the version of the targets they work by in every session proof and with every question for a statement;
sessions show a device certificate and so its issuer. Both are kept in memory for a second and then written in one
transaction, only where they are news. Until when session certificates of an issuing CA count is written *before* the
certificate is handed out, an hour at a time: an issuer that may be dropped by that has none at work any more.
"""

from datetime import datetime, timedelta

import msgspec

from cloud.fabric import schemas
from cloud.fabric.service import views
from cloud.fabric.service.context import Core
from cloud.fabric.store.adoption import NodeTrust, Told
from cloud.fabric.store.rows import GenerationRow
from cloud.fabric.tuf.current_trust import RenewalOrder
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.limits import SEQ_MAX, SESSION_LIFE_MAX

UNKNOWN_ISSUER = "none"
"""How a question names the nodes that have shown no device certificate yet."""
NAMED_MAX = 20
"""Nodes that a refusal names."""
_STEP = timedelta(hours=1)


class Count(msgspec.Struct, frozen=True):
    """Nodes with an open confirmed generation; `behind` of them work by a trust before the published one."""

    nodes: int
    behind: int
    by_issuer: dict[str, int]


def note(core: Core, generation: GenerationRow, version: int | msgspec.UnsetType, issuer: str = "") -> None:
    """Remember what a node told and showed, if it is news."""
    told = version if isinstance(version, int) and 0 < version <= SEQ_MAX else 0
    known = core.told.get(generation.id, Told())
    if told <= max(generation.trust_version, known.trust_version) and issuer in (
        "",
        known.device_issuer or generation.device_issuer,
    ):
        return
    core.told[generation.id] = Told(max(told, known.trust_version), issuer or known.device_issuer)


async def write_told(core: Core) -> None:
    """Write down what was noted, all of it in one transaction."""
    told = dict(core.told)
    if not told:
        return
    async with core.stores.transaction():
        await core.stores.adoption.write(told, core.belief.version)
    for key, entry in told.items():
        if core.told.get(key) is entry:
            del core.told[key]


async def note_session(core: Core, chain: tuple[bytes, ...]) -> None:
    """Before a session certificate is handed out: its issuer has sessions for as long as one may live."""
    if len(chain) < 2:
        return
    key_id = core.belief.key_id(chain[1])
    until = _next_step(core.now() + SESSION_LIFE_MAX)
    known = core.belief.sessions_until.get(key_id)
    if known is not None and known >= until:
        return
    with fault_point("fabric.session.issuer"):
        async with core.stores.transaction():
            await core.stores.installation.raise_sessions_until(key_id, until)
    core.belief.sessions_until[key_id] = until


def _next_step(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0) + _STEP


async def published_version(core: Core) -> int:
    """What is published now, which this process may work by a second later: who has told another has not adopted it."""
    return max(await core.stores.repository.newest("targets") or 0, core.belief.version)


async def count(core: Core, version: int) -> Count:
    """The whole fleet, in stretches."""
    nodes = behind = 0
    by_issuer: dict[str, int] = {}
    async for told, issuer, number in core.stores.adoption.counts():
        nodes += number
        behind += number if told < version else 0
        by_issuer[issuer] = by_issuer.get(issuer, 0) + number
    return Count(nodes, behind, by_issuer)


async def show(core: Core) -> schemas.Adoption:
    """For operators."""
    belief, version = core.belief, await published_version(core)
    counted = await count(core, version)
    published = {key_id_of(each): each.subject.rfc4514_string() for each in belief.trust.node_issuers}
    known = {**dict.fromkeys((*counted.by_issuer, *_with_sessions(core)), ""), **published}
    return schemas.Adoption(
        trust_version=version,
        nodes=counted.nodes,
        adopted=counted.nodes - counted.behind,
        issuers=tuple(
            schemas.IssuerAdoption(
                key_id=key_id,
                subject=subject,
                published=key_id in published,
                nodes=counted.by_issuer.get(key_id, 0),
                sessions_until=belief.sessions_until.get(key_id),
            )
            for key_id, subject in sorted(known.items())
        ),
        services=tuple(
            schemas.ServiceAdoption(name, issuer, bool(issuer), belief.version if name == "fabric" else None)
            for name, issuer in service_issuers(core).items()
        ),
        renewal=None if belief.order is None else order_view(belief.order),
    )


async def nodes(core: Core, issuer: str, cursor: str, limit: int) -> schemas.Page[schemas.NodeAdoption]:
    """Nodes that are behind, or those of one issuer; see `schemas.NodeAdoption`. Raises Invalid."""
    after, wanted = views.read_cursor(cursor), views.read_limit(limit) + 1
    if issuer:
        key_id = "" if issuer == UNKNOWN_ISSUER else issuer
        rows = await core.stores.adoption.of_issuer(key_id, after, wanted)
    else:
        rows = await core.stores.adoption.behind(await published_version(core), after, wanted)
    return views.page([_view(row) for row in rows], [row.node for row in rows], limit)


async def named(core: Core, version: int, issuers: tuple[str, ...]) -> list[NodeId]:
    """Some of the nodes that stand in the way of dropping these issuers."""
    found = [row.node for row in await core.stores.adoption.behind(version, "", NAMED_MAX)]
    for issuer in ("", *issuers) if issuers else ():
        found += [row.node for row in await core.stores.adoption.of_issuer(issuer, "", NAMED_MAX)]
    return sorted(set(found))[:NAMED_MAX]


def service_issuers(core: Core) -> dict[str, str]:
    """By service, the key id of the published issuer of its TLS certificate; empty when that is not published."""
    found = {}
    for name, leaf in core.services().items():
        try:
            found[name] = key_id_of(require_issuer(leaf, core.belief.trust.service_issuers))
        except PeerRefused:
            found[name] = ""
    return found


def order_view(order: RenewalOrder) -> schemas.RenewalOrder:
    """The order as operators see it."""
    return schemas.RenewalOrder(
        order.after, order.reason, order.set_at, order.spread_seconds, order.nodes, order.woken, order.done
    )


def _with_sessions(core: Core) -> list[str]:
    now = core.now()
    return [key_id for key_id, until in core.belief.sessions_until.items() if until > now]


def _view(row: NodeTrust) -> schemas.NodeAdoption:
    return schemas.NodeAdoption(row.node, row.tenant, row.trust_version, row.device_issuer, row.seen_at)
