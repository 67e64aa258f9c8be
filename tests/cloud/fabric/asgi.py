"""Helper: calls an application over the parts of a test, without a socket. The client certificate decides the peer."""

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import msgspec
from litestar import Litestar

from cloud.fabric.app import make_api
from cloud.fabric.peer_records import PeerRecords
from cloud.http.guard import Guard
from cloud.mtls.peer import TLS_EXTENSION, TlsSession
from protocol.problems import ProblemDocument
from tests.cloud.fabric.support import World
from tests.documented import check_documented

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes

    def into(self, kind: type[T]) -> T:
        return msgspec.json.decode(self.body, type=kind)

    @property
    def code(self) -> str:
        """The code of the problem document."""
        return self.into(ProblemDocument).code


@dataclass
class Api:
    """The application, with a method that sends requests to it."""

    app: Litestar
    document: str = "fabric"
    """The name of the API document that describes the answers."""

    async def ask(
        self, method: str, path: str, body: object = None, *, certificate: bytes | None = None, token: str = ""
    ) -> Answer:
        """Send one request. Bytes are sent unchanged, any other body as JSON. `certificate` is the client's, in DER.

        `path` is percent-encoded and may have a query.
        """
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        if token:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "https",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {TLS_EXTENSION: TlsSession(certificate)},
        }
        received: list[dict[str, Any]] = [{"type": "http.request", "body": content, "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not received:
                await asyncio.Event().wait()
            return received.pop()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(cast(Any, scope), cast(Any, receive), cast(Any, send))
        answer = Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]))
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        check_documented(self.document, method, path, answer.status, answered, answer.body)
        return answer


def api_of(world: World) -> Api:
    """The API as the wiring makes it, over the parts of `world`. No service is revoked."""
    parts = world.parts
    guard = Guard(
        trust=lambda: parts.current_trust.trust,
        checks=PeerRecords(is_revoked=frozenset[int]().__contains__, nodes=parts.stores.nodes),
        now=world.clock,
        operator_of=parts.operators.tokens.authenticate,
        closed=parts.nodes.statements.closed_answer,
        waits=world.parts.restored.waits,
    )
    return Api(make_api(guard, parts.services()))
