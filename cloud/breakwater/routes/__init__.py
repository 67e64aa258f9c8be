"""The routes of Breakwater, each with the peers it admits beside it."""

from litestar import Router

from cloud.breakwater.errors import IssuanceLost, Refused
from cloud.breakwater.routes import certificates, generations, health
from cloud.breakwater.routes.problems import refuse


def routes() -> list[Router]:
    """All routes, for `cloud.web.make_app`; the issuer's refusals are answered by one table."""
    handlers = [*generations.HANDLERS, *certificates.HANDLERS, *health.HANDLERS]
    return [Router(path="/", route_handlers=handlers, exception_handlers={Refused: refuse, IssuanceLost: refuse})]
