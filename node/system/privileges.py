"""Adapter: a command that root types becomes the agent's user, for good, before it touches the state or the TPM.

The agent of a package runs as the user `cascadia`, who owns the state directory. A file that root wrote there would be
refused by the agent, and a fault of a command must not be a fault of root. So root first reads what only root can read:
the files that the command names, the settings, the serial numbers of the board. Where root owns the state directory, as
in a container, root stays root.
"""

import grp
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from node.config import Config
from node.errors import NodeError
from node.exits import Exit

USER = "cascadia"
"""The user of the packages. It counts while the default state directory is missing."""
TPM_GROUP = "tss"
"""The group that may use /dev/tpmrm0 (package tpm-udev)."""


class NotPermitted(NodeError):
    """This user may not use the state, or root cannot become the user who may."""

    exit = Exit.USAGE
    code = "not_permitted"
    next = "Run the command as root."


class AgentUser(msgspec.Struct, frozen=True):
    """The user whom root becomes: the name (for messages), and the numbers. `groups` are the supplementary groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def agent_user(config: Config) -> AgentUser | None:
    """The user whom this process has to become; None if it stays who it is, because it is not root or root owns the state.

    While the default state directory is missing, the user of the packages counts.
    """
    if os.geteuid() != 0:
        return None
    owner = _owner(config.state_dir)
    if owner is None and config.state_dir == Config().state_dir:
        with suppress(KeyError):
            owner = pwd.getpwnam(USER).pw_uid
    return _user(owner) if owner else None


def become(user: AgentUser, system: Any = os) -> None:
    """Become the user, with the user's groups, and make sure that there is no way back.

    `system` has the calls of `os`. Raises NotPermitted if the kernel refuses, or if this process could become root again.
    """
    try:
        system.setgroups(list(user.groups))
        system.setresgid(user.gid, user.gid, user.gid)
        system.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise NotPermitted(
            f"cannot become the user {user.name}, who owns the state: {error.strerror}",
            next_step=f"Run the command as that user: `runuser -u {user.name} -- cascadia ...`.",
        ) from error
    if (
        system.getresuid() != (user.uid,) * 3
        or system.getresgid() != (user.gid,) * 3
        or set(system.getgroups()) - {user.gid} != set(user.groups) - {user.gid}
        or _succeeds(lambda: system.setresuid(0, 0, 0))
        or _succeeds(lambda: system.setresgid(0, 0, 0))
    ):
        raise NotPermitted(
            f"cannot become the user {user.name} for good: this process could be root again",
            next_step="Run the command without capabilities or secure bits that survive a change of the user.",
        )


def make_directory(path: Path, user: AgentUser) -> None:
    """Make the missing state directory, as root, for the user. Raises NotPermitted."""
    try:
        path.mkdir(0o700)
        os.chown(path, user.uid, user.gid)
    except FileExistsError:
        return
    except OSError as error:
        raise NotPermitted(
            f"cannot make {path}: {error.strerror}", next_step="Make its parent directory, as root."
        ) from error


def _owner(path: Path) -> int | None:
    """The owner of the path itself; None if it is missing, or if this user cannot find out."""
    try:
        return path.lstat().st_uid
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None


def _user(uid: int) -> AgentUser:
    """The user with this number. A number without an account is a user with no groups but that of the TPM."""
    try:
        account = pwd.getpwuid(uid)
        name, gid = account.pw_name, account.pw_gid
        groups = set(os.getgrouplist(name, gid))
    except KeyError:
        name, gid, groups = str(uid), uid, {uid}
    with suppress(KeyError):
        groups.add(grp.getgrnam(TPM_GROUP).gr_gid)
    return AgentUser(name, uid, gid, tuple(sorted(groups)))


def _succeeds(call: Callable[[], None]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True
