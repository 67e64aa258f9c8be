"""What every route of this service needs: the issuer behind it and the caller in front of it."""

from typing import Any

from litestar import Request

from cloud.breakwater.service import Issuing
from cloud.guard import current_service


def issuing(request: Request[Any, Any, Any]) -> Issuing:
    """The wired issuer of this application."""
    it: Issuing = request.app.state["it"]
    return it


def caller(request: Request[Any, Any, Any]) -> str:
    """The calling service, as records and audit name it."""
    return f"service/{current_service(request).name}"
