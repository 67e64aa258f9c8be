"""The TLS context of a client that expects a service of the test's PKI."""

from cloud.mtls.client import (
    CheckedContext,
    ServerCheck,
    client_context,
    expected_service,
)
from protocol.ids import ServiceName
from tests.cloud.pki import TRUST_DOMAIN, Leaf
from tests.cloud.world import World


def context_for(
    world: World, service: ServiceName = "fabric", leaf: Leaf | None = None, revoked: frozenset[int] = frozenset()
) -> CheckedContext:
    check = ServerCheck(
        expected_service(TRUST_DOMAIN, service), world.trust, world.now, lambda s: s in world.revoked | revoked
    )
    if leaf is None:
        return client_context(world.pki.ca_pem, check)
    return client_context(world.pki.ca_pem, check, leaf.chain_pem, leaf.key)
