"""Root becomes the agent's user for good: whom it becomes, the order of the calls, and every way back that is refused."""

import errno
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from node.config import Config
from node.exits import Exit
from node.system.privileges import AgentUser, NotPermitted, agent_user, become, make_directory

NOBODY = pwd.getpwnam("nobody")
AGENT = AgentUser("cascadia", 990, 980, (109, 980))


class Kernel:
    """The calls of `os` as the kernel answers them. `keeps` are rights that survive a change of the user."""

    def __init__(self, keeps: frozenset[str] = frozenset(), refuses: str = "") -> None:
        self.keeps, self.refuses = keeps, refuses
        self.uid, self.gid, self.groups = (0, 0, 0), (0, 0, 0), [0]
        self.calls: list[str] = []

    def _change(self, call: str) -> None:
        self.calls.append(call)
        if call == self.refuses or (self.uid[0] != 0 and call not in self.keeps):
            raise PermissionError(errno.EPERM, "Operation not permitted")

    def setgroups(self, groups: list[int]) -> None:
        self._change("setgroups")
        self.groups = groups

    def setresgid(self, *gids: int) -> None:
        self._change("setresgid")
        self.gid = gids  # type: ignore[assignment]  # three numbers

    def setresuid(self, *uids: int) -> None:
        self._change("setresuid")
        self.uid = uids  # type: ignore[assignment]  # three numbers

    def getresuid(self) -> tuple[int, int, int]:
        return self.uid

    def getresgid(self) -> tuple[int, int, int]:
        return self.gid

    def getgroups(self) -> list[int]:
        return self.groups


def test_groups_first_then_the_group_then_the_user() -> None:
    kernel = Kernel()
    become(AGENT, kernel)
    assert (kernel.uid, kernel.gid, kernel.groups) == ((990,) * 3, (980,) * 3, [109, 980])
    assert kernel.calls == ["setgroups", "setresgid", "setresuid", "setresuid", "setresgid"]  # the last two are refused


@pytest.mark.parametrize("call", ["setgroups", "setresgid", "setresuid"])
def test_a_root_without_the_right_is_refused(call: str) -> None:
    with pytest.raises(
        NotPermitted, match="cannot become the user cascadia, who owns the state: Operation not"
    ) as caught:
        become(AGENT, Kernel(refuses=call))
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "not_permitted")
    assert "runuser -u cascadia" in caught.value.next


@pytest.mark.parametrize("kept", ["setresuid", "setresgid"])
def test_a_way_back_ends_the_command(kept: str) -> None:
    with pytest.raises(NotPermitted, match="this process could be root again"):
        become(AGENT, Kernel(keeps=frozenset({kept})))


@pytest.mark.parametrize(
    ("name", "value"),
    [("getresuid", (990, 0, 990)), ("getresgid", (980, 980, 0)), ("getgroups", [0, 109, 980]), ("getgroups", [980])],
)
def test_what_the_kernel_reports_must_be_the_user(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    monkeypatch.setattr(Kernel, name, lambda _: value)
    with pytest.raises(NotPermitted):
        become(AGENT, Kernel())


def test_root_becomes_the_owner_of_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, NOBODY.pw_uid, NOBODY.pw_gid)
    user = agent_user(Config(state_dir=tmp_path))
    assert user is not None
    assert (user.name, user.uid, user.gid) == ("nobody", NOBODY.pw_uid, NOBODY.pw_gid)
    assert NOBODY.pw_gid in user.groups
    os.chown(tmp_path, 12345, 12345)  # an id without an account
    user = agent_user(Config(state_dir=tmp_path))
    assert user is not None
    assert (user.name, user.uid, user.gid) == ("12345", 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert agent_user(Config(state_dir=tmp_path)) is None


def test_root_stays_root_where_it_owns_the_state_or_there_is_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path("a\0b")):
        assert agent_user(Config(state_dir=path)) is None


def test_the_group_of_the_tpm_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, NOBODY.pw_uid, NOBODY.pw_gid)

    class Group:
        gr_gid = 4242

    monkeypatch.setattr("grp.getgrnam", {"tss": Group}.__getitem__)
    user = agent_user(Config(state_dir=tmp_path))
    assert user is not None
    assert 4242 in user.groups


def test_without_the_default_directory_the_user_of_the_package_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Config().state_dir.exists()
    monkeypatch.setattr("pwd.getpwnam", {"cascadia": NOBODY}.__getitem__)
    user = agent_user(Config())
    assert user is not None
    assert user.uid == NOBODY.pw_uid
    monkeypatch.setattr("pwd.getpwnam", {}.__getitem__)
    assert agent_user(Config()) is None


def test_the_missing_directory_is_made_for_the_user(tmp_path: Path) -> None:
    user = AgentUser("nobody", NOBODY.pw_uid, NOBODY.pw_gid, ())
    for _ in range(2):
        make_directory(tmp_path / "state", user)
        status = (tmp_path / "state").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o700)
    with pytest.raises(NotPermitted, match="No such file or directory"):
        make_directory(tmp_path / "a" / "b", user)
