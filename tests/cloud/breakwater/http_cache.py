"""A shared HTTP cache in front of a server, as RFC 9111 describes it. Tests ask it what a client behind a proxy gets."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx

HEURISTIC_SHARE = 0.1
"""RFC 9111 section 4.2.2: an answer without a life is fresh for this share of the time since `Last-Modified`."""


@dataclass
class _Stored:
    body: bytes
    headers: httpx.Headers
    at: datetime


@dataclass
class SharedCache:
    """Stores answers to GET requests for every client. `filled` counts stored bodies, `confirmed` counts 304 answers.

    The cache keeps answers for as long as the headers permit. It reuses a stale answer only after the server has
    confirmed the ETag.
    """

    http: httpx.AsyncClient
    now: Callable[[], datetime]
    filled: int = 0
    confirmed: int = 0
    _stored: dict[str, _Stored] = field(default_factory=dict)

    async def get(self, path: str) -> bytes:
        """Return the body that a client behind the cache gets."""
        known = self._stored.get(path)
        if known is not None and self._is_fresh(known):
            return known.body
        condition = {} if known is None else {"if-none-match": known.headers["etag"]}
        answer = await self.http.get(path, headers=condition)
        if known is not None and answer.status_code == 304:
            self.confirmed += 1
            known.headers.update(answer.headers)
            known.at = self.now()
            return known.body
        assert answer.status_code == 200, answer.text
        if "no-store" not in _directives(answer.headers) and "private" not in _directives(answer.headers):
            self.filled += 1
            self._stored[path] = _Stored(answer.content, answer.headers, self.now())
        return answer.content

    def _is_fresh(self, known: _Stored) -> bool:
        directives = _directives(known.headers)
        if "no-cache" in directives:
            return False
        return (self.now() - known.at).total_seconds() < _life_seconds(directives, known)


def _life_seconds(directives: dict[str, str], known: _Stored) -> float:
    """The life of an answer (RFC 9111 section 4.2.1)."""
    for name in ("s-maxage", "max-age"):
        if name in directives:
            return float(directives[name])
    if "expires" in known.headers:
        return (parsedate_to_datetime(known.headers["expires"]) - known.at).total_seconds()
    if "last-modified" in known.headers:
        return (known.at - parsedate_to_datetime(known.headers["last-modified"])).total_seconds() * HEURISTIC_SHARE
    return 0.0


def _directives(headers: httpx.Headers) -> dict[str, str]:
    parts = (each.strip().lower().partition("=") for each in headers.get("cache-control", "").split(","))
    return {name: value for name, _, value in parts if name}
