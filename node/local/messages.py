"""Values: requests and answers of the local socket, as its routes see them."""

from collections.abc import Awaitable, Callable

import msgspec

PATH_IMPORT = "/v1/license/import"
"""The one path whose request has a body that is read. Its callers are privileged."""

PATH_LEND = "/v1/state/lend"


class Request(msgspec.Struct, frozen=True):
    """A request as the routes see it. `privileged`: the caller is root or the agent's own user.

    `body` is the body of a request to PATH_IMPORT; it is empty for every other request. `user` is the caller's user id.
    """

    method: str
    path: str
    privileged: bool
    body: bytes = b""
    user: int = 0


class Answer(msgspec.Struct, frozen=True):
    """Status and body of an answer. `allow` has the methods of the path, for a 405.

    `sent` is called once the answer is sent, or the caller has gone.
    """

    status: int
    body: msgspec.Struct
    allow: tuple[str, ...] = ()
    sent: Callable[[], None] = lambda: None


class LocalProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A refusal or a failure (RFC 9457)."""

    title: str
    """Cause, for people."""
    status: int
    """HTTP status."""
    code: str
    """Code of the cause, for programs. Codes are never renamed."""
    next: str = ""
    """Next step, for people."""
    exit_code: int = 0
    """Exit code of the command of `cascadia` that made the request. Missing if the code alone decides."""


Handler = Callable[[Request], Awaitable[Answer]]


def problem(status: int, code: str, title: str) -> Answer:
    """An answer that refuses or reports a failure."""
    return Answer(status, LocalProblem(title=title, status=status, code=code))
