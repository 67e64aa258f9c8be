"""`cloud.http.conditions`: entity tags, and the tags that a changing request must send."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from litestar import Request, get, put
from litestar.params import JSONBody

from cloud.http.app import make_app
from cloud.http.conditions import IF_MATCH_CHARS_MAX, etag_of, if_match_of, matches, tagged
from cloud.http.guard import ANONYMOUS, Guard
from cloud.http.problems import Refusal
from cloud.process.serve import Listener
from tests.cloud.world import Order, World, connected, listening, port_of, unit_of


class Thing(msgspec.Struct, frozen=True):
    name: str
    at: datetime
    labels: dict[str, str] = {}


THING = Thing("a", datetime(2026, 1, 2, tzinfo=UTC), {"b": "1", "a": "2"})


def test_a_tag_depends_on_every_value_and_on_nothing_else() -> None:
    assert etag_of(THING) == '"hOOB8q_ADUl5a51qprKH8A"'
    assert etag_of(msgspec.structs.replace(THING, labels={"a": "2", "b": "1"})) == etag_of(THING)
    others: list[dict[str, Any]] = [
        {"name": "b"},
        {"at": datetime(2026, 1, 2, 0, 0, 0, 1, tzinfo=UTC)},
        {"labels": {"a": "2"}},
    ]
    tags = {etag_of(msgspec.structs.replace(THING, **other)) for other in others}
    assert len({*tags, etag_of(THING)}) == 4


def test_a_change_from_this_process_has_no_condition() -> None:
    assert matches(None, THING)
    assert matches(frozenset({'"other"', etag_of(THING)}), THING)
    assert not matches(frozenset({'"other"'}), THING)
    assert not matches(frozenset(), THING)


@get("/order", opt={"peers": (ANONYMOUS,)}, after_request=tagged)
async def read() -> Order:
    return Order(1)


@put("/order", opt={"peers": (ANONYMOUS,)}, after_request=tagged)
async def change(data: JSONBody[Order], request: Request[Any, Any, Any]) -> Order:
    if not matches(if_match_of(request), Order(1)):
        raise Refusal("changed_since_read")
    return data


CURRENT = etag_of(Order(1))
VALUES: list[tuple[str | None, int, str]] = [
    (CURRENT, 200, ""),
    (f'"x" , {CURRENT}', 200, ""),
    (f'"with,comma",{CURRENT}', 200, ""),
    (None, 428, "if_match_required"),
    ("", 428, "if_match_required"),
    ("*", 428, "if_match_required"),
    ('"x"', 412, "changed_since_read"),
    (f"W/{CURRENT}", 412, "changed_since_read"),
    (CURRENT.strip('"'), 400, "malformed"),
    (f"{CURRENT},", 400, "malformed"),
    ('"x', 400, "malformed"),
    (f'"{"x" * IF_MATCH_CHARS_MAX}"', 400, "malformed"),
]


async def _exchanged(value: str | None) -> tuple[int, str, str]:
    world = World()
    app = make_app((read, change), Guard(trust=lambda: world.trust, checks=world, now=world.now))
    async with (
        listening(unit_of(Listener(app, "127.0.0.1", 0, world.tls))) as servers,
        connected(port_of(servers[0]), world.client_context()) as client,
    ):
        assert (await client.ask("/order")).headers["etag"] == CURRENT
        headers = {} if value is None else {"if-match": value}
        answer = await client.ask("/order", "PUT", headers, b'{"count": 2}')
        code = answer.problem.code if answer.status >= 400 else ""
        return answer.status, code, answer.headers.get("etag", "")


@pytest.mark.parametrize(("value", "status", "code"), VALUES)
def test_a_change_names_the_state_that_it_changes(value: str | None, status: int, code: str) -> None:
    tag = etag_of(Order(2)) if status == 200 else ""
    assert asyncio.run(_exchanged(value)) == (status, code, tag)
