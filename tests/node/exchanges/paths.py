"""Paths of the cloud that a contact asks, and the paths that a simulated cloud was asked."""

from tests.simulators.fabric import Fabric

NONCES, SESSIONS = "/v1/node/nonces", "/v1/node/sessions"
STATEMENT, CONFIRM = "/v1/node/statement", "/v1/node/confirm"


def asked(fabric: Fabric) -> list[str]:
    """The paths of the requests, in order."""
    return [request.path for request in fabric.requests]
