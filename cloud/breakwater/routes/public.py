"""Routes: CRLs, OCSP and CA certificates for every client (RFC 5280 section 8, RFC 6960 appendix A).

They have a separate listener without TLS, because everything that it sends is signed. Other paths, methods and content
types are refused before the database is asked.
"""

import base64
import binascii
import hashlib
from datetime import datetime
from email.utils import format_datetime
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from litestar import Request, Response, post, route
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter
from litestar.types import Method

from cloud.breakwater.errors import IssuerError
from cloud.breakwater.pkix.ocsp import REQUEST_BYTES_MAX
from cloud.breakwater.revocation.crl_shards import OCSP_PATH, shard_of_path
from cloud.breakwater.revocation.ocsp_responder import KnownAuthorities, OcspResponder
from cloud.breakwater.revocation.public_crls import PublicCrls
from cloud.breakwater.routes.buckets import OCSP, PUBLIC
from cloud.breakwater.routes.health import healthz
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import Binary, Header, operation_options
from cloud.http.problems import Refusal

CRL_TYPE = "application/pkix-crl"
CA_TYPE = "application/pkix-cert"
REQUEST_TYPE = "application/ocsp-request"
RESPONSE_TYPE = "application/ocsp-response"
READS: list[Method] = ["GET", "HEAD"]
ASK_FIRST = "public, no-cache, max-age=0, must-revalidate, no-transform"
"""Cache-Control of CRLs and of OCSP answers (RFC 9111 section 5.2.2). A cache may store the answer. Before each use the
cache asks this server whether the ETag is still current. So no cache repeats `good` after a revocation. `max-age` is
for caches that know only RFC 5019 section 6.2."""
CA_CACHE_SECONDS = 86400
BASE64_CHARS_MAX = (REQUEST_BYTES_MAX + 2) // 3 * 4

AnyRequest = Request[Any, Any, Any]
OfAuthority = Annotated[str, PathParameter(description="Id of a CA, for example `nodes-1`.")]
CrlFile = Annotated[str, PathParameter(description="Number of the shard and `.crl`, for example `1.crl`.")]
CaFile = Annotated[str, PathParameter(description="Id of a CA and `.cer`, for example `nodes-1.cer`.")]
EncodedRequest = Annotated[
    str, PathParameter(description="OCSP request (RFC 6960) in base64 of DER, then percent-encoded.")
]
_NOT_MODIFIED = {304: ResponseSpec(None, description="The caller's copy, named by `If-None-Match`, is current.")}
_IF_NONE_MATCH = (Header("If-None-Match", "ETags of the copies that the caller has (RFC 9110 section 13.1.2)."),)
_OCSP_ANSWER = Binary(
    RESPONSE_TYPE, "An OCSP response. A request that cannot be answered gets a response with an error status."
)


def http_date(at: datetime) -> str:
    """A date as HTTP writes it (RFC 9110 section 5.6.7)."""
    return format_datetime(at, usegmt=True)


def _ask_first(this_update: datetime) -> dict[str, str]:
    """Return the headers of signed data that changes with a revocation.

    `Expires` is a date of the past, for caches that do not know Cache-Control (HTTP/1.0). The dates in the signed data
    say how long a client may trust the data.
    """
    date = http_date(this_update)
    return {"Cache-Control": ASK_FIRST, "Last-Modified": date, "Expires": date}


def _conditional(request: AnyRequest, content: bytes, media_type: str, headers: dict[str, str]) -> Response[bytes]:
    """The content, or 304 if the caller has a copy with the same ETag (RFC 9110 section 13.1.2)."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:40]}"'
    headers["ETag"] = tag
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(b"", status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


@route(
    "/crl/{authority:str}/{file:str}",
    http_method=READS,
    responses=_NOT_MODIFIED,
    opt=operation_options(
        ANONYMOUS,
        bucket=PUBLIC,
        refuses=("not_found",),
        headers=_IF_NONE_MATCH,
        answers=Binary(CRL_TYPE, "The CRL in DER."),
    ),
)
async def fetch_crl(
    authority: OfAuthority,
    file: CrlFile,
    request: AnyRequest,
    public_crls: Wired[PublicCrls],
) -> Response[bytes]:
    """Fetch the CRL of a shard, or of a root.

    The CRL names every certificate of the shard that was revoked before this request. Caches may store the CRL, and ask
    with `If-None-Match` before each use.
    """
    try:
        shard = shard_of_path(authority, file)
    except ValueError as error:
        raise Refusal("not_found", "no such CRL") from error
    try:
        published = await public_crls.find(authority, shard)
    except IssuerError as error:
        raise Refusal("unavailable", "this CRL cannot be made now", headers={"Retry-After": "1"}) from error
    if published is None:
        raise Refusal("not_found", "no such CRL")
    return _conditional(request, published.data, CRL_TYPE, _ask_first(published.this_update))


@route(
    "/ca/{file:str}",
    http_method=READS,
    responses=_NOT_MODIFIED,
    opt=operation_options(
        ANONYMOUS,
        bucket=PUBLIC,
        refuses=("not_found",),
        headers=_IF_NONE_MATCH,
        answers=Binary(CA_TYPE, "The certificate in DER."),
    ),
)
async def fetch_ca(file: CaFile, request: AnyRequest, authorities: Wired[KnownAuthorities]) -> Response[bytes]:
    """Fetch the certificate of a CA.

    Issued certificates name this address as the one of their issuer (authority information access).
    """
    authority = file.removesuffix(".cer")
    issuer = authorities.find(authority) if authority != file else None
    if issuer is None:
        raise Refusal("not_found", "no such CA")
    headers = {"Cache-Control": f"public, max-age={CA_CACHE_SECONDS}"}
    return _conditional(request, issuer.certificate_der, CA_TYPE, headers)


@post(
    OCSP_PATH,
    status_code=200,
    opt=operation_options(
        ANONYMOUS,
        bucket=OCSP,
        sends=Binary(REQUEST_TYPE, "An OCSP request (RFC 6960) in DER.", REQUEST_BYTES_MAX),
        answers=_OCSP_ANSWER,
    ),
)
async def ask_ocsp(request: AnyRequest, ocsp_responder: Wired[OcspResponder]) -> Response[bytes]:
    """Ask for the status of a certificate, with the OCSP request in the body.

    Caches must not store the answer.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != REQUEST_TYPE:
        raise Refusal("unsupported_media_type", f"send {REQUEST_TYPE}")
    body = await request.body()
    if len(body) > REQUEST_BYTES_MAX:
        raise Refusal("too_large", f"at most {REQUEST_BYTES_MAX} bytes are read")
    answered = await ocsp_responder.answer(body)
    return Response(answered.der, media_type=RESPONSE_TYPE, headers={"Cache-Control": "no-store"})


@route(
    OCSP_PATH + "/{encoded:path}",
    http_method=READS,
    responses=_NOT_MODIFIED,
    opt=operation_options(ANONYMOUS, bucket=OCSP, refuses=("too_large",), headers=_IF_NONE_MATCH, answers=_OCSP_ANSWER),
)
async def ask_ocsp_by_path(
    encoded: EncodedRequest, request: AnyRequest, ocsp_responder: Wired[OcspResponder]
) -> Response[bytes]:
    """Ask for the status of a certificate, with the OCSP request in the path.

    Caches may store the answer, and ask with `If-None-Match` before each use.
    """
    answered = await ocsp_responder.answer(_from_path(request, encoded))
    if answered.this_update is None:
        return Response(answered.der, media_type=RESPONSE_TYPE, headers={"Cache-Control": "no-store"})
    return _conditional(request, answered.der, RESPONSE_TYPE, _ask_first(answered.this_update))


def _from_path(request: AnyRequest, encoded: str) -> bytes:
    """The OCSP request in a path. Empty for a text that is not base64; the responder answers it as malformed.

    The path is read before it is decoded, because base64 has slashes and the router merges two of them into one.
    """
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode("ascii", "replace")
    text = unquote_to_bytes(raw.partition(b"?")[0].removeprefix(OCSP_PATH.encode("ascii") + b"/"))
    if len(text) > BASE64_CHARS_MAX:
        raise Refusal("too_large", f"a request has at most {REQUEST_BYTES_MAX} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


HANDLERS = (fetch_crl, fetch_ca, ask_ocsp, ask_ocsp_by_path, healthz)
