"""Routes of EST (RFC 7030): bodies of requests and answers, and who may send them. `issuance/est.py` decides."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.exceptions import HTTPException

from cloud.breakwater.errors import EnrolmentRefused
from cloud.breakwater.issuance.est import Est
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS, BASIC, ENROLLING, NODE, current_credentials, current_peer, service
from cloud.http.problems import Refusal, refusal_of
from protocol.ids import SERVICE_NAMES
from protocol.messages.est import (
    CSRATTRS_DER,
    HEADER_REQUEST,
    PATH_CACERTS,
    PATH_CSRATTRS,
    PATH_SIMPLEENROLL,
    PATH_SIMPLEREENROLL,
    TYPE_CACERTS,
    TYPE_CSRATTRS,
    TYPE_PKCS7,
    TYPE_PKCS10,
    EstError,
    decode_base64,
    encode_base64,
    encode_certs_only,
    media_type,
)

AnyRequest = Request[Any, Any, Any]

ANY_SERVICE = tuple(service(name) for name in SERVICE_NAMES)


def _answer(body: bytes, content_type: str, *, cache: str = "no-store") -> Response[bytes]:
    # RFC 8951 takes the meaning out of this header; there are clients that refuse an answer without it.
    headers = {"Content-Transfer-Encoding": "base64", "Cache-Control": cache}
    return Response(content=body, status_code=200, media_type=content_type, headers=headers)


async def _csr(request: AnyRequest) -> bytes:
    """The DER of the request's body. Raises Refusal."""
    if media_type(request.headers.get("content-type", "")) != TYPE_PKCS10:
        raise Refusal("unsupported_media_type", f"send {TYPE_PKCS10}")
    try:
        return decode_base64(await request.body())
    except EstError as error:
        raise Refusal("malformed", str(error)) from error
    except HTTPException as error:
        raise refusal_of(error) from error


@get(PATH_CACERTS, opt={"peers": (ANONYMOUS,)})
async def cacerts(est: Wired[Est]) -> Response[bytes]:
    """The trusted CAs (RFC 7030 section 4.1): over TLS that the asker has checked by another way."""
    return _answer(encode_certs_only(est.ca_certificates()), TYPE_CACERTS, cache="no-cache")


@get(PATH_CSRATTRS, opt={"peers": (ANONYMOUS,)})
async def csrattrs() -> Response[bytes]:
    """What a request should be like (RFC 7030 section 4.5)."""
    return _answer(encode_base64(CSRATTRS_DER), TYPE_CSRATTRS, cache="no-cache")


@post(PATH_SIMPLEENROLL, status_code=200, opt={"peers": (ENROLLING,)})
async def simpleenroll(request: AnyRequest, est: Wired[Est]) -> Response[bytes]:
    """A service's first certificate, for its one-time secret (RFC 7030 section 4.2.1)."""
    credentials = current_credentials(request)
    csr = await _csr(request)
    host = request.client.host if request.client is not None else ""
    try:
        leaf = await est.enrol(credentials, csr, host)
    except EnrolmentRefused as error:
        raise Refusal("enrolment_refused", str(error), headers=BASIC) from error
    return _answer(encode_certs_only((leaf,)), TYPE_PKCS7)


@post(PATH_SIMPLEREENROLL, status_code=200, opt={"peers": (*ANY_SERVICE, NODE)})
async def simplereenroll(request: AnyRequest, est: Wired[Est]) -> Response[bytes]:
    """The next certificate of the peer (RFC 7030 section 4.2.2): a service's own, or a node's device certificate."""
    peer = current_peer(request)
    csr = await _csr(request)
    names = request.headers.getall(HEADER_REQUEST.lower(), [])
    if len(names) > 1 or names == [""]:
        raise Refusal("malformed", f"send one {HEADER_REQUEST}, or none")
    leaf = await est.reenrol(peer, csr, names[0] if names else "")
    return _answer(encode_certs_only((leaf,)), TYPE_PKCS7)


HANDLERS = (cacerts, csrattrs, simpleenroll, simplereenroll)
