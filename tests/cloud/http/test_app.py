"""The application of a service decodes bodies strictly, and gives handlers the parts of the service by name."""

import asyncio
import json

import pytest
from litestar import Litestar, get
from litestar.params import FromPath

from cloud.http.app import QUERY_NAME_CHARS_MAX, Wired, make_app
from cloud.http.guard import ANONYMOUS, Guard
from cloud.process.serve import Listener
from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseNotWritable,
    DiskFull,
    OutcomeUnknown,
    StorageError,
    StorageNotOpen,
    TransactionLost,
)
from protocol.limits import REQUEST_BODY_BYTES_MAX
from tests.cloud.world import World, ask, connected, listening, port_of, unit_of

BODIES: list[tuple[bytes, dict[str, str], int, str]] = [
    (b'{"count": 3}', {}, 200, ""),
    (b'{"count": 3}', {"Content-Type": "application/json; charset=utf-8"}, 200, ""),
    (b'{"count": 3', {}, 400, "malformed"),
    (b"", {}, 400, "malformed"),
    (b"\xff\xfe", {}, 400, "malformed"),
    (b'{"count": 3, "label": ' + b"[" * 20_000, {}, 422, "invalid"),
    (b'{"count": "3"}', {}, 422, "invalid"),
    (b'{"count": 3.5}', {}, 422, "invalid"),
    (b'{"count": 3, "extra": 1}', {}, 422, "invalid"),
    (b'{"label": "x"}', {}, 422, "invalid"),
    (b"[]", {}, 422, "invalid"),
    # PostgreSQL has no U+0000 in texts.
    (b'{"count": 3, "label": "a\\u0000"}', {}, 422, "invalid"),
    (b'{"count": 3, "label": "a\\\\\\u0000"}', {}, 422, "invalid"),
    (b'{"count": 3, "label": "a\\u001b[2J"}', {}, 422, "invalid"),
    (b'{"count": 3, "label": "a\\ud800"}', {}, 400, "malformed"),
    (b'{"count": 1000000}', {}, 422, "invalid"),
    (b'{"count": 3}', {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    (b"count=3", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    (b"{" + b" " * REQUEST_BODY_BYTES_MAX + b"}", {}, 413, "too_large"),
]


class Greeter:
    def __init__(self, word: str) -> None:
        self.word = word


@get("/greeting", opt={"peers": (ANONYMOUS,)})
async def greeting(greeter: Wired[Greeter]) -> dict[str, str]:
    return {"greeting": greeter.word}


def guard() -> Guard:
    world = World()
    return Guard(trust=lambda: world.trust, checks=world, now=world.now)


async def asked(app: Litestar, path: str) -> bytes:
    listener = unit_of(Listener(app, "127.0.0.1", 0, None))
    async with listening(listener) as servers, connected(port_of(servers[0]), None) as client:
        return (await client.ask(path)).body


async def test_two_applications_of_one_process_have_parts_of_their_own() -> None:
    apps = [make_app((greeting,), guard(), services={"greeter": Greeter(word)}) for word in ("one", "two")]
    for app, word in zip(apps, ("one", "two"), strict=True):
        assert await asked(app, "/greeting") == f'{{"greeting":"{word}"}}'.encode()


async def test_a_part_is_never_taken_from_the_request() -> None:
    app = make_app((greeting,), guard(), services={"greeter": Greeter("mine")})
    assert b"no parameter 'greeter'" in await asked(app, "/greeting?greeter=theirs")
    assert await asked(app, "/greeting") == b'{"greeting":"mine"}'


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/things/1?limit=3&colour=red", "query: this route has no parameter 'colour'"),
        ("/things/1?limit=3&limit=4", "query: the parameter 'limit' was sent twice"),
        ("/things/1?number=3", "query: this route has no parameter 'number'"),
        ("/things/1?colour", "query: this route has no parameter 'colour'"),
        ("/things/1?%1b%5b2J=1", "query: this route has no parameter '(not printable)'"),
        (f"/things/1?{'x' * 300}=1", f"query: this route has no parameter '{'x' * QUERY_NAME_CHARS_MAX}'"),
        ("/open?x=1", "query: this route has no parameter 'x'"),
    ],
)
def test_an_unknown_parameter_of_the_query_is_refused_by_name(path: str, detail: str) -> None:
    problem = ask(path).problem
    assert (problem.code, problem.detail) == ("invalid", detail)


def test_a_known_parameter_of_the_query_is_read() -> None:
    assert ask("/things/1?limit=4").body == b"5"
    assert ask("/things/1?").body == b"4"


@pytest.mark.parametrize(("body", "headers", "status", "code"), BODIES)
def test_bodies(body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    answer = ask("/orders", "POST", headers, body)
    assert answer.status == status, answer.body
    if code:
        assert answer.problem.code == code
        assert answer.problem.next
        assert answer.headers["cache-control"] == "no-store"
    else:
        assert json.loads(answer.body) == {"count": 3, "label": ""}


def test_invalid_names_the_field() -> None:
    assert "$.count" in ask("/orders", "POST", body=b'{"count": "3"}').problem.detail


def test_an_endless_chunked_body_is_cut() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            client.writer.write(
                b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(3):
                client.writer.write(b"%x\r\n" % REQUEST_BODY_BYTES_MAX + b" " * REQUEST_BODY_BYTES_MAX + b"\r\n")
            assert (await client.answer()).problem.code == "too_large"

    asyncio.run(test())


def test_a_database_that_is_away_is_no_fault_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = ask("/away")
    assert (answer.status, answer.problem.code, answer.headers["retry-after"]) == (503, "unavailable", "1")
    assert b"10.0.0.9" not in answer.body
    (record,) = [record for record in caplog.records if record.name == "cascade.web"]
    assert record.exc_info is None


@get("/broken/{kind:str}", opt={"peers": (ANONYMOUS,)})
async def broken(kind: FromPath[str]) -> None:
    raise BROKEN[kind]("/var/lib/cascade/x.sqlite: no space")


BROKEN: dict[str, type[StorageError]] = {
    "full": DiskFull,
    "not-writable": DatabaseNotWritable,
    "lost": TransactionLost,
    "closing": StorageNotOpen,
    "busy": DatabaseBusy,
    "unknown": OutcomeUnknown,
}


def test_each_failure_of_a_database_is_the_documented_503(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        listener = unit_of(Listener(make_app([broken], guard()), "127.0.0.1", 0, None))
        async with listening(listener) as servers, connected(port_of(servers[0]), None) as client:
            for kind in BROKEN:
                answer = await client.ask(f"/broken/{kind}")
                assert (answer.status, answer.problem.code) == (503, "unavailable")
                assert int(answer.headers["retry-after"]) >= 1
                assert b"/var/lib" not in answer.body

    asyncio.run(test())
    records = [record for record in caplog.records if record.name == "cascade.web"]
    assert len(records) == len(BROKEN)
    assert all(record.exc_info is None for record in records)
