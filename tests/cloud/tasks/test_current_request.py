"""`cloud.tasks.current_request`: ids of requests, and the strict reading of `traceparent`."""

import asyncio
import re

import pytest

from cloud.tasks.current_request import (
    CurrentRequest,
    current_request,
    current_request_id,
    current_traceparent,
    enter,
    new_request,
)

TRACE, SPAN = "ab" * 16, "cd" * 8
MS = 1_764_547_200_000


def counting(count: int) -> bytes:
    return bytes(range(1, count + 1))


def made(*values: bytes) -> CurrentRequest:
    return new_request([(b"traceparent", value) for value in values], MS, counting)


def test_a_request_has_an_id_that_sorts_by_time() -> None:
    request = made()
    assert request.id == "019ad735-8400-7408-8304-05060708090a"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", request.id)
    assert new_request([], MS + 1, counting).id > request.id
    assert request.instance == f"urn:uuid:{request.id}"
    assert len({new_request([], MS).id for _ in range(100)}) == 100


def test_without_a_trace_a_request_begins_one() -> None:
    assert made().traceparent == f"00-{bytes(range(11, 27)).hex()}-{bytes(range(27, 35)).hex()}-00"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-00", "00"),
        (f"00-{TRACE}-{SPAN}-01", "01"),
        (f"00-{TRACE}-{SPAN}-ff", "01"),
        (f"cc-{TRACE}-{SPAN}-03", "01"),
        (f"cc-{TRACE}-{SPAN}-00-what-comes-later", "00"),
    ],
)
def test_a_valid_trace_is_continued_with_a_span_of_our_own(value: str, flags: str) -> None:
    assert made(value.encode()).traceparent == f"00-{TRACE}-{bytes(range(27, 35)).hex()}-{flags}"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        f"00-{TRACE}-{SPAN}".encode(),
        f"00-{TRACE}-{SPAN}-00-more".encode(),
        f"ff-{TRACE}-{SPAN}-00".encode(),
        f"0-{TRACE}-{SPAN}-00".encode(),
        f"00-{'0' * 32}-{SPAN}-00".encode(),
        f"00-{TRACE}-{'0' * 16}-00".encode(),
        f"00-{TRACE.upper()}-{SPAN}-00".encode(),
        f"00-{TRACE[:-1]}-{SPAN}-00".encode(),
        f"00-{TRACE}-{SPAN}-0".encode(),
        f"00-{TRACE}-{SPAN}-00 ".encode(),
        f"00-{TRACE}-{SPAN}-0\x1b".encode(),
        f"cc-{TRACE}-{SPAN}-00-{'x' * 300}".encode(),
        b"\xff" * 55,
    ],
)
def test_an_invalid_trace_is_as_if_it_were_absent(value: bytes) -> None:
    assert made(value) == made()


def test_two_traces_are_none() -> None:
    value = f"00-{TRACE}-{SPAN}-01".encode()
    assert made(value, value) == made()


async def test_a_request_is_that_of_its_task_alone() -> None:
    async def work(request: CurrentRequest) -> tuple[str, str]:
        enter(request)
        await asyncio.sleep(0)
        return current_request_id(), current_traceparent()

    requests = [new_request([], MS) for _ in range(3)]
    assert await asyncio.gather(*map(work, requests)) == [(each.id, each.traceparent) for each in requests]
    assert (current_request(), current_request_id(), current_traceparent()) == (None, "", "")
