"""Pure functions: names of callers for records and the audit."""

from datetime import datetime
from typing import Any

from litestar import Request

from cloud.http.guard import current_service
from cloud.mtls.peer import NodePeer, Peer, PeerRefused, PeerTrust, ServicePeer, peer_of

ANONYMOUS = "anonymous"


def caller(request: Request[Any, Any, Any]) -> str:
    """The name of the calling service. Raises Refusal for any other caller."""
    return f"service/{current_service(request).name}"


def caller_of(scope: Any, trust: PeerTrust, now: datetime) -> str:
    """The name of a caller in the refusal audit. A caller whose certificate is refused is anonymous."""
    try:
        return _named(peer_of(scope, trust, now))
    except PeerRefused:
        return ANONYMOUS


def _named(peer: Peer) -> str:
    if isinstance(peer, ServicePeer):
        return f"service/{peer.name}"
    return f"tenant/{peer.tenant}/node/{peer.node}" if isinstance(peer, NodePeer) else ANONYMOUS
