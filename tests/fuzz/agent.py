"""The agent's socket as a listener for `tests.fuzz.api`: real server, real routes, simulated agent."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any

import msgspec
import requests
import trio
from requests.adapters import HTTPAdapter
from urllib3.response import HTTPResponse

from node.local.messages import Answer, Handler, Request
from node.local.openapi import document
from node.local.place import listen
from node.local.routes import handler
from node.local.server import serve
from protocol.openapi import Json
from tests.fuzz.api import Caller, Listener, Real
from tests.simulators.licensed import SimulatedAgent

URL = "http://cascadia"


class SocketAdapter(HTTPAdapter):
    """Sends each request over a new connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def send(self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> requests.Response:
        connection = HTTPConnection("cascadia")
        connection.sock = socket(AF_UNIX, SOCK_STREAM)
        connection.sock.settimeout(timeout)
        try:
            connection.sock.connect(str(self._path))
            body: Any = request.body
            connection.request(str(request.method), str(request.path_url), body, dict(request.headers))
            answer = connection.getresponse()
            raw = HTTPResponse(
                BytesIO(answer.read()),
                headers=dict(answer.getheaders()),
                status=answer.status,
                version=answer.version,
                preload_content=False,
                request_method=request.method,
            )
        finally:
            connection.close()
        return self.build_response(request, raw)


@contextmanager
def agent_listeners(directory: Path) -> Iterator[tuple[Listener, ...]]:
    """Two listeners: the socket for the agent's user, and the socket for other users."""
    described: Json = msgspec.json.decode(msgspec.json.encode(document()))
    ours = handler(SimulatedAgent())

    async def of_another_user(request: Request) -> Answer:
        return await ours(msgspec.structs.replace(request, privileged=False))

    handlers: dict[str, Handler] = {"the agent's user": ours, "another user": of_another_user}
    with ExitStack() as stack:
        made = []
        for number, (name, answers) in enumerate(handlers.items()):
            path = directory / f"{number}.sock"
            stack.enter_context(_served(path, answers))
            session = stack.enter_context(requests.Session())
            session.trust_env = False
            session.mount(URL, SocketAdapter(path))
            made.append(Listener("cascadia", URL, described, (Caller(name, session),), _real, frozenset({503})))
        yield tuple(made)


def _real(_method: str, path: str) -> Real:
    return Real({"name": "vision"} if "{name}" in path else {})


@contextmanager
def _served(path: Path, answers: Handler) -> Iterator[None]:
    """Serve from a thread that has its own loop."""
    started = threading.Event()
    scope = trio.CancelScope()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        listener = listen(path)
        started.set()
        with scope:
            await serve(listener, answers)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the server of the socket did not start")
    try:
        yield
    finally:
        tokens[0].run_sync_soon(scope.cancel)
        thread.join()
