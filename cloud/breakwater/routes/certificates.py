"""Routes: Fabric has certificates issued for nodes. Who a certificate is for comes from Fabric, never from the CSR.

Renewals, and all that services ask for themselves, are EST (`est.py`).
"""

from typing import Any

from litestar import Request, post
from litestar.params import JSONBody

from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.routes.access import caller
from cloud.contracts.breakwater import PATH_DEVICE, PATH_SESSION, IssueNodeCertificate
from cloud.http.app import Wired
from cloud.http.guard import service
from protocol.messages.sessions import Certificate


@post(PATH_DEVICE, status_code=200, opt={"peers": (service("fabric"),)})
async def issue_device(
    data: JSONBody[IssueNodeCertificate], request: Request[Any, Any, Any], issuing: Wired[Issuing]
) -> Certificate:
    """A device certificate for an open generation."""
    return await issuing.issue_device(caller(request), data)


@post(PATH_SESSION, status_code=200, opt={"peers": (service("fabric"),)})
async def issue_session(
    data: JSONBody[IssueNodeCertificate], request: Request[Any, Any, Any], issuing: Wired[Issuing]
) -> Certificate:
    """A session certificate for an open generation."""
    return await issuing.issue_session(caller(request), data)


HANDLERS = (issue_device, issue_session)
