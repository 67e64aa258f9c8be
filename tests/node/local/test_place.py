"""The socket's file: where it is made, with which modes, and when other users could replace it."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from node.exits import Exit
from node.local.place import GATES, OPEN, PUBLIC, TIGHTENED, Place, SocketLost, SocketUnusable, listen

NOBODY = 65534


@contextmanager
def made(path: Path) -> Iterator[Place]:
    place = listen(path)
    try:
        yield place
    finally:
        place.socket.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_another_user_cannot_reach_the_socket_of_the_gates() -> None:
    tried = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the other user gets to the socket
        path = Path(folder) / "gates"
        place = listen(path, kind=GATES)
        path.chmod(0o666)  # somebody opens it
        assert place.is_present()
        assert mode(path) == 0o600
        command = [sys.executable, "-IS", "-c", tried, str(path)]
        subprocess.run(command, check=True)
        refused = subprocess.run(
            ["setpriv", f"--reuid={NOBODY}", "--clear-groups", *command], capture_output=True, text=True, check=False
        )
        place.socket.close()
    assert "PermissionError" in refused.stderr


@pytest.mark.usefixtures("umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "s"
    with made(path) as place:
        assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (0o666, 0o755, 0o755)
        assert place.weaknesses == ()
        assert place.is_present()
        assert [entry.name for entry in path.parent.iterdir()] == ["s"]


@pytest.mark.parametrize("open_mode", [0o777, 0o775, 0o757])
def test_a_directory_of_ours_that_others_may_write_is_tightened(tmp_path: Path, open_mode: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(open_mode)
    with made(tmp_path / "run" / "s") as place:
        assert mode(tmp_path / "run") == 0o755
        assert [weakness.code for weakness in place.weaknesses] == [TIGHTENED]
        assert f"{open_mode:04o}" in place.weaknesses[0].text


@pytest.mark.parametrize(
    ("owner", "directory_mode", "reason"),
    [(NOBODY, 0o755, f"it belongs to user {NOBODY}"), (NOBODY, 0o1777, f"it belongs to user {NOBODY}")],
)
def test_a_directory_of_another_user_is_refused(tmp_path: Path, owner: int, directory_mode: int, reason: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(directory_mode)
    os.chown(tmp_path / "run", owner, owner)
    with pytest.raises(SocketUnusable, match=reason) as caught:
        listen(tmp_path / "run" / "s")
    assert (caught.value.exit, "chown root" in caught.value.next) == (Exit.USAGE, True)
    assert not (tmp_path / "run" / "s").exists()


def test_a_directory_like_tmp_is_used_and_reported(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o1777)
    with made(tmp_path / "run" / "s") as place:
        assert [(weakness.code, "every user may write it" in weakness.text) for weakness in place.weaknesses] == [
            (OPEN, True)
        ]
        assert mode(tmp_path / "run") == 0o1777


def test_a_directory_further_up_is_reported_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "up" / "run").mkdir(parents=True)
    (tmp_path / "up").chmod(0o770)
    with made(tmp_path / "up" / "run" / "s") as place:
        assert [weakness.code for weakness in place.weaknesses] == [OPEN]
        assert f"{tmp_path / 'up'}: its group may write it" in place.weaknesses[0].text
        assert mode(tmp_path / "up") == 0o770


def test_a_link_to_the_directory_counts_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "real").chmod(0o777)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with made(tmp_path / "run" / "s"):
        assert mode(tmp_path / "real") == 0o755


def test_a_file_that_is_gone_or_replaced_is_not_present(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with made(path) as place:
        path.chmod(0o600)
        assert place.is_present()
        assert mode(path) == 0o666
        path.rename(tmp_path / "aside")
        assert not place.is_present()
        path.touch()
        assert not place.is_present()
        (tmp_path / "aside").replace(path)
        assert place.is_present()


def test_another_agent_at_the_path_is_not_replaced(tmp_path: Path) -> None:
    with made(tmp_path / "s"), pytest.raises(SocketUnusable, match="another program of user 0 answers there"):
        listen(tmp_path / "s")
    with made(tmp_path / "s"):
        assert mode(tmp_path / "s") == 0o666


def test_what_a_crash_left_behind_is_replaced(tmp_path: Path) -> None:
    for name in ("s", "s.new"):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / name))
    with made(tmp_path / "s") as place:
        assert place.is_present()


def test_a_place_that_cannot_hold_a_socket_is_reported(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("directory", "file/s", "x" * 120, "x" * 300, "a\0b", "loop/s"):
        with pytest.raises(SocketUnusable) as caught:
            listen(tmp_path / name)
        assert caught.value.exit is Exit.USAGE


@contextmanager
def passed(path: Path, *, kind: int = socket.SOCK_STREAM, listens: bool = True) -> Iterator[socket.socket]:
    """A socket at `path` as systemd passes it."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, kind) as made_by_systemd:
        made_by_systemd.bind(str(path))
        path.chmod(0o666)
        if listens:
            made_by_systemd.listen()
        yield made_by_systemd


def test_the_socket_of_systemd_is_taken_and_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    with passed(path) as theirs:
        file = path.lstat().st_ino
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(str(path))
            for _ in range(2):  # of one process: while the state cannot be read, and after that
                place = listen(path, [theirs.fileno()])
                assert place.socket.fileno() != theirs.fileno()
                assert not os.get_inheritable(place.socket.fileno())
                assert (place.is_present(), path.lstat().st_ino, place.weaknesses) == (True, file, ())
                place.socket.accept()[0].close()
                place.socket.close()


def test_a_socket_of_systemd_reached_by_a_link_is_taken(tmp_path: Path) -> None:
    (tmp_path / "var").symlink_to(tmp_path / "run")
    with passed(tmp_path / "run" / "s") as theirs:
        place = listen(tmp_path / "var" / "s", [theirs.fileno()])
        place.socket.close()
        assert place.identity[1] == (tmp_path / "run" / "s").lstat().st_ino


def test_many_connections_wait_at_the_socket_of_systemd(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    with passed(path) as theirs, ExitStack() as clients:
        theirs.listen(4096)  # the unit's `Backlog=`, and the kernel's bound of it
        for _ in range(200):
            clients.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        place = listen(path, [theirs.fileno()])
        place.socket.setblocking(False)
        for _ in range(200):
            place.socket.accept()[0].close()
        place.socket.close()


@pytest.mark.parametrize("gone", ["deleted", "left by a crash"])
def test_a_socket_of_systemd_without_its_file_ends_the_agent(tmp_path: Path, gone: str) -> None:
    """The next start gets another one from systemd, so the exit code is one of those that systemd restarts."""
    path = tmp_path / "run" / "s"
    with passed(path) as theirs:
        path.unlink()
        if gone == "left by a crash":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))
                stale.listen()
        with pytest.raises(SocketLost) as caught:
            listen(path, [theirs.fileno()])
    assert caught.value.exit is Exit.TRY_AGAIN
    assert path.exists() == (gone == "left by a crash")


def test_what_systemd_passes_must_be_the_socket_of_the_settings(tmp_path: Path) -> None:
    path, other = tmp_path / "run" / "s", tmp_path / "run" / "other"
    with (
        passed(other) as elsewhere,
        passed(tmp_path / "run" / "d", kind=socket.SOCK_DGRAM, listens=False) as datagrams,
        passed(tmp_path / "run" / "q", listens=False) as quiet,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        (tmp_path / "file").open("w") as file,
    ):
        for descriptors, reason in (
            ([elsewhere.fileno()], f"one listens at '{other}', and the agent needs {path}"),
            ([elsewhere.fileno(), elsewhere.fileno()], f"one listens at '{other}', one listens at '{other}'"),
            ([datagrams.fileno()], "no listening unix stream socket"),
            ([quiet.fileno()], "no listening unix stream socket"),
            ([tcp.fileno()], "one listens at"),
            ([file.fileno()], "Socket operation on non-socket"),
            ([999], "Bad file descriptor"),
        ):
            with pytest.raises(SocketUnusable, match=reason) as caught:
                listen(path, descriptors)
            assert (caught.value.exit, "ListenStream=" in caught.value.next) == (Exit.USAGE, True)
            assert not path.exists()


def test_each_of_two_passed_sockets_is_taken_by_its_path(tmp_path: Path) -> None:
    with passed(tmp_path / "run" / "s") as public, passed(tmp_path / "run" / "gates") as gates:
        both = [gates.fileno(), public.fileno()]
        for name, kind, theirs in (("s", PUBLIC, public), ("gates", GATES, gates)):
            place = listen(tmp_path / "run" / name, both, kind)
            assert place.socket.getsockname() == theirs.getsockname()
            place.socket.close()


def test_the_gates_get_no_socket_when_systemd_passes_the_public_one_alone(tmp_path: Path) -> None:
    """The unit of the agent forbids listen(2)."""
    with passed(tmp_path / "run" / "s") as public:
        with pytest.raises(SocketUnusable, match="and the agent needs") as caught:
            listen(tmp_path / "run" / "gates", [public.fileno()], GATES)
        assert "cascadia-gates.socket" in caught.value.next


def test_a_socket_of_systemd_in_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    with passed(path) as theirs:
        os.chown(path.parent, NOBODY, NOBODY)
        with pytest.raises(SocketUnusable, match=f"it belongs to user {NOBODY}"):
            listen(path, [theirs.fileno()])
