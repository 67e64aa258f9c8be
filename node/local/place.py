"""Adapter: the file of the unix socket. It makes the socket or takes systemd's, and finds out when the file is gone or
other users could replace it.

systemd keeps its socket open while the agent restarts, and connections wait in it. If the file of systemd's socket is
gone, no program can connect any more. The agent then ends, and systemd makes the socket again when it starts the agent.
Under systemd the agent makes no socket itself, because the unit forbids listen(2).

Only root and the agent's user may write the socket's directory, because another socket at the path could report any
licence to the software on the machine.
"""

import errno
import os
import socket
import stat
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import trio

from node.errors import NodeError
from node.exits import Exit

BACKLOG = 1024
"""Connections that wait in the kernel. A non-blocking client is refused when they are full."""
DIRECTORY_MODE = 0o755
GATES_NAME = "gates.sock"
"""The socket of the gates, beside the one of the setting `socket`."""
_OTHERS_WRITE = 0o022
_PEERCRED = struct.Struct("3i")

TIGHTENED = "socket_directory_tightened"
OPEN = "socket_directory_open"


class SocketUnusable(NodeError):
    """The socket cannot be made at the path in the settings."""

    exit = Exit.USAGE
    code = "socket_unusable"
    next = "Check the setting `socket`, its directory, and who owns it."


class GatesSocketUnusable(SocketUnusable):
    """The socket of the gates cannot be made."""

    code = "gates_socket_unusable"


class SocketLost(NodeError):
    """The file of a socket that systemd has passed is gone or replaced. The agent ends."""

    exit = Exit.TRY_AGAIN
    code = "socket_lost"
    next = "Find out who removed the file. systemd makes the socket again with the next start of the agent."


class Kind(msgspec.Struct, frozen=True):
    """One of the agent's sockets. The condition while it cannot be made has the code of `error`."""

    mode: int
    error: type[SocketUnusable]


PUBLIC = Kind(0o666, SocketUnusable)
"""Every local user may connect."""
GATES = Kind(0o600, GatesSocketUnusable)
"""Only root and the agent's user may connect, so no other user can fill its queue."""


class Weakness(msgspec.Struct, frozen=True):
    """A way in which other users can or could replace the socket. `code` is that of a condition."""

    code: str
    text: str
    next: str


class Place(msgspec.Struct, frozen=True):
    """A socket that listens at a path. `identity` is device and inode of its file."""

    path: Path
    socket: socket.socket
    identity: tuple[int, int]
    weaknesses: tuple[Weakness, ...] = ()
    kind: Kind = PUBLIC
    is_passed: bool = False
    """Whether systemd made the socket."""

    def listener(self) -> trio.SocketListener:
        """The socket for the event loop, which closes it."""
        return trio.SocketListener(trio.socket.from_stdlib_socket(self.socket))

    def is_present(self) -> bool:
        """Whether the path is still this socket. Raises OSError if the system refuses to look."""
        with suppress(FileNotFoundError, NotADirectoryError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self.identity:
                if stat.S_IMODE(found.st_mode) != self.kind.mode:
                    self.path.chmod(self.kind.mode)
                return True
        return False


def user_of(connected: socket.socket | trio.socket.SocketType) -> int:
    """The user of the other side of a unix socket, as the kernel reports it (SO_PEERCRED, unix(7))."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    _, uid, _ = _PEERCRED.unpack(credentials)
    return int(uid)


def is_privileged(user: int) -> bool:
    """Whether a user is root or the agent's own user."""
    return user in (0, os.geteuid())


def listen(path: Path, passed: Sequence[int] = (), kind: Kind = PUBLIC) -> Place:
    """A socket at `path` that listens, and that the users of its kind can reach. A socket left by a crash is replaced.

    `passed` are the descriptors that systemd has passed (`node.system.listening`). They stay open, so that the socket
    can be taken again. With them no socket is made.

    Missing directories are made with the mode 0755, whatever the umask. If the agent's user owns the directory and
    others may write it, they lose this right. The caller holds the state lock, so no other agent of this state listens.
    Raises SocketUnusable, also if others may replace the socket, another agent listens at the path, or no passed socket
    is the one of this path; SocketLost if the passed socket cannot be reached at the path any more.
    """
    if passed:
        return _taken(path, passed, kind)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(path.name + ".new")
    try:
        _make_directories(path.parent)
        weaknesses = secure(path)
        _refuse_another_agent(path)
        fresh.unlink(missing_ok=True)
        raw.bind(str(fresh))
        fresh.chmod(kind.mode)  # before it listens, so no other user can have connected
        raw.listen(BACKLOG)
        made = fresh.lstat()
        # The rename is atomic: clients find the old socket, which refuses them, or the new one.
        fresh.rename(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raw.close()
        raise SocketUnusable(f"cannot listen at {path}: {getattr(error, 'strerror', None) or error}") from error
    except SocketUnusable:
        raw.close()
        raise
    return Place(path, raw, (made.st_dev, made.st_ino), weaknesses, kind)


def _taken(path: Path, passed: Sequence[int], kind: Kind) -> Place:
    """The passed socket of `path`. Raises SocketLost if its file is gone or replaced; SocketUnusable."""
    with ExitStack() as held:
        raw = held.enter_context(_passed_socket(path, passed, kind))
        try:
            weaknesses = secure(path)
            if not _leads_to(path, raw):
                raise SocketLost(f"cannot go on: another file is in the place of the socket {path}")
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SocketLost(f"cannot go on: the socket {path} is gone") from error
        except OSError as error:
            raise SocketUnusable(f"cannot listen at {path}: {error.strerror}") from error
        held.pop_all()
    return Place(path, raw, (found.st_dev, found.st_ino), weaknesses, kind, is_passed=True)


def _passed_socket(path: Path, passed: Sequence[int], kind: Kind) -> socket.socket:
    """The passed socket that listens at `path`, with a descriptor of its own. Raises SocketUnusable if there is none."""
    others = []
    for descriptor in passed:
        try:
            raw = socket.socket(fileno=os.dup(descriptor))
        except OSError as error:
            others.append(error.strerror or str(error))
            continue
        name = raw.getsockname() if raw.family == socket.AF_UNIX else ""
        listens = raw.type == socket.SOCK_STREAM and raw.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        same = isinstance(name, str) and name != "" and os.path.realpath(name) == os.path.realpath(path)
        if listens and same:
            return raw
        raw.close()
        others.append(f"one listens at {name!r}" if listens else "one is no listening unix stream socket")
    unit = "cascadia.socket" if kind == PUBLIC else "cascadia-gates.socket"
    raise SocketUnusable(
        f"cannot use the sockets of systemd: {', '.join(others)}, and the agent needs {path}",
        next_step=f"Give the unit {unit} one `ListenStream=`, with this path, and run `systemctl restart cascadia`.",
    )


def _leads_to(path: Path, raw: socket.socket) -> bool:
    """Whether a connection to `path` reaches the passed socket. Raises OSError.

    The kernel names the process that called listen(2), also on the listening socket itself (unix(7), SO_PEERCRED).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # the backlog is full, so a program listens at the path
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return _listener_of(probe) == _listener_of(raw)


def _listener_of(unix: socket.socket) -> bytes:
    return unix.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)


def _make_directories(directory: Path) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for each in reversed(missing):
        each.mkdir(DIRECTORY_MODE)
        each.chmod(DIRECTORY_MODE)  # the umask can have removed bits


def _refuse_another_agent(path: Path) -> None:
    """Raise SocketUnusable if a program of root or of the agent's user listens at the path.

    Two agents with one path would replace each other's socket for ever. A socket of another user is replaced.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
            user = user_of(probe)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return
            user = os.geteuid()  # the backlog is full, so a program listens, and its user is not known
    if is_privileged(user):
        raise SocketUnusable(
            f"cannot listen at {path}: another program of user {user} answers there",
            next_step="Stop the other agent, or give each agent a `socket` of its own.",
        )


def secure(path: Path) -> tuple[Weakness, ...]:
    """Take the right to replace the socket from other users. Returns the ways in which they could or can replace it.

    Raises SocketUnusable if others may write the socket's directory and the agent cannot change this; OSError.
    """
    found = []
    directory = Path(os.path.realpath(path.parent))
    status = directory.stat()
    mode = status.st_mode
    if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX and status.st_uid == os.geteuid():
        directory.chmod(stat.S_IMODE(mode) & ~_OTHERS_WRITE)
        text = (
            f"other users could replace the socket: {directory} had the mode {stat.S_IMODE(mode):04o}; now they cannot"
        )
        found.append(Weakness(TIGHTENED, text, "Find out why the mode was changed. A restart ends this message."))
    for each in dict.fromkeys((directory, *directory.parents, *path.parent.absolute().parents)):
        weakness = _weakness(each, each.stat(), is_own=each == directory)
        if weakness is not None:
            found.append(weakness)
    return tuple(found)


def _weakness(directory: Path, status: os.stat_result, *, is_own: bool) -> Weakness | None:
    """How other users can replace the socket through a directory above it. `is_own`: the socket is in the directory.

    Raises SocketUnusable if they can do so in the socket's own directory.
    """
    mode, owner = status.st_mode, status.st_uid
    sticky = bool(mode & stat.S_ISVTX)
    if owner not in (0, os.geteuid()):
        refused, reason, advice = True, f"it belongs to user {owner}", f"Run `chown root {directory}`."
    elif sticky and not is_own:
        return None  # there only the owner replaces a directory
    elif mode & 0o002:
        refused, reason, advice = not sticky, "every user may write it", "Set `socket` to a path in another directory."
    elif mode & 0o020:
        refused, reason, advice = False, "its group may write it", f"Run `chmod g-w {directory}`."
    else:
        return None
    if is_own and refused:
        raise SocketUnusable(f"cannot listen safely at a path in {directory}: {reason}", next_step=advice)
    return Weakness(OPEN, f"other users can replace the socket through {directory}: {reason}", advice)
