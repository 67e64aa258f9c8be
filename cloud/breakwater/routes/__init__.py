"""The routes of Breakwater, each with the peers it admits beside it."""

from litestar import Router

from cloud.breakwater.errors import IssuerError
from cloud.breakwater.routes import certificates, est, generations, health, public, revocations
from cloud.breakwater.routes.problems import refuse


def routes() -> list[Router]:
    """All routes, for `cloud.http.app.make_app`; the issuer's refusals are answered by one table."""
    handlers = [
        *generations.HANDLERS,
        *certificates.HANDLERS,
        *est.HANDLERS,
        *revocations.HANDLERS,
        *health.HANDLERS,
    ]
    return [Router(path="/", route_handlers=handlers, exception_handlers={IssuerError: refuse})]


def public_routes() -> list[Router]:
    """All routes of the plaintext listener with the purpose "pki"."""
    return [Router(path="/", route_handlers=[*public.HANDLERS], exception_handlers={IssuerError: refuse})]
