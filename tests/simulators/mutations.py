"""Mutations of the cloud's answers, and a simulator of Fabric that mutates its own.

A mutation takes one genuine answer, or one file of the published trust, and makes a wrong one: other bytes, another
JSON, another status, another HTTP message, a token that is signed but is for another node. No mutation makes a
statement that Fabric did not sign for this node. So an agent that receives mutated answers must keep its state.
"""

import base64
import json
import random
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import trio

from protocol.ids import NodeId, make_id
from protocol.signed import statements
from protocol.signed.envelope import key_id, seal
from tests.simulators.fabric import DAY, DOMAIN, Fabric, Leaf, Reply, Request, authority, problem, utc_now
from tests.simulators.repository import Repository

NESTED = 3000
"""Levels of a deep JSON document. A parser that recurses without a bound ends at about 1000."""
LONG = 300_000
"""Bytes of a long answer. It is above every limit of the node."""

_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**30), 0.5, 1e308)
_TEXTS = ("", "\x00", "\x1b[31m", "a" * 10_000, "\ud7ff\ue000", "../../etc/passwd", "2026-02-30T00:00:00Z", "https://[")
_STATUSES = (100, 200, 204, 206, 301, 304, 400, 401, 403, 404, 409, 429, 500, 503, 599, 999)
_HEADERS: tuple[tuple[str, str], ...] = (
    ("content-length", "-1"),
    ("content-length", "99999999999999999999"),
    ("content-length", "x"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "gzip"),
    ("content-encoding", "gzip"),
    ("content-encoding", "br"),
    ("content-type", "text/html; charset=\x00"),
    ("location", "https://127.0.0.1:1/"),
    ("retry-after", "99999999999"),
    ("retry-after", "-5"),
    ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("date", "yesterday"),
    ("connection", "upgrade"),
    ("set-cookie", "a=b"),
    ("x", "y" * 70_000),
)


_STRANGER = authority("stranger")


class Mutator:
    """Chooses a mutation and makes it. `made` counts the mutations by kind; `last` describes the latest ones."""

    def __init__(self, choose: random.Random) -> None:
        self._choose = choose
        self.made: Counter[str] = Counter()
        self.last: list[str] = []
        self._earlier: list[bytes] = []

    def note(self, kind: str, what: object) -> None:
        """Count a mutation, and keep its description for a finding."""
        self.made[kind] += 1
        self.last = [*self.last[-9:], f"{kind}: {str(what)[:600]}"]

    def damaged(self, data: bytes) -> bytes:
        """The same bytes with a few changed, removed, repeated or added."""
        choose, changed = self._choose, bytearray(data or b"{}")
        for _ in range(choose.choice((1, 1, 1, 2, 5))):
            at = choose.randrange(len(changed) + 1)
            end = min(len(changed), at + choose.choice((1, 1, 4, 50)))
            match choose.randrange(5):
                case 0 if at < len(changed):
                    changed[at] ^= 1 << choose.randrange(8)
                case 1:
                    del changed[at:end]
                case 2:
                    changed[at:at] = changed[at:end]
                case 3:
                    del changed[at:]
                case _:
                    changed[at:at] = choose.randbytes(choose.choice((1, 4, 200)))
        return bytes(changed)

    def document(self, data: bytes) -> bytes:
        """The same JSON document with one member changed, removed or added; other bytes if it is no JSON."""
        try:
            document = json.loads(data)
        except ValueError:
            return self.damaged(data)
        places = list(_places(document))
        if not places:
            return self._encoded(self._value(document))
        container, key = self._choose.choice(places)
        match self._choose.randrange(8):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[self._choose.choice(_TEXTS)] = self._value(None)
            case 2:
                return self._encoded(document).replace(b":", b':{"a":' * NESTED, 1)
            case 3:
                container[key] = "NESTED"
                return self._encoded(document).replace(b'"NESTED"', b"[" * NESTED + b"]" * NESTED)
            case _:
                container[key] = self._value(container[key])
        return self._encoded(document)

    def chain(self, data: bytes) -> bytes:
        """The same JSON document with one element more in a list: odd bytes, a damaged certificate, a stranger's."""
        try:
            document = json.loads(data)
        except ValueError:
            return self.damaged(data)
        lists = [container[key] for container, key in _places(document) if isinstance(container[key], list)]
        lists = [each for each in lists if each and isinstance(each[0], str)]
        if not lists:
            return self.document(data)
        chosen = self._choose.choice(lists)
        added = (
            base64.b64encode(self._choose.randbytes(self._choose.choice((0, 1, 40, 900)))).decode(),
            self._text(self._choose.choice(chosen)),
            base64.b64encode(_STRANGER.der).decode(),
            base64.b64encode(_STRANGER.der + b"\x00").decode(),
            chosen[0],
        )
        at = self._choose.choice((0, 1, len(chosen), len(chosen)))
        chosen[at:at] = [self._choose.choice(added)] * self._choose.choice((1, 1, 1, 30))
        return self._encoded(document)

    def _encoded(self, document: object) -> bytes:
        return json.dumps(document).encode("utf-8", "surrogatepass")

    def _value(self, before: object) -> Any:
        """A value in place of `before`: of another type, out of range, or nearly the same."""
        choose = self._choose
        if isinstance(before, str) and before and choose.random() < 0.6:
            return self._text(before)
        if isinstance(before, list) and choose.random() < 0.5:
            return before * choose.choice((2, 50)) if before else [None]
        return choose.choice((None, True, [], {}, choose.choice(_NUMBERS), choose.choice(_TEXTS), [{"a": []}]))

    def _text(self, before: str) -> str:
        if before.count(".") == 2 and self._choose.random() < 0.5:
            return self.token(before)
        if len(before) > 60 and self._choose.random() < 0.7:
            try:
                damaged = self.damaged(base64.b64decode(before, validate=True))
            except ValueError:
                return self.damaged(before.encode()).decode("latin-1")
            return base64.b64encode(damaged).decode()
        return self.damaged(before.encode()).decode("latin-1")

    def token(self, token: str) -> str:
        """A JWS with one part changed, and its signature kept or taken away."""
        parts = token.split(".")
        part = self._choose.randrange(3)
        try:
            raw = base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4))
        except ValueError:
            return self.damaged(token.encode()).decode("latin-1")
        changed = self.document(raw) if part < 2 else self.damaged(raw)
        parts[part] = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
        if self._choose.random() < 0.1:
            parts[2] = ""
        return ".".join(parts)

    def answer(self, genuine: Reply) -> Reply | bytes:
        """A wrong answer in place of a genuine one."""
        choose = self._choose
        self._earlier = [*self._earlier[-30:], genuine.body]
        kinds: tuple[tuple[str, Callable[[], Reply | bytes]], ...] = (
            ("document", lambda: self._body(genuine, self.document(genuine.body))),
            ("document", lambda: self._body(genuine, self.document(genuine.body))),
            ("chain", lambda: self._body(genuine, self.chain(genuine.body))),
            ("bytes", lambda: self._body(genuine, self.damaged(genuine.body))),
            ("earlier", lambda: self._body(genuine, choose.choice(self._earlier))),
            ("status", lambda: _message(Reply(choose.choice(_STATUSES), genuine.body, genuine.headers))),
            ("refusal", lambda: problem(choose.choice(("generation_closed", "certificate_refused", "not_found")))),
            ("headers", lambda: _message(genuine, (choose.choice(_HEADERS),))),
            ("http", lambda: self.damaged(_message(genuine))),
            ("long", lambda: _message(Reply(200, genuine.body + b" " * LONG))),
            ("empty", lambda: b""),
        )
        kind, make = choose.choice(kinds)
        made = make()
        self.note(kind, made)
        return made

    def _body(self, genuine: Reply, body: bytes) -> Reply:
        return Reply(genuine.status, body, genuine.headers)

    def leaf(self, leaf: Leaf, wrong: tuple[Leaf, ...]) -> Leaf:
        """The leaf of a connection: mostly the genuine one."""
        if self._choose.random() > 0.03:
            return leaf
        self.note("leaf", "another server certificate")
        return self._choose.choice(wrong)

    def pick(self, kinds: Sequence[str]) -> str:
        """One of the kinds."""
        return self._choose.choice(kinds)

    def happens(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return self._choose.random() < probability


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) of a JSON document."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield document, key
            yield from _places(value)
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield document, index
            yield from _places(value)


def _message(answer: Reply, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
    headers = (*answer.headers, ("content-length", str(len(answer.body))), *extra)
    lines = [f"HTTP/1.1 {answer.status} x", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1") + answer.body


class MutatingFabric(Fabric):
    """Fabric that mutates `share` of its answers, from 0 to 1. `said` has every genuine statement."""

    def __init__(self, mutator: Mutator) -> None:
        super().__init__()
        self.mutator = mutator
        self.share = 0.0
        self.said: list[str] = []
        self._wrong = (
            self.service_leaf("fabric", issuer=_STRANGER),
            self.service_leaf("breakwater"),
            self.service_leaf("fabric", not_after=utc_now() - timedelta(days=1), not_before=utc_now() - 2 * DAY),
            self.service_leaf("fabric", not_before=utc_now() + DAY, not_after=utc_now() + 2 * DAY),
            self.service_leaf("fabric", uris=("spiffe://\x7f", "not a uri")),
            Leaf(self.leaves["fabric"].key, (self.leaves["fabric"].chain[0], _STRANGER.der)),
        )

    def say(self, token: str) -> None:
        self.said.append(token)
        super().say(token)

    def _context(self, leaf: Leaf) -> ssl.SSLContext:
        return super()._context(self.mutator.leaf(leaf, self._wrong) if self.share else leaf)

    async def answer(self, request: Request) -> Reply | bytes:
        if not self.mutator.happens(self.share):
            return await super().answer(request)
        if request.path.endswith("/events") and self.mutator.happens(0.7):
            # The genuine answer waits for a change.
            return self.mutator.answer(Reply(200, b'{"cursor":%d}' % self.cursor))
        if request.path.endswith(("/statement", "/sessions", "/confirm")) and self.mutator.happens(0.2):
            return await self._with_wrong_statement(request)
        with trio.move_on_after(0.3):
            genuine = await super().answer(request)
            if isinstance(genuine, bytes):
                return genuine
            return self.mutator.answer(genuine)
        return b""

    async def _with_wrong_statement(self, request: Request) -> Reply | bytes:
        """A signed and fresh statement that does not count: of another node or generation, or an earlier one."""
        kinds: dict[str, Callable[[], str]] = {
            "signed: earlier": lambda: self.said[0],
            "signed: other node": lambda: self._for(node=NodeId(make_id("node", 1, bytes(10)))),
            "signed: other domain": lambda: self._for(trust_domain="other.internal"),
            "signed: other generation": lambda: self._for(generation=self.confirmed + 7),
            "signed: key of another type": lambda: self._for(key="freshness"),
            "signed: other generation revoked": lambda: self._for(generation=self.confirmed + 7, revoked=True),
        }
        kind = self.mutator.pick(sorted(kinds))
        genuine = self.statement
        self.statement = kinds[kind]()
        self.mutator.note(kind, self.statement)
        try:
            return await super().answer(request)
        finally:
            self.statement = genuine

    def _for(self, *, key: str = "", revoked: bool = False, **changes: object) -> str:
        seq = self.seq
        token = self.revocation() if revoked else self.lease()
        self.seq = seq
        statement = statements.verify_statement(token, self.ring, DOMAIN).statement
        changed = msgspec.structs.replace(statement, **changes)
        signer = self.keys[key or ("revocation" if revoked else "lease")]
        return seal(statements.typ_of(changed), key_id(signer.public_key()), statements.payload_of(changed), signer)


class MutatingRepository(Repository):
    """A repository that mutates `share` of its files, from 0 to 1."""

    def __init__(self, content: dict[str, bytes], now: datetime, mutator: Mutator) -> None:
        super().__init__(content, now)
        self.mutator = mutator
        self.share = 0.0

    def file(self, path: str) -> bytes | None:
        genuine = super().file(path)
        if genuine is None or not self.mutator.happens(self.share):
            return genuine
        mutated = self.mutator.document(genuine)
        self.mutator.note("published file", path)
        return mutated
