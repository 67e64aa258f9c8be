"""Adapter: restricts an application to the requests that a plaintext listener may answer."""

from typing import Any

import msgspec

from cloud.http.listener import AsgiApp
from cloud.http.problems import Refusal
from protocol.problems import CONTENT_TYPE


def plaintext_only(app: AsgiApp, posts: tuple[str, ...] = ()) -> AsgiApp:
    """Restrict an application for a plaintext listener: it gets GET and HEAD, and POST to the paths in `posts`.

    Those paths answer with signed documents (OCSP) and carry out no command. Any other request is answered 405.
    """

    async def read_only(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or _may_be_plain(scope, posts):
            await app(scope, receive, send)
            return
        refusal = Refusal("method_not_allowed", "this listener is read-only")
        body = msgspec.json.encode(refusal.document())
        allow = b"POST" if scope["path"] in posts else b"GET, HEAD"
        headers = [
            (b"content-type", CONTENT_TYPE.encode("ascii")),
            (b"allow", allow),
            (b"content-length", str(len(body)).encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 405, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return read_only


def _may_be_plain(scope: Any, posts: tuple[str, ...]) -> bool:
    return scope["method"] in ("GET", "HEAD") or (scope["method"] == "POST" and scope["path"] in posts)
