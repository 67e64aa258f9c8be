"""The socket itself: what a program, a broken one and a hostile one get from it."""

import errno
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from node.clock import utc_now
from node.conditions import Conditions
from node.gating.question import AgentSocket
from node.local.messages import Answer, Request, problem
from node.local.place import GATES, PUBLIC, Kind, Place, SocketLost, listen
from node.local.server import Serving, serve, servings
from tests.waiting import until


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
        with trio.fail_after(5):
            return b"".join([piece async for piece in stream])


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


async def test_an_imported_file_may_be_long(path: Path) -> None:
    head = b"POST /v1/license/import HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
    assert body(await exchange(path, head + bytes(100_000)))["path"] == "/v1/license/import"


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


SEEDS = (
    get("/v1/entitlements/vision"),
    get("/v1/license?x=1", "HEAD"),
    b"POST /v1/renew HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /v1/renew HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
)


async def test_any_request_is_answered_or_closed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """300 seeded mutations. The server goes on, and none of them is a fault of the agent."""
    choose = random.Random("requests")
    for _ in range(300):
        data = bytearray(choose.choice(SEEDS))
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(len(data) + 1)
            data[at : at + choose.choice((0, 1, 8))] = choose.randbytes(choose.choice((0, 1, 2, 40)))
        async with await trio.open_unix_socket(path) as stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(bytes(data))
                await stream.send_eof()
            with suppress(trio.BrokenResourceError):
                answer = await rest(stream)
                assert not answer or answer.split()[1] in (b"200", b"400", b"413", b"431", b"501"), bytes(data)
    assert caplog.messages == []
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


def callers(users: Iterator[int]) -> Callable[[object], int]:
    """A function for `serve` that reports these users, one for each connection in the order of the connections."""
    return lambda _: next(users)


async def rest(stream: trio.SocketStream) -> bytes:
    """All that comes until the other side closes."""
    return b"".join([piece async for piece in stream])


async def test_idle_connections_of_five_users_silence_neither_root_nor_another_user(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Each of five users opens sixteen connections and sends nothing; then root and a sixth user ask."""
    holding = [1000 + number % 5 for number in range(80)]
    users = iter([*holding, 0, 2000, 1000])
    nursery.start_soon(partial(serve, listen(tmp_path / "s"), echo, user_of=callers(users)))
    held = [await trio.open_unix_socket(tmp_path / "s") for _ in holding]
    for privileged in (True, False, False):
        assert body(await exchange(tmp_path / "s", get("/")))["privileged"] is privileged
    for stream in held:
        await stream.aclose()


async def test_a_gate_is_answered_while_the_queue_of_the_public_socket_is_full(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    public = listen(tmp_path / "s")  # nothing accepts there
    gates = Serving(tmp_path / "gates.sock", echo, Conditions(utc_now), kind=GATES)
    nursery.start_soon(gates.run)
    await until("the socket of the gates", (tmp_path / "gates.sock").is_socket)
    with ExitStack() as held:
        held.enter_context(public.socket)
        full = False
        while not full:
            link = held.enter_context(socket.socket(socket.AF_UNIX))
            link.setblocking(False)
            full = link.connect_ex(str(tmp_path / "s")) == errno.EAGAIN
        status, document = await trio.to_thread.run_sync(AgentSocket(str(tmp_path / "gates.sock")).ask, "/v1/x", 5.0)
        assert (status, document["path"]) == (200, "/v1/x")


async def test_without_a_socket_for_the_gates_the_public_one_answers_until_it_can_be_made(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: object
) -> None:
    (tmp_path / "gates.sock").mkdir()
    conditions = Conditions(utc_now)
    for loop in servings(tmp_path / "s", echo, conditions).values():
        nursery.start_soon(loop)
    await until("the condition", lambda: [each.code for each in conditions.current()] == ["gates_socket_unusable"])
    assert body(await exchange(tmp_path / "s", get("/")))["path"] == "/"
    (tmp_path / "gates.sock").rmdir()
    await until("the socket of the gates", (tmp_path / "gates.sock").is_socket)
    assert body(await exchange(tmp_path / "gates.sock", get("/")))["path"] == "/"
    await until("its end", lambda: conditions.current() == ())


async def test_the_longest_idle_connection_of_the_user_who_holds_most_pays(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    users = iter([*range(1000, 1010), *[7] * 60])
    nursery.start_soon(partial(serve, listen(tmp_path / "s"), echo, user_of=callers(users)))
    modest = [await trio.open_unix_socket(tmp_path / "s") for _ in range(10)]
    greedy = [await trio.open_unix_socket(tmp_path / "s") for _ in range(60)]
    with trio.fail_after(5):
        closed = await rest(greedy[0])
    assert closed.split()[1:2] == [b"503"]
    assert body(closed)["code"] == "busy"
    for stream in (*modest, greedy[-1]):
        await stream.send_all(get("/"))
        assert body(await rest(stream))["path"] == "/"
    for stream in (*modest, *greedy):
        await stream.aclose()


async def test_a_command_that_runs_keeps_its_place(tmp_path: Path, nursery: trio.Nursery) -> None:
    finish = trio.Event()

    async def slow(request: Request) -> Answer:
        if request.method == "POST":
            await finish.wait()
        return await echo(request)

    nursery.start_soon(serve, listen(tmp_path / "s"), slow)
    command = await trio.open_unix_socket(tmp_path / "s")
    await command.send_all(get("/renew", "POST"))
    idle = [await trio.open_unix_socket(tmp_path / "s") for _ in range(40)]
    assert body(await exchange(tmp_path / "s", get("/")))["path"] == "/"
    finish.set()
    assert body(await rest(command))["path"] == "/renew"
    for stream in (command, *idle):
        await stream.aclose()


async def waits_for_ever(_: Request) -> Answer:
    await trio.sleep_forever()


async def test_a_question_that_waits_makes_room(tmp_path: Path, nursery: trio.Nursery) -> None:
    nursery.start_soon(serve, listen(tmp_path / "s"), waits_for_ever)
    waiting = await trio.open_unix_socket(tmp_path / "s")
    await waiting.send_all(get("/wait"))
    idle = [await trio.open_unix_socket(tmp_path / "s") for _ in range(40)]
    with trio.fail_after(5):
        assert body(await rest(waiting))["code"] == "busy"
    for stream in (waiting, *idle):
        await stream.aclose()


@pytest.mark.parametrize("half_closed", [False, True])
async def test_a_client_that_is_gone_ends_its_wait(tmp_path: Path, nursery: trio.Nursery, half_closed: bool) -> None:
    begun, ended = trio.Event(), trio.Event()

    async def handler(request: Request) -> Answer:
        begun.set()
        try:
            return await waits_for_ever(request)
        finally:
            ended.set()

    nursery.start_soon(serve, listen(tmp_path / "s"), handler)
    stream = await trio.open_unix_socket(tmp_path / "s")
    await stream.send_all(get("/wait"))
    if half_closed:
        await stream.send_eof()
    await begun.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert not ended.is_set()
    await stream.aclose()
    with trio.fail_after(5):
        await ended.wait()


async def test_a_client_that_ends_its_own_side_gets_its_answer(path: Path) -> None:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(get("/"))
        await stream.send_eof()
        assert body(await rest(stream))["path"] == "/"


async def test_a_fault_of_the_handler_is_answered_and_ends_nothing(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def faulty(request: Request) -> Answer:
        if request.path == "/raises":
            raise ZeroDivisionError
        return problem(404, "x", "\udcff" if request.path == "/no-text" else "fine")

    nursery.start_soon(serve, listen(tmp_path / "s"), faulty)
    for path in ("/raises", "/no-text"):
        answer = await exchange(tmp_path / "s", get(path))
        assert (answer.split()[1], body(answer)["code"]) == (b"500", "internal")
        assert path in caplog.text
    assert body(await exchange(tmp_path / "s", get("/")))["title"] == "fine"


_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534)
def connect():
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); return s
if sys.argv[2] == "hold":
    held = []
    for user in range(60001, 60006):
        os.setresuid(-1, user, -1)
        held += [connect() for _ in range(16)]
        os.setresuid(-1, 0, -1)
    print("held", flush=True); sys.stdin.read()
else:
    os.setuid(65534)
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


async def test_five_users_cannot_keep_root_and_a_sixth_user_out() -> None:
    async with reachable() as path, trio.open_nursery() as nursery:
        command = [sys.executable, "-c", _AS_NOBODY, str(path), "hold"]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"held\n"
        with trio.fail_after(3):
            assert body(await exchange(path, get("/")))["privileged"] is True
            ask = [sys.executable, "-c", _AS_NOBODY, str(path), "ask"]
            assert body((await trio.run_process(ask, capture_stdout=True)).stdout)["privileged"] is False
        process.kill()
        await process.wait()
        nursery.cancel_scope.cancel()


async def test_a_system_without_descriptors_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    accept = trio.SocketListener.accept
    faults = [OSError(errno.EPROTO, "odd"), OSError(errno.EMFILE, "too many"), OSError(errno.ENFILE, "too many")]

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        if faults:
            raise faults.pop()
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    nursery.start_soon(serve, listen(tmp_path / "s"), echo)
    assert body(await exchange(tmp_path / "s", get("/")))["path"] == "/"
    assert not faults


@pytest.mark.parametrize("loss", ["deleted", "replaced", "directory", "directory moved"])
async def test_a_lost_socket_is_made_again(tmp_path: Path, nursery: trio.Nursery, loss: str) -> None:
    path = tmp_path / "run" / "cascadia.sock"
    nursery.start_soon(partial(serve, listen(path), echo, check_seconds=0.02))
    before = path.lstat().st_ino
    if loss == "directory":
        shutil.rmtree(path.parent)
    elif loss == "directory moved":
        path.parent.rename(tmp_path / "aside")
    else:
        path.unlink()
        if loss == "replaced":
            path.write_text("a file")
    await until("the socket", lambda: path.is_socket() and path.lstat().st_ino != before)
    assert body(await exchange(path, get("/")))["path"] == "/"


@pytest.mark.parametrize("kind", [PUBLIC, GATES])
async def test_the_loss_of_a_socket_of_systemd_ends_the_server(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "run" / "cascadia.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        path.chmod(kind.mode)
        theirs.listen()
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(serve, listen(path, [theirs.fileno()], kind), echo, check_seconds=0.02))
                assert body(await exchange(path, get("/systemd")))["path"] == "/systemd"
                path.unlink()
        assert caught.value.subgroup(SocketLost) is not None
        assert not path.exists()


async def test_a_frozen_disk_under_the_socket_holds_no_answer_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checking, thaw = threading.Event(), threading.Event()

    def frozen(_: Place) -> bool:
        checking.set()
        return thaw.wait(20)

    monkeypatch.setattr(Place, "is_present", frozen)
    try:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(serve, listen(tmp_path / "s"), echo, check_seconds=0.01))
                await until("the check", checking.is_set)
                assert body(await exchange(tmp_path / "s", get("/")))["path"] == "/"
                nursery.cancel_scope.cancel()
    finally:
        thaw.set()


async def test_a_socket_that_cannot_be_made_again_is_a_condition_until_it_can(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    path, conditions = tmp_path / "run" / "s", Conditions(utc_now)
    nursery.start_soon(partial(serve, listen(path), echo, conditions, check_seconds=0.02))
    shutil.rmtree(path.parent)
    path.parent.touch()
    await until("the condition", lambda: [each.code for each in conditions.current()] == ["socket_unusable"])
    path.parent.unlink()
    await until("the socket", path.is_socket)
    await until("its end", lambda: conditions.current() == ())
    assert body(await exchange(path, get("/")))["path"] == "/"


async def test_a_directory_that_is_opened_to_others_is_tightened_and_reported(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    path, conditions = tmp_path / "run" / "s", Conditions(utc_now)
    nursery.start_soon(partial(serve, listen(path), echo, conditions, check_seconds=0.02))
    path.parent.chmod(0o777)
    path.chmod(0o600)
    await until("the mode of the directory", lambda: stat.S_IMODE(path.parent.stat().st_mode) == 0o755)
    await until("the mode of the socket", lambda: stat.S_IMODE(path.stat().st_mode) == 0o666)
    await until("the condition", lambda: [each.code for each in conditions.current()] == ["socket_directory_tightened"])


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
