"""The client of the socket, which the command line uses."""

import copy
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, strategies

from node.cli.show import human_entitlement, human_license, human_status
from node.errors import NodeError
from node.exits import Exit
from node.local.client import (
    ANSWER_BYTES_MAX,
    AgentAbsent,
    AgentRefused,
    AgentUnusable,
    Kind,
    NameUnusable,
    Reply,
    entitlement_path,
    expect,
    request,
)
from node.local.documents import EntitlementDocument, LicenseDocument, StatusDocument, license_document
from node.local.messages import Answer, LocalProblem, Request, problem
from node.local.place import listen
from node.local.server import serve
from node.text import TEXT_CHARACTERS_MAX
from tests.simulators.licensed import AT, SimulatedAgent


async def test_an_answer_and_its_status(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def handler(request: Request) -> Answer:
        return problem(404, request.method, request.path)

    nursery.start_soon(serve, listen(tmp_path / "s"), handler)
    assert await request(tmp_path / "s", "POST", "/v1/x") == Reply(
        404, {"title": "/v1/x", "status": 404, "code": "POST"}
    )


async def test_no_agent_at_the_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    (tmp_path / "file").touch()
    for name in ("missing", "stale", "file", "file/below", "caf\udce9"):
        with pytest.raises(AgentAbsent) as caught:
            await request(tmp_path / name, "GET", "/")
        assert caught.value.exit is Exit.UNREACHABLE
    with pytest.raises(AgentUnusable, match="too long"):
        await request(tmp_path / ("x" * 200), "GET", "/")


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"", "disconnected"),
        (b"SSH-2.0\r\n", "RemoteProtocolError"),
        (HEAD % 2 + b"[]", "not a JSON object"),
        (HEAD % 4 + b"null", "not a JSON object"),
        (HEAD % 9 + b"{}", "closed connection"),
        (HEAD % 3 + b'{"\xff', "not a JSON object"),
        (HEAD % 100_000 + b"[" * 100_000, "not a JSON object"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (ANSWER_BYTES_MAX + 1), "too long"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "."),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", ""),
        (b"HTTP/1.1 302 Found\r\nlocation: http://[\r\ncontent-length: 2\r\n\r\n{}", ""),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_another_program_there(tmp_path: Path, nursery: trio.Nursery, answer: bytes, cause: str) -> None:
    async def other(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                await stream.receive_some()
                await stream.send_all(answer)

    nursery.start_soon(trio.serve_listeners, other, [listen(tmp_path / "s").listener()])
    if not cause:
        assert (await request(tmp_path / "s", "GET", "/")).document == {}
        return
    with pytest.raises(AgentUnusable, match=cause) as caught:
        await request(tmp_path / "s", "GET", "/")
    assert caught.value.exit is Exit.UNREACHABLE
    assert len(caught.value.text) <= TEXT_CHARACTERS_MAX


async def test_an_agent_that_does_not_answer_in_time(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def dripping(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                while True:
                    await stream.send_all(b"H")
                    await stream.receive_some()

    nursery.start_soon(trio.serve_listeners, dripping, [listen(tmp_path / "s").listener()])
    with trio.fail_after(3), pytest.raises(AgentUnusable, match="in time"):
        await request(tmp_path / "s", "GET", "/", seconds_max=0.1)


@pytest.mark.parametrize("name", ["", "x" * 65, "x" * 90_000, "caf\udce9"])
def test_a_name_that_no_entitlement_has(name: str) -> None:
    with pytest.raises(NameUnusable) as caught:
        entitlement_path(name)
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "malformed")


def test_a_name_is_one_part_of_the_path() -> None:
    assert entitlement_path("a/b ü") == "/v1/entitlements/a%2Fb%20%C3%BC"


async def test_the_environment_changes_nothing(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(request: Request) -> Answer:
        return problem(404, request.method, request.path)

    nursery.start_soon(serve, listen(tmp_path / "s"), handler)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "[")
    monkeypatch.setenv("NETRC", "/dev/zero")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    assert (await request(tmp_path / "s", "GET", "/")).status == 404
    assert not (tmp_path / "keys.log").exists()


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("cloud_unreachable", Exit.UNREACHABLE),
        ("permission_denied", Exit.USAGE),
        ("malformed", Exit.USAGE),
        ("too_slow", Exit.TRY_AGAIN),
        ("", Exit.TRY_AGAIN),
    ],
)
def test_a_problem_is_an_error_with_its_exit_code(code: str, exit_code: Exit) -> None:
    document = {name: getattr(LocalProblem("no", 403, code), name) for name in LocalProblem.__struct_fields__}
    with pytest.raises(AgentRefused, match="no") as caught:
        expect(Reply(403, document), {200, 403}, EntitlementDocument)
    assert (caught.value.exit, caught.value.code) == (exit_code, code or "agent_refused")


@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [(87, Exit.TPM), *((odd, Exit.UNREACHABLE) for odd in (0, 4, "87", [87], 10**30, None, True))],
)
def test_a_problem_can_name_its_exit_code_and_next_step(exit_code: object, expected: Exit) -> None:
    document = {"title": "cannot use the TPM", "status": 503, "code": "cloud_unreachable", "exit_code": exit_code}
    with pytest.raises(AgentRefused) as caught:
        expect(Reply(503, document | {"next": "Look."}), {200}, StatusDocument)
    assert (caught.value.text, caught.value.exit, caught.value.next) == ("cannot use the TPM", expected, "Look.")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (LicenseDocument, "cannot renew: the cloud refused"),
        (StatusDocument, "cannot show the status: the cloud refused"),
        (EntitlementDocument, "cannot show the entitlement: the cloud refused"),
    ],
)
def test_a_problem_names_what_cannot_be_done(kind: Kind, text: str) -> None:
    problem = {"title": "the cloud refused", "status": 503, "code": "node_unknown"}
    with pytest.raises(AgentRefused) as caught:
        expect(Reply(503, problem), {200}, kind)
    assert caught.value.text == text


AGENT = SimulatedAgent()
GOOD: list[tuple[Kind, dict[str, Any]]] = [
    (StatusDocument, msgspec.to_builtins(AGENT.status())),
    (LicenseDocument, msgspec.to_builtins(license_document(AGENT.snapshot()))),
    (EntitlementDocument, msgspec.to_builtins(EntitlementDocument(1, "vision", True, "active", "", AT))),
]
HUMAN: dict[type, Callable[[dict[str, Any]], str]] = {
    StatusDocument: human_status,
    LicenseDocument: human_license,
    EntitlementDocument: human_entitlement,
}


@pytest.mark.parametrize(("kind", "document"), GOOD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_document_of_an_agent_of_another_version(kind: Kind, document: dict[str, Any]) -> None:
    """A newer agent sends more, and an older agent less."""
    assert expect(Reply(200, document), {200}, kind) == document
    assert expect(Reply(200, document | {"newer": [1]}), {200}, kind) == document | {"newer": [1]}
    with pytest.raises(AgentUnusable, match="format is 2"):
        expect(Reply(200, document | {"format": 2}), {200}, kind)


def test_fields_that_an_older_agent_does_not_send_get_their_defaults() -> None:
    kind, document = GOOD[0]
    older = {name: value for name, value in document.items() if name not in ("conditions", "damaged")}
    older["license"] = older["license"] | {"newer": 1}
    read = expect(Reply(200, older), {200}, kind)
    assert (list(read["conditions"]), list(read["damaged"]), read["license"]["newer"]) == ([], [], 1)


@pytest.mark.parametrize(
    ("status", "change", "cause"),
    [
        (200, {"exit_code": 256}, "256 is no exit code"),
        (200, {"exit_code": True}, "exit_code"),
        (200, {"valid_until": "soon"}, "valid_until"),
        (200, {"state": None}, "state"),
        (200, {"format": "1"}, "format"),
    ],
)
def test_a_document_that_contradicts_itself_or_its_type(status: int, change: dict[str, Any], cause: str) -> None:
    with pytest.raises(AgentUnusable, match=cause):
        expect(Reply(status, GOOD[1][1] | change), {200}, LicenseDocument)


def test_a_grant_with_the_status_of_a_denial_is_refused() -> None:
    with pytest.raises(AgentUnusable, match="contradicts"):
        expect(Reply(403, GOOD[2][1]), {200, 403}, EntitlementDocument)


JSON_VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=2) | strategies.dictionaries(strategies.text(), inner, max_size=2),
    max_leaves=4,
)


@given(
    good=strategies.sampled_from(GOOD),
    status=strategies.sampled_from([200, 403, 503]),
    data=strategies.data(),
    value=JSON_VALUES,
)
def test_any_document_is_shown_or_refused(
    good: tuple[Kind, dict[str, Any]], status: int, data: strategies.DataObject, value: Any
) -> None:
    kind, document = good
    changed = copy.deepcopy(document)
    place = changed
    name = data.draw(strategies.sampled_from(sorted(place)))
    while isinstance(place[name], dict) and place[name] and data.draw(strategies.booleans()):
        place = place[name]
        name = data.draw(strategies.sampled_from(sorted(place)))
    place[name] = value
    for answered in (changed, value if isinstance(value, dict) else {}):
        try:
            text = HUMAN[kind](expect(Reply(status, answered), {200, 403}, kind))
        except NodeError as error:
            text = error.text
        assert all(line.isprintable() for line in text.split("\n"))
