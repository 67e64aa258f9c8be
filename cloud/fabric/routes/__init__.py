"""Routes of Fabric, each with the callers that it admits and the refusals that it can answer."""

from litestar import Router

from cloud.events import routes as events
from cloud.fabric.errors import FabricError
from cloud.fabric.routes import (
    activation,
    airgap,
    clones,
    decisions,
    hardware,
    health,
    node,
    operator,
    recovery,
    renewal,
    repository,
    restored,
    software,
    trust,
)
from cloud.fabric.routes.access import refuse


def routes() -> list[Router]:
    """All routes of the API, for `cloud.http.app.make_app`."""
    handlers = [
        *activation.HANDLERS,
        *decisions.HANDLERS,
        *node.HANDLERS,
        *renewal.HANDLERS,
        *software.HANDLERS,
        *operator.HANDLERS,
        *hardware.HANDLERS,
        *clones.HANDLERS,
        *recovery.HANDLERS,
        *airgap.HANDLERS,
        *trust.HANDLERS,
        *restored.HANDLERS,
        *events.HANDLERS,
        *health.HANDLERS,
    ]
    return [Router(path="/", route_handlers=handlers, exception_handlers={FabricError: refuse})]


def repository_routes() -> list[Router]:
    """All routes of the read-only repository."""
    return [Router(path="/", route_handlers=[*repository.HANDLERS], exception_handlers={FabricError: refuse})]
