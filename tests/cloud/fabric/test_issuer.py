"""`cloud.fabric.issuer`: which error each answer of Breakwater, or a missing answer, becomes."""

from typing import Any, cast

import msgspec
import pytest

from cloud.contracts.breakwater import GenerationOpened
from cloud.fabric.errors import IssuerRefused, IssuerUnavailable, TooOften
from cloud.fabric.issuer import RETRY_SECONDS, HttpIssuer
from cloud.mtls.client import Answer, CallError, CloudClient, ServerRefused, Unreachable
from protocol.ids import NodeId, TenantId, make_id
from protocol.problems import CONTENT_TYPE, KINDS, document

TENANT = TenantId(make_id("ten", 1, bytes(10)))
NODE = NodeId(make_id("node", 1, bytes(10)))


class Canned:
    """A client that returns one answer, or fails."""

    def __init__(self, answer: Answer | CallError) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    async def call(self, method: str, path: str, body: object = None, **options: Any) -> Answer:
        self.asked.append((method, path))
        if isinstance(self.answer, CallError):
            raise self.answer
        return self.answer


def ok(body: object) -> Answer:
    return Answer(200, {"content-type": "application/json"}, msgspec.json.encode(body))


def problem(code: str) -> Answer:
    kind = KINDS[code]
    return Answer(kind.status, {"content-type": CONTENT_TYPE}, msgspec.json.encode(document(kind, "why")))


async def ask(answer: Answer | CallError) -> Canned:
    client = Canned(answer)
    await HttpIssuer(cast(CloudClient, client)).open_generation(TENANT, NODE, 1)
    return client


async def test_an_answer() -> None:
    assert (await ask(ok(GenerationOpened(1)))).asked == [("POST", "/v1/generations/open")]


@pytest.mark.parametrize("code", ["conflict", "csr_refused", "generation_closed", "peer_refused", "invalid"])
async def test_a_conclusive_refusal(code: str) -> None:
    with pytest.raises(IssuerRefused, match="why") as refused:
        await ask(problem(code))
    assert refused.value.code == code


@pytest.mark.parametrize(
    "answer",
    [
        problem("unavailable"),
        problem("internal"),
        Unreachable("gone"),
        ServerRefused("another"),
        Answer(502, {"content-type": "text/html"}, b"<html>"),
        Answer(200, {"content-type": "application/json"}, b"{}"),
    ],
)
async def test_an_answer_that_decides_nothing(answer: Answer | CallError) -> None:
    with pytest.raises(IssuerUnavailable):
        await ask(answer)


async def test_a_limit_of_the_issuer_is_a_limit_and_no_failure() -> None:
    with pytest.raises(TooOften) as refused:
        await ask(problem("rate_limited"))
    assert refused.value.wait == RETRY_SECONDS
