"""Routes: EST (RFC 7030). They read and write the bodies; `issuance/est.py` decides."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.exceptions import HTTPException

from cloud.breakwater import errors
from cloud.breakwater.errors import EnrolmentRefused
from cloud.breakwater.issuance.est import Est
from cloud.breakwater.routes.buckets import ENROLMENT, EST_FILES, REENROLMENT
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS, BASIC, ENROLLING, NODE, current_credentials, current_peer, service
from cloud.http.openapi import Binary, Header, operation_options
from cloud.http.problems import Refusal, refusal_of
from protocol.ids import SERVICE_NAMES
from protocol.messages.est import (
    BASE64_BYTES_MAX,
    CSRATTRS_DER,
    HEADER_REQUEST,
    PATH_CACERTS,
    PATH_CSRATTRS,
    PATH_SIMPLEENROLL,
    PATH_SIMPLEREENROLL,
    REQUEST_ID,
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
from protocol.problems import Code

AnyRequest = Request[Any, Any, Any]

ANY_SERVICE = tuple(service(name) for name in SERVICE_NAMES)
_CSR = Binary(TYPE_PKCS10, "A certificate request (PKCS#10) in base64 of DER, with or without lines.", BASE64_BYTES_MAX)
_CERTIFICATE = Binary(TYPE_PKCS7, "The certificate, as certs-only CMS (PKCS#7) in base64 of DER.")
_ISSUANCE: tuple[type[Exception] | Code, ...] = ("malformed", errors.CsrRefused, errors.NotAdmitted, errors.Conflict)


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


@get(
    PATH_CACERTS,
    opt=operation_options(
        ANONYMOUS,
        bucket=EST_FILES,
        answers=Binary(TYPE_CACERTS, "The CA certificates, as certs-only CMS (PKCS#7) in base64 of DER."),
    ),
)
async def cacerts(est: Wired[Est]) -> Response[bytes]:
    """Fetch the trusted CA certificates (RFC 7030 section 4.1).

    The client must have authenticated this server by a trust anchor that it has already.
    """
    return _answer(encode_certs_only(est.ca_certificates()), TYPE_CACERTS, cache="no-cache")


@get(
    PATH_CSRATTRS,
    opt=operation_options(
        ANONYMOUS, bucket=EST_FILES, answers=Binary(TYPE_CSRATTRS, "CsrAttrs (RFC 8951) in base64 of DER.")
    ),
)
async def csrattrs() -> Response[bytes]:
    """Fetch the attributes that a certificate request should have (RFC 7030 section 4.5)."""
    return _answer(encode_base64(CSRATTRS_DER), TYPE_CSRATTRS, cache="no-cache")


@post(
    PATH_SIMPLEENROLL,
    status_code=200,
    opt=operation_options(
        ENROLLING,
        bucket=ENROLMENT,
        refuses=(*_ISSUANCE, errors.EnrolmentRefused, errors.TriedTooOften),
        sends=_CSR,
        answers=_CERTIFICATE,
    ),
)
async def simpleenroll(request: AnyRequest, est: Wired[Est]) -> Response[bytes]:
    """Enrol a service: issue its first certificate for its one-time secret (RFC 7030 section 4.2.1).

    The secret is good for one certificate request. A repeat of that request gets the same certificate.
    """
    credentials = current_credentials(request)
    csr = await _csr(request)
    host = request.client.host if request.client is not None else ""
    try:
        leaf = await est.enrol(credentials, csr, host)
    except EnrolmentRefused as error:
        raise Refusal("enrolment_refused", str(error), headers=BASIC) from error
    return _answer(encode_certs_only((leaf,)), TYPE_PKCS7)


@post(
    PATH_SIMPLEREENROLL,
    status_code=200,
    opt=operation_options(
        *ANY_SERVICE,
        NODE,
        bucket=REENROLMENT,
        refuses=(*_ISSUANCE, errors.GenerationClosed, errors.ValueRefused, errors.RenewedTooOften),
        sends=_CSR,
        headers=(Header(HEADER_REQUEST, "Name of the request.", f"^{REQUEST_ID.pattern}$"),),
        answers=_CERTIFICATE,
    ),
)
async def simplereenroll(request: AnyRequest, est: Wired[Est]) -> Response[bytes]:
    """Renew a certificate of the peer (RFC 7030 section 4.2.2).

    A service gets its next certificate, a node its next device certificate. The header `Idempotency-Key` names the
    request: a repeat with the same name and CSR gets the same certificate.
    """
    peer = current_peer(request)
    csr = await _csr(request)
    names = request.headers.getall(HEADER_REQUEST.lower(), [])
    if len(names) > 1 or names == [""]:
        raise Refusal("malformed", f"send one {HEADER_REQUEST}, or none")
    leaf = await est.reenrol(peer, csr, names[0] if names else "")
    return _answer(encode_certs_only((leaf,)), TYPE_PKCS7)


HANDLERS = (cacerts, csrattrs, simpleenroll, simplereenroll)
