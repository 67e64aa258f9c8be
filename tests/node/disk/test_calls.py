"""The port of the file system: hooks see every call of the file module, with its absolute path."""

import ast
import inspect
from pathlib import Path

from node.disk import calls, files
from node.disk.lock import StateLock


def test_hooks_see_each_call_with_its_path(tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    with calls.hooked(lambda call, path: seen.add((call, path))):
        files.ensure_private_dir(tmp_path / "dir")
        files.write_atomic(tmp_path / "dir/file", b"x")
        files.read_bounded(tmp_path / "dir/file")
        files.list_directory(tmp_path / "dir")
        files.rename_file(tmp_path / "dir/file", "other")
        (tmp_path / "dir").chmod(0o777)
        files.exists(tmp_path / "dir/other")
        with StateLock(tmp_path / "dir"):
            files.remove_directory(tmp_path / "dir")
    expected = {
        ("mkdir", "dir"),
        ("open", "dir/.file.tmp"),
        ("write", "dir/.file.tmp"),
        ("fsync", "dir/.file.tmp"),
        ("rename", "dir/.file.tmp"),
        ("fsync", "dir"),
        ("read", "dir/file"),
        ("listdir", "dir"),
        ("lstat", "dir/other"),
        ("fchmod", "dir"),
        ("flock", "dir/lock"),
        ("unlink", "dir/other"),
        ("rmdir", "dir"),
    }
    assert {(call, str(tmp_path / name)) for call, name in expected} <= seen
    assert {call for call, _ in seen} <= set(calls.CALLS)
    before = len(seen)
    files.ensure_private_dir(tmp_path / "after")
    assert len(seen) == before


def test_the_list_of_calls_is_complete() -> None:
    tree = ast.parse(inspect.getsource(calls))
    names = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_enter", "_enter_open")
        if isinstance(node.args[0], ast.Constant)
    }
    assert names == set(calls.CALLS)
    assert len(calls.CALLS) == len(set(calls.CALLS))
