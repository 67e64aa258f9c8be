"""The socket itself: what a program, a broken one and a hostile one get from it."""

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from node.exits import Exit
from node.local import server
from node.local.server import Answer, Request, SocketUnusable, listen, problem, serve


class Echo(msgspec.Struct):
    method: str
    path: str
    privileged: bool


async def echo(request: Request) -> Answer:
    return Answer(200, Echo(request.method, request.path, request.privileged))


@pytest.fixture
async def path(tmp_path: Path, nursery: trio.Nursery) -> Path:
    path = tmp_path / "run" / "cascadia.sock"
    nursery.start_soon(serve, listen(path), echo)
    return path


async def exchange(path: Path, data: bytes) -> bytes:
    """All that comes back until the other side closes."""
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(data)
        received = b""
        with trio.fail_after(5):
            async for piece in stream:
                received += piece
    return received


def get(target: str, method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nhost: cascadia\r\n\r\n".encode()


def body(answer: bytes) -> dict[str, object]:
    document: dict[str, object] = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
    return document


async def test_one_request_one_connection(path: Path) -> None:
    answer = await exchange(path, get("/v1/license?x=1") + get("/second"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert body(answer) == {"method": "GET", "path": "/v1/license?x=1", "privileged": True}
    assert b"connection: close" in answer


async def test_a_body_is_read_and_left_alone(path: Path) -> None:
    head = b"POST /v1/renew HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"
    assert body(await exchange(path, head))["method"] == "POST"


async def test_head_is_answered_without_a_body(path: Path) -> None:
    answer = await exchange(path, get("/v1/license", "HEAD"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000, 431),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n" + b"y" * 20_000, 413),
    ],
)
async def test_what_is_no_request_is_answered_and_nothing_more(path: Path, data: bytes, status: int) -> None:
    try:
        answer = await exchange(path, data)
    except trio.BrokenResourceError:
        answer = b""
    if answer:
        assert answer.split()[1] in (b"%d" % status, b"413")
        assert body(answer)["code"] == "malformed"
    assert body(await exchange(path, get("/")))["path"] == "/"


async def test_leaving_in_the_middle_disturbs_nobody(path: Path) -> None:
    for data in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe"):
        async with await trio.open_unix_socket(path) as stream:
            if data:
                await stream.send_all(data)
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(get("/"))
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert body(await exchange(path, get("/")))["path"] == "/"


async def test_a_slow_request_is_given_up(tmp_path: Path, nursery: trio.Nursery) -> None:
    nursery.start_soon(partial(serve, listen(tmp_path / "s"), echo, request_seconds=0.1))
    answer = await exchange(tmp_path / "s", b"GET / HT")
    assert answer.split()[1] == b"408"
    assert body(answer)["code"] == "too_slow"


async def test_a_command_that_takes_too_long_is_reported(tmp_path: Path) -> None:
    async def never(_: Request) -> Answer:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, listen(tmp_path / "s"), never, command_seconds=0.1))
        assert (await exchange(tmp_path / "s", get("/"))).split()[1] == b"504"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    async def large(_: Request) -> Answer:
        return problem(400, "x", "y" * 5_000_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, listen(tmp_path / "s"), large, request_seconds=1.0))
        async with await trio.open_unix_socket(tmp_path / "s") as stream:
            await stream.send_all(get("/"))
            assert len(await exchange(tmp_path / "s", get("/"))) > 5_000_000
        nursery.cancel_scope.cancel()


async def test_many_at_once_are_all_answered(path: Path) -> None:
    answers: list[str] = []

    async def one(number: int) -> None:
        answers.append(str(body(await exchange(path, get(f"/{number}")))["path"]))

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(one, number)
    assert sorted(answers) == sorted(f"/{number}" for number in range(200))


async def test_no_more_than_the_bound_are_taken_in(path: Path) -> None:
    """The rest waits in the backlog and is answered when there is room."""
    held = [await trio.open_unix_socket(path) for _ in range(server.CONNECTIONS_MAX)]
    with trio.move_on_after(0.2) as scope:
        await exchange(path, get("/"))
    assert scope.cancelled_caught
    await held[0].aclose()
    assert body(await exchange(path, get("/late")))["path"] == "/late"
    for stream in held:
        await stream.aclose()


_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def connect():
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); return s
if sys.argv[2] == "hold":
    held = [connect() for _ in range(60)]
    print("held", flush=True); sys.stdin.read()
else:
    s = connect(); s.sendall(b"POST /v1/renew HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
    data = b""
    while piece := s.recv(4096): data += piece
    sys.stdout.buffer.write(data)
"""


@asynccontextmanager
async def reachable() -> AsyncIterator[Path]:
    """A socket in a directory that every user may enter; those of pytest are its user's."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - the other user must get to the socket
        path = Path(directory) / "s"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listen(path), echo)
            yield path
            nursery.cancel_scope.cancel()


async def test_commands_of_other_users_are_known_as_such() -> None:
    async with reachable() as path:
        command = [sys.executable, "-c", _AS_NOBODY, str(path), "ask"]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        assert body(done.stdout) == {"method": "POST", "path": "/v1/renew", "privileged": False}


async def test_one_user_cannot_keep_the_others_out() -> None:
    async with reachable() as path, trio.open_nursery() as nursery:
        command = [sys.executable, "-c", _AS_NOBODY, str(path), "hold"]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"held\n"
        with trio.fail_after(3):
            assert body(await exchange(path, get("/")))["path"] == "/"
        process.kill()
        await process.wait()
        nursery.cancel_scope.cancel()


async def test_a_system_without_descriptors_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    listener = listen(tmp_path / "s")
    accept, faults = listener.accept, [OSError(errno.EMFILE, "too many"), OSError(errno.ENFILE, "too many")]

    async def failing() -> trio.SocketStream:
        if faults:
            raise faults.pop()
        return await accept()

    monkeypatch.setattr(listener, "accept", failing)
    nursery.start_soon(serve, listener, echo)
    assert body(await exchange(tmp_path / "s", get("/")))["path"] == "/"
    assert not faults


async def test_everyone_may_connect(path: Path) -> None:
    mode = (await trio.Path(path).stat()).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o666
    assert [entry.name for entry in await trio.Path(path.parent).iterdir()] == ["cascadia.sock"]


async def test_what_a_crash_left_behind_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "s"
    for name in ("s", "s.new"):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / name))
    nursery.start_soon(serve, listen(path), echo)
    assert body(await exchange(path, get("/")))["path"] == "/"


def test_a_place_that_cannot_hold_a_socket_is_reported(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "directory", tmp_path / "file" / "s", tmp_path / ("x" * 120)):
        with pytest.raises(SocketUnusable) as caught:
            listen(path)
        assert caught.value.exit is Exit.USAGE
