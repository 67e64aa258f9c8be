"""The user of a command: a real process of root becomes another user, and others learn what to do."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.user import become_agent_user, becomes_agent_user, check_permitted
from node.config import Config
from node.system.privileges import NotPermitted

NOBODY = pwd.getpwnam("nobody")

_DROP = """
import os, sys
from pathlib import Path
import node.local.documents, node.state  # other users may not read the checkout
from node.cli.carried import _opened_by_root, hand_out
from node.cli.user import become_agent_user
from node.config import Config
from node.disk.credentials import hierarchy_passwords
from node.state import State
from node.system.hardening import no_core_dumps
from tests.node.cli.test_carried import FILE
folder = Path(sys.argv[1])
config = Config(state_dir=folder / "state", tpm_owner_auth=folder / "secret")
opened = _opened_by_root(config, folder / "root" / "out")
become_agent_user(config)
become_agent_user(config)
no_core_dumps()
assert os.getresuid() == os.getresgid() == (65534,) * 3, os.getresuid()
assert 0 not in os.getgroups()
assert not os.access(folder / "root", os.R_OK | os.X_OK)
assert hierarchy_passwords(folder / "secret", None)()["owner"].value == b"hidden"
with State(config.state_dir).owned():
    hand_out(FILE, "file", folder / "root" / "out", opened)
for change in (os.setuid, os.seteuid, os.setgid):
    try:
        change(0)
    except PermissionError:
        continue
    raise SystemExit("root again")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter. Those of pytest are of root alone."""
    assert os.geteuid() == 0, "this test gives up the rights of root: run it as root"
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_process_of_root_becomes_the_agents_user_and_stays_it(folder: Path) -> None:
    (folder / "state").mkdir(0o700)
    os.chown(folder / "state", NOBODY.pw_uid, NOBODY.pw_gid)
    (folder / "root").mkdir(0o700)
    (folder / "root" / "out").write_text("an older request " * 1000)
    (folder / "secret").touch(0o600)
    (folder / "secret").write_text("hidden\n")
    done = subprocess.run([sys.executable, "-c", _DROP, folder], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    made = {path.name: path.stat().st_uid for path in (folder / "state").iterdir()}
    assert made == {"lock": NOBODY.pw_uid, "version": NOBODY.pw_uid}
    out = (folder / "root" / "out").stat()
    assert (out.st_uid, out.st_mode & 0o777) == (0, 0o600)
    assert b"older" not in (folder / "root" / "out").read_bytes()


def test_root_that_owns_the_state_stays_root(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path)
    become_agent_user(config, creates=True)
    assert (os.geteuid(), becomes_agent_user(config)) == (0, False)
    check_permitted(config)


@pytest.mark.parametrize(
    ("state", "creates", "text"),
    [("state", False, "only root and its owner may"), ("missing/state", True, "cannot make the state directory")],
)
def test_another_user_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, creates: bool, text: str
) -> None:
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(NotPermitted, match=text) as caught:
        check_permitted(Config(state_dir=tmp_path / state), creates=creates)
    assert caught.value.next == "Run the command as root."
    check_permitted(Config(state_dir=tmp_path / "missing"))  # the machine is not activated, and the command says so
