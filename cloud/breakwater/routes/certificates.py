"""Issuing. Who a certificate is for comes from the caller's own identity or from Fabric, never from the request's CSR."""

from typing import Any

from litestar import Request, get, post
from litestar.params import JSONBody

from cloud.breakwater.routes.access import caller, issuing
from cloud.breakwater.schemas import (
    PATH_DEVICE,
    PATH_RENEW_DEVICE,
    PATH_REVOKED_SERVICES,
    PATH_SERVICE,
    PATH_SESSION,
    Certificate,
    IssueNodeCertificate,
    IssueServiceCertificate,
    RenewDevice,
    RevokedServices,
)
from cloud.guard import NODE, current_node, current_service, service
from protocol.ids import SERVICE_NAMES

ANY_SERVICE = tuple(service(name) for name in SERVICE_NAMES)


@post(PATH_DEVICE, status_code=200, opt={"peers": (service("fabric"),)})
async def issue_device(data: JSONBody[IssueNodeCertificate], request: Request[Any, Any, Any]) -> Certificate:
    """A device certificate for an open generation."""
    return await issuing(request).issue_device(caller(request), data)


@post(PATH_SESSION, status_code=200, opt={"peers": (service("fabric"),)})
async def issue_session(data: JSONBody[IssueNodeCertificate], request: Request[Any, Any, Any]) -> Certificate:
    """A session certificate for an open generation."""
    return await issuing(request).issue_session(caller(request), data)


@post(PATH_SERVICE, status_code=200, opt={"peers": ANY_SERVICE})
async def issue_service(data: JSONBody[IssueServiceCertificate], request: Request[Any, Any, Any]) -> Certificate:
    """A certificate for the calling service itself."""
    return await issuing(request).issue_service(current_service(request).name, data)


@post(PATH_RENEW_DEVICE, status_code=200, opt={"peers": (NODE,)})
async def renew_device(data: JSONBody[RenewDevice], request: Request[Any, Any, Any]) -> Certificate:
    """A new device certificate for the calling node's generation and key."""
    peer = current_node(request)
    return await issuing(request).renew_device(peer.spiffe, peer.generation, data)


@get(PATH_REVOKED_SERVICES, opt={"peers": ANY_SERVICE})
async def revoked_services(request: Request[Any, Any, Any]) -> RevokedServices:
    """Service certificates that must not be believed."""
    return RevokedServices(await issuing(request).revoked_services())


HANDLERS = (issue_device, issue_session, issue_service, renew_device, revoked_services)
