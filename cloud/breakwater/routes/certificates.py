"""Routes: Fabric orders certificates for nodes.

Fabric names the subject of a certificate; the CSR contributes its key alone. Renewals and certificates of services are
EST (`est.py`).
"""

from typing import Any

from litestar import Request, post
from litestar.params import JSONBody

from cloud.breakwater import errors
from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.routes.access import caller
from cloud.contracts.breakwater import PATH_DEVICE, PATH_SESSION, IssueNodeCertificate
from cloud.http.admission import SERVICES
from cloud.http.app import Wired
from cloud.http.guard import service
from cloud.http.openapi import operation_options
from protocol.messages.sessions import Certificate

_ISSUES = operation_options(
    service("fabric"),
    bucket=SERVICES,
    refuses=(errors.CsrRefused, errors.GenerationClosed, errors.Conflict, errors.ValueRefused),
)


@post(PATH_DEVICE, status_code=200, opt=_ISSUES)
async def issue_device(
    data: JSONBody[IssueNodeCertificate], request: Request[Any, Any, Any], issuing: Wired[Issuing]
) -> Certificate:
    """Issue a device certificate for an open generation.

    A repeat with the same `request` gets the same certificate.
    """
    return await issuing.issue_device(caller(request), data)


@post(PATH_SESSION, status_code=200, opt=_ISSUES)
async def issue_session(
    data: JSONBody[IssueNodeCertificate], request: Request[Any, Any, Any], issuing: Wired[Issuing]
) -> Certificate:
    """Issue a session certificate for an open generation.

    A repeat with the same `request` gets the same certificate.
    """
    return await issuing.issue_session(caller(request), data)


HANDLERS = (issue_device, issue_session)
