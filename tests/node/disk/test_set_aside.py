"""What a recovery sets aside stays complete, and a repeat is harmless."""

from pathlib import Path

from node.disk.set_aside import set_aside


def test_keys_and_floor_records_are_copied(tmp_path: Path) -> None:
    identity = tmp_path / "identity" / "g-2"
    identity.mkdir(parents=True)
    (tmp_path / "licence").mkdir()
    files = {identity / "node.priv": b"key", identity / "identity.json": b"{}"}
    files |= {tmp_path / "licence" / "floors.json": b"one", tmp_path / "identity" / "floors.json": b"two"}
    for path, content in files.items():
        path.write_bytes(content)
    for _ in range(2):
        kept = set_aside(tmp_path, 2)
        assert kept == tmp_path / "set-aside" / "g-2"
        assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
            "node.priv": b"key",
            "identity.json": b"{}",
            "floors.json": b"one",
            "floors-copy.json": b"two",
        }
        assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    assert all(path.read_bytes() == content for path, content in files.items())


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    identity = tmp_path / "identity" / "g-1"
    identity.mkdir(parents=True)
    (identity / "node.pub").symlink_to(tmp_path / "elsewhere")
    (identity / "node.priv").write_bytes(b"key")
    assert [path.name for path in set_aside(tmp_path, 1).iterdir()] == ["node.priv"]
    assert not list(set_aside(tmp_path, 7).iterdir())
