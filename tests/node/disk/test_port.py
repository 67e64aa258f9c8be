"""Only the port makes file-system calls on the state: a walk through the source of the agent."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PORT = "node/disk/calls.py"

HARMLESS = frozenset(
    {
        *("environ", "fsencode", "fspath", "getpid", "geteuid", "stat_result", "strerror"),
        *("O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "devnull"),
        *("MFD_CLOEXEC",),
    }
)
"""The names of `os` that make no file-system call."""
FORBIDDEN_MODULES = frozenset({"fcntl", "glob", "shutil", "tempfile"})
PATH_CALLS = frozenset(
    {
        *("absolute", "chmod", "exists", "expanduser", "glob", "group", "hardlink_to", "is_dir", "is_file", "is_mount"),
        *("is_socket", "is_symlink", "iterdir", "lchmod", "lstat", "mkdir", "open", "owner", "read_bytes", "read_text"),
        *("readlink", "rename", "resolve", "rglob", "rmdir", "samefile", "stat", "symlink_to", "touch", "unlink"),
        *("write_bytes", "write_text"),
    }
)
"""The methods of Path that make file-system calls. `replace` is left out: strings and structs have one too."""

ELSEWHERE: dict[str, tuple[set[str], str]] = {
    "node/config.py": (set(), "the settings file, before there is a state"),
    "node/cli/carried.py": (set(), "the files that a person carries to a machine without a network"),
    "node/cli/show.py": ({"os.open", "os.dup2", "os.close"}, "standard output, after the reader of a pipe has gone"),
    "node/hwbind/link.py": ({"os.open", "os.close", "os.read", "os.write", "DeviceLink.open"}, "the TPM's device"),
    "node/link/transport.py": ({"os.memfd_create", "os.fdopen", "os.close"}, "a session key in memory, for `ssl`"),
    "node/local/place.py": (set(), "the socket and its directory in /run"),
    "node/gating/gate.py": (set(), "the file of a grant in /run, in the process of the gate"),
    "node/local/grants.py": (set(), "the files of the grants in /run"),
    "node/cli/starting.py": (set(), "the unit files of systemd"),
    "node/cli/user.py": (set(), "whether this user may use the state directory, which is then opened through the port"),
    "node/hwbind/dmi.py": (set(), "serial numbers of the board, in /sys and in credentials"),
    "node/system/listening.py": ({"os.set_inheritable"}, "the sockets that systemd has passed"),
    "node/system/privileges.py": (set(), "the owner of the state directory, and its making by root for another user"),
    "node/hwbind/fingerprint.py": (set(), "the hardware as /sys and /proc show it"),
    "node/hwbind/system_disks.py": (set(), "the same"),
    "node/system/journal.py": ({"os.fstat"}, "whether standard error leads to the journal"),
    "node/system/logs.py": ({"os.write"}, "standard error"),
}
"""The modules that make file-system calls on something else than the state: the calls, and what they are made on. An
empty set allows every call."""


def _calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                module = node.module if isinstance(node, ast.ImportFrom) else ""
                for alias in names:
                    name = module or alias.name
                    if name.partition(".")[0] in FORBIDDEN_MODULES:
                        yield node.lineno, name
                    elif name == "os" and isinstance(node, ast.ImportFrom):
                        yield node.lineno, f"from os import {alias.name}"
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name not in HARMLESS and name != "path":
                yield node.lineno, f"os.{name}"
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="os"), attr="path"), attr=name) if name != "join":
                yield node.lineno, f"os.path.{name}"
            case ast.Call(func=ast.Name(id="open")):
                yield node.lineno, "open"
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in PATH_CALLS:
                owner = ast.unparse(value)
                if owner not in ("os", "calls"):
                    yield node.lineno, f"{owner}.{name}" if name == "open" and owner[:1].isupper() else name


def found(source: str) -> list[str]:
    return [call for _, call in _calls(ast.parse(source))]


@pytest.mark.parametrize(
    "source",
    [
        "import shutil",
        "from shutil import rmtree",
        "import os.path, tempfile",
        "from os import stat",
        "os.stat(x)",
        "os.path.exists(x)",
        "open(x)",
        "path.parent.exists()",
        "(a / b).read_bytes()",
        "with path.open() as file: pass",
        "entries = list(home.iterdir())",
    ],
)
def test_a_call_is_found(source: str) -> None:
    assert found(source)


def test_harmless_names_are_not_found() -> None:
    assert not found("os.environ; os.path.join(a, b); text.replace(a, b); calls.lstat(path); path.parent.name")


def test_only_the_port_makes_file_system_calls_on_the_state() -> None:
    wrong: list[str] = []
    used: set[tuple[str, str]] = set()
    for path in sorted((ROOT / "node").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name == PORT:
            continue
        allowed, _ = ELSEWHERE.get(name, (None, ""))
        for line, call in _calls(ast.parse(path.read_bytes())):
            used.add((name, call))
            if allowed is None or (allowed and call not in allowed):
                wrong.append(f"{name}:{line}: {call}")
    assert not wrong, f"make these calls through node/disk/files.py, or add an exception with its reason: {wrong}"
    unused = [
        f"{name}: {call}"
        for name, (calls, _) in ELSEWHERE.items()
        for call in (calls or {""})
        if not any(where == name and call in ("", what) for where, what in used)
    ]
    assert not unused, f"remove these exceptions, because the code has no such call: {unused}"
