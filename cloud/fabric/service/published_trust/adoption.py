"""Use case: count which nodes and services use which trust.

Operators see the counts. `publishing` checks the counts before it drops a root or issuer.
"""

from dataclasses import dataclass

import msgspec

from cloud.fabric import schemas
from cloud.fabric.service import views
from cloud.fabric.service.ports import Now, ServiceCertificates
from cloud.fabric.store.adoption import AdoptionStore, NodeTrust
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer
from protocol.ids import NodeId

UNKNOWN_ISSUER = "none"
"""The `issuer` in a request that selects nodes which have shown no device certificate yet."""
NAMED_MAX = 20
"""Most nodes that a refusal names."""


class Count(msgspec.Struct, frozen=True):
    """Numbers of nodes with an open confirmed generation.

    `behind` of `nodes` have reported an older trust version than the asked one, or none. `by_issuer` counts nodes by
    the key id of the CA of their device certificate; the empty key id is for nodes that have shown none.
    """

    nodes: int
    behind: int
    by_issuer: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """Counts and lists nodes by the trust that they use."""

    now: Now
    adoption: AdoptionStore
    repository: RepositoryStore
    current_trust: CurrentTrust
    service_certificates: ServiceCertificates

    async def published_version(self) -> int:
        """The version of the newest published targets. This process may use it up to a second later."""
        return max(await self.repository.newest("targets") or 0, self.current_trust.version)

    async def count(self, version: int) -> Count:
        """Count the whole fleet. `version` is the trust version below which a node is behind."""
        nodes = behind = 0
        by_issuer: dict[str, int] = {}
        async for reported, issuer, number in self.adoption.counts():
            nodes += number
            behind += number if reported < version else 0
            by_issuer[issuer] = by_issuer.get(issuer, 0) + number
        return Count(nodes, behind, by_issuer)

    async def show(self) -> schemas.Adoption:
        """The adoption of the published trust, for operators."""
        current_trust, version = self.current_trust, await self.published_version()
        counted = await self.count(version)
        published = {key_id_of(each): each.subject.rfc4514_string() for each in current_trust.trust.node_issuers}
        known = {**dict.fromkeys((*counted.by_issuer, *self._with_sessions()), ""), **published}
        order = current_trust.order
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
                    sessions_until=current_trust.sessions_until.get(key_id),
                )
                for key_id, subject in sorted(known.items())
            ),
            services=tuple(
                schemas.ServiceAdoption(name, issuer, bool(issuer), current_trust.version if name == "fabric" else None)
                for name, issuer in self.service_issuers().items()
            ),
            renewal=None if order is None else views.renewal_order(order),
        )

    async def nodes(self, issuer: str, cursor: str, limit: int) -> schemas.Page[schemas.NodeAdoption]:
        """A page of the nodes that are behind, or of the nodes of one issuer. Raises Invalid.

        `schemas.NodeAdoption` explains the values of `issuer`.
        """
        after, wanted = views.read_cursor(cursor), views.read_limit(limit) + 1
        if issuer:
            key_id = "" if issuer == UNKNOWN_ISSUER else issuer
            rows = await self.adoption.of_issuer(key_id, after, wanted)
        else:
            rows = await self.adoption.behind(await self.published_version(), after, wanted)
        return views.page([_view(row) for row in rows], [row.node for row in rows], limit)

    async def blocking(self, version: int, issuers: tuple[str, ...]) -> list[NodeId]:
        """Some of the nodes because of which these issuers cannot be dropped yet, at most NAMED_MAX."""
        found = [row.node for row in await self.adoption.behind(version, "", NAMED_MAX)]
        for issuer in ("", *issuers) if issuers else ():
            found += [row.node for row in await self.adoption.of_issuer(issuer, "", NAMED_MAX)]
        return sorted(set(found))[:NAMED_MAX]

    def service_issuers(self) -> dict[str, str]:
        """The key id of the CA of each service's TLS certificate, by service; empty if no published CA issued it."""
        found = {}
        for name, leaf in self.service_certificates().items():
            try:
                found[name] = key_id_of(require_issuer(leaf, self.current_trust.trust.service_issuers))
            except PeerRefused:
                found[name] = ""
        return found

    def _with_sessions(self) -> list[str]:
        now = self.now()
        return [key_id for key_id, until in self.current_trust.sessions_until.items() if until > now]


def _view(row: NodeTrust) -> schemas.NodeAdoption:
    return schemas.NodeAdoption(row.node, row.tenant, row.trust_version, row.device_issuer, row.seen_at)
