"""The client of the socket, which the command line uses."""

import socket
from pathlib import Path

import pytest
import trio

from node.exits import Exit
from node.local.client import AgentAbsent, AgentRefused, Reply, expect, request
from node.local.place import listen
from node.local.server import Answer, LocalProblem, Request, problem, serve


async def test_an_answer_and_its_status(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def handler(request: Request) -> Answer:
        return problem(404, request.method, request.path)

    nursery.start_soon(serve, listen(tmp_path / "s"), handler)
    assert await request(tmp_path / "s", "POST", "/v1/x") == Reply(
        404, {"title": "/v1/x", "status": 404, "code": "POST"}
    )


async def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    (tmp_path / "file").touch()
    for name in ("missing", "stale", "file", "x" * 200):
        with pytest.raises(AgentAbsent) as caught:
            await request(tmp_path / name, "GET", "/")
        assert caught.value.exit is Exit.UNREACHABLE


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"])
async def test_something_else_there(tmp_path: Path, nursery: trio.Nursery, answer: bytes) -> None:
    async def other(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    nursery.start_soon(trio.serve_listeners, other, [listen(tmp_path / "s").listener()])
    with pytest.raises(AgentAbsent):
        await request(tmp_path / "s", "GET", "/")


async def test_one_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    listener = listen(tmp_path / "s").listener()
    with trio.fail_after(3), pytest.raises(AgentAbsent):
        await request(tmp_path / "s", "GET", "/", seconds_max=0.2)
    await listener.aclose()


async def test_an_environment_with_proxies_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(AgentAbsent):
        await request(tmp_path / "s", "GET", "/")


async def test_variables_of_tls_change_nothing(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(request: Request) -> Answer:
        return problem(404, request.method, request.path)

    nursery.start_soon(serve, listen(tmp_path / "s"), handler)
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
        expect(Reply(403, document), {200, 403})
    assert (caught.value.exit, caught.value.code) == (exit_code, code or "agent_refused")


@pytest.mark.parametrize(
    ("exit_code", "expected"), [(87, Exit.TPM), (0, Exit.UNREACHABLE), (4, Exit.UNREACHABLE), ("87", Exit.UNREACHABLE)]
)
def test_a_problem_can_name_its_exit_code_and_next_step(exit_code: object, expected: Exit) -> None:
    document = {"title": "cannot use the TPM", "status": 503, "code": "cloud_unreachable", "exit_code": exit_code}
    with pytest.raises(AgentRefused) as caught:
        expect(Reply(503, document | {"next": "Look."}), {200})
    assert (caught.value.text, caught.value.exit, caught.value.next) == ("cannot use the TPM", expected, "Look.")


def test_an_expected_status_is_a_document() -> None:
    assert expect(Reply(403, {"granted": False}), {200, 403}) == {"granted": False}
    with pytest.raises(AgentRefused):
        expect(Reply(500, {}), {200})
