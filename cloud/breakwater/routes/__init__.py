"""Routes of Breakwater, each with the peers that it admits and the refusals that it can answer."""

from litestar import Router

from cloud.breakwater.errors import IssuerError
from cloud.breakwater.routes import certificates, est, generations, health, public
from cloud.breakwater.routes.problems import refuse
from cloud.events import routes as events


def routes() -> list[Router]:
    """All routes of the mTLS listener, for `cloud.http.app.make_app`. One table maps the errors of all of them."""
    handlers = [
        *generations.HANDLERS,
        *certificates.HANDLERS,
        *est.HANDLERS,
        *events.HANDLERS,
        *health.HANDLERS,
    ]
    return [Router(path="/", route_handlers=handlers, exception_handlers={IssuerError: refuse})]


def public_routes() -> list[Router]:
    """All routes of the plaintext listener with the purpose "pki"."""
    return [Router(path="/", route_handlers=[*public.HANDLERS], exception_handlers={IssuerError: refuse})]
